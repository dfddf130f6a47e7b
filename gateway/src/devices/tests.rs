//! Devices and imports from them over real HTTP: a media server on loopback that misbehaves as devices do (F2).

use super::*;
use crate::library::tests::{Home, noise, wait_until};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mantel_peripherals::Part;
use mantel_peripherals::upnp::wire::{Service, ServiceKind};
use mantel_peripherals::upnp::{RendererAccess, ServerAccess};
use mantel_peripherals::url::DeviceUrl;
use std::fmt::Write as _;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::TcpListener;

/// A file of the peer.
#[derive(Clone)]
struct Served {
    name: &'static str,
    bytes: Bytes,
    /// Each answer ends after so many bytes, though it promised more.
    cut_after: Option<usize>,
    /// Whether ranges are understood.
    ranges: bool,
}

/// A device on loopback: a media server and a renderer.
pub(crate) struct Peer {
    files: Mutex<Vec<Served>>,
    fetches: AtomicU32,
    /// What the renderer reports: state, position, URL; `None`: it answers nothing.
    pub(crate) transport: Mutex<Option<(&'static str, &'static str, String)>>,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Peer {
    pub(crate) async fn start(home: &Home) -> (Arc<Self>, Device) {
        let peer = Arc::new(Self {
            files: Mutex::default(),
            fetches: AtomicU32::new(0),
            transport: Mutex::new(Some(("STOPPED", "0:00:00", String::new()))),
            asked: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let router = axum::Router::new()
            .route("/cd", post(browse))
            .route("/avt", post(transport))
            .route("/file/{name}", get(file))
            .with_state((Arc::clone(&peer), port));
        mantel_runtime::http::serve(listener, router, &home.tasks);
        (peer, device(port))
    }

    fn serve(&self, name: &'static str, bytes: &[u8], cut_after: Option<usize>, ranges: bool) {
        let bytes = Bytes::copy_from_slice(bytes);
        self.files.lock().expect("unpoisoned").push(Served {
            name,
            bytes,
            cut_after,
            ranges,
        });
    }
}

fn device(port: u16) -> Device {
    let address: IpAddr = [127, 0, 0, 1].into();
    let url = |path: &str| {
        DeviceUrl::parse(&format!("http://127.0.0.1:{port}/{path}"), address).expect("its own")
    };
    let service = |kind, name: &str, path: &str| Service {
        kind,
        service_type: format!("urn:schemas-upnp-org:service:{name}:1"),
        control: url(path),
        scpd: None,
        events: None,
    };
    let server = ServerAccess {
        content_directory: service(ServiceKind::ContentDirectory, "ContentDirectory", "cd"),
        all_in: None,
    };
    let renderer = RendererAccess {
        address,
        av_transport: service(ServiceKind::AvTransport, "AVTransport", "avt"),
        rendering_control: None,
        volume_max: 100,
        formats: Vec::new(),
    };
    let access = mantel_peripherals::Access::UpnpBoth(server, renderer);
    let key = |text: &str| DeviceKey::new(text).expect("a key");
    Device {
        id: key("uuid:one"),
        aliases: [key("uuid:one"), key("mdns:one")].into(),
        name: "Camcorder".into(),
        class: DeviceClass::Camcorder,
        maker: None,
        model: None,
        addresses: vec![address],
        mac: None,
        serial: None,
        capabilities: access.capabilities(),
        state: DeviceState::Online,
        first_seen: Timestamp::UNIX_EPOCH,
        last_seen: Timestamp::UNIX_EPOCH,
        problem: None,
        parts: vec![Part {
            key: key("uuid:one"),
            name: "Camcorder".into(),
            class: DeviceClass::Camcorder,
            state: DeviceState::Online,
            access,
        }],
    }
}

type At = State<(Arc<Peer>, u16)>;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn soap(action: &str, service: &str, arguments: &str) -> Response {
    let text = format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><u:{action}Response \
         xmlns:u=\"urn:schemas-upnp-org:service:{service}:1\">{arguments}</u:{action}Response></s:Body></s:Envelope>"
    );
    ([(header::CONTENT_TYPE, "text/xml")], text).into_response()
}

async fn browse(State((peer, port)): At, body: String) -> Response {
    let one = body
        .split("<ObjectID>")
        .nth(1)
        .and_then(|rest| rest.split('<').next())
        .unwrap_or_default()
        .to_owned();
    let mut items = String::new();
    let mut count = 0;
    for served in peer
        .files
        .lock()
        .expect("unpoisoned")
        .iter()
        .filter(|f| one == "0" || f.name == one)
    {
        count += 1;
        write!(
            items,
            "<item id=\"{0}\" parentID=\"0\"><dc:title>{0}</dc:title><upnp:class>object.item.videoItem</upnp:class>\
             <res protocolInfo=\"http-get:*:video/mp4:*\" size=\"{1}\">http://127.0.0.1:{port}/file/{0}</res></item>",
            served.name,
            served.bytes.len()
        )
        .expect("a String takes all");
    }
    let didl = format!(
        "<DIDL-Lite xmlns=\"urn:schemas-upnp-org:metadata-1-0/DIDL-Lite/\" xmlns:dc=\"http://purl.org/dc/elements/1.1/\" \
         xmlns:upnp=\"urn:schemas-upnp-org:metadata-1-0/upnp/\">{items}</DIDL-Lite>"
    );
    let arguments = format!(
        "<Result>{}</Result><NumberReturned>{count}</NumberReturned><TotalMatches>{count}</TotalMatches><UpdateID>1</UpdateID>",
        escape(&didl)
    );
    soap("Browse", "ContentDirectory", &arguments)
}

async fn transport(State((peer, _)): At, headers: HeaderMap, body: String) -> Response {
    let action = headers
        .get("soapaction")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let action = action
        .trim_matches('"')
        .rsplit('#')
        .next()
        .unwrap_or_default()
        .to_owned();
    peer.asked.lock().expect("unpoisoned").push(action.clone());
    let mut now = peer.transport.lock().expect("unpoisoned");
    let Some((state, position, url)) = now.as_mut() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    match action.as_str() {
        "SetAVTransportURI" => {
            let uri = body
                .split("<CurrentURI>")
                .nth(1)
                .and_then(|rest| rest.split('<').next());
            *url = uri.unwrap_or_default().to_owned();
        }
        "Play" => *state = "PLAYING",
        "Pause" => *state = "PAUSED_PLAYBACK",
        "Stop" => *state = "STOPPED",
        _ => {}
    }
    let arguments = match action.as_str() {
        "GetTransportInfo" => format!(
            "<CurrentTransportState>{state}</CurrentTransportState><CurrentTransportStatus>OK</CurrentTransportStatus>\
             <CurrentSpeed>1</CurrentSpeed>"
        ),
        "GetPositionInfo" => format!(
            "<Track>1</Track><TrackDuration>0:01:00</TrackDuration><TrackURI>{}</TrackURI><RelTime>{position}</RelTime>",
            escape(url)
        ),
        _ => String::new(),
    };
    soap(&action, "AVTransport", &arguments)
}

async fn file(State((peer, _)): At, Path(name): Path<String>, headers: HeaderMap) -> Response {
    peer.fetches.fetch_add(1, Ordering::SeqCst);
    let found = peer
        .files
        .lock()
        .expect("unpoisoned")
        .iter()
        .find(|f| f.name == name)
        .cloned();
    let Some(served) = found else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers
        .get(header::RANGE)
        .and_then(|v| v.to_str().ok())
        .filter(|_| served.ranges);
    let from: usize = range
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let size = served.bytes.len();
    let send = served
        .bytes
        .slice(from..served.cut_after.map_or(size, |cut| size.min(from + cut)));
    let short = from + send.len() < size;
    let sent = stream::iter(vec![Ok(send)]);
    let pulled = stream::once(async {
        // What was sent is written out before the connection goes.
        tokio::task::yield_now().await;
        Err(io::Error::other("the cable was pulled"))
    });
    let pieces = sent.chain(pulled.take(usize::from(short)));
    let status = if from > 0 {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let mut answer = (status, Body::from_stream(pieces)).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, (size - from).into());
    headers.insert(header::ETAG, "\"1\"".parse().expect("a header"));
    if from > 0 {
        let range = format!("bytes {from}-{}/{size}", size - 1);
        headers.insert(header::CONTENT_RANGE, range.parse().expect("a header"));
    }
    answer
}

/// A house with one device.
pub(crate) async fn house(home: &Home, device: Device) -> (Devices, watch::Sender<Snapshot>) {
    let (publish, seen) = watch::channel(Arc::new(vec![device]));
    let devices = Devices::follow(
        seen,
        None,
        std::env::temp_dir().join("no-mount-service"),
        home.db.clone(),
        home.library.clone(),
        Clock::real(),
        &home.tasks,
    )
    .await;
    (devices.expect("started"), publish)
}

async fn plaintext(home: &Home, id: TitleId) -> Bytes {
    let title = home
        .library
        .title(id)
        .await
        .expect("readable")
        .expect("there");
    let blob = title.assets[0].blob;
    let key = home
        .library
        .own_key(id, blob)
        .await
        .expect("readable")
        .expect("stored");
    let plain = home
        .library
        .plaintext(blob, key)
        .await
        .expect("opens")
        .expect("complete");
    plain
        .read_at(0, plain.plain_bytes() as usize)
        .await
        .expect("readable")
}

#[tokio::test]
async fn decisions_survive_a_restart_and_another_key() {
    let home = Home::new().await;
    let (_, seen) = Peer::start(&home).await;
    let (devices, publish) = house(&home, seen.clone()).await;
    assert_eq!(devices.snapshot().borrow()[0].standing, DeviceStanding::New);
    devices
        .rename("uuid:one", "  Mum's\ncamcorder ")
        .await
        .expect("renamed");
    devices
        .admit("mdns:one")
        .await
        .expect("admitted by another key");
    let row = devices.snapshot().borrow()[0].clone();
    assert_eq!(
        (row.name.as_str(), row.standing),
        ("Mum's camcorder", DeviceStanding::Admitted)
    );
    // Another of its keys answers first, and a problem shows.
    let renamed = Device {
        id: DeviceKey::new("mdns:one").expect("a key"),
        problem: Some("It sends nonsense.".into()),
        ..seen
    };
    publish.send_replace(Arc::new(vec![renamed.clone()]));
    let mut rows = devices.snapshot();
    let row = rows
        .wait_for(|rows| rows[0].id == "mdns:one")
        .await
        .expect("published")[0]
        .clone();
    assert_eq!(
        (row.name.as_str(), row.problem.as_deref()),
        ("Mum's camcorder", Some("It sends nonsense."))
    );
    let (again, _publish) = house(&home, renamed).await;
    again.ignore("uuid:one").await.expect("ignored");
    assert!(matches!(
        again.browse("uuid:one", Looked::Top, 0).await,
        Err(DevicesError::Ignored { .. })
    ));
    assert!(again.renderer("uuid:one").is_none());
    assert!(matches!(
        again.admit("uuid:two").await,
        Err(DevicesError::NoSuchDevice)
    ));
}

#[tokio::test]
async fn decisions_are_taken_back_one_by_one() {
    let home = Home::new().await;
    let (_, seen) = Peer::start(&home).await;
    let (devices, _publish) = house(&home, seen.clone()).await;
    assert!(devices.last_decision().is_none());
    assert!(matches!(
        devices.undo().await,
        Err(DevicesError::NothingToUndo)
    ));
    devices.admit("uuid:one").await.expect("admitted");
    devices.admit("uuid:one").await.expect("again: no decision");
    devices.rename("uuid:one", "Den").await.expect("renamed");
    devices
        .set_class("mdns:one", Some(DeviceClass::Television))
        .await
        .expect("corrected");
    devices.ignore("uuid:one").await.expect("ignored");
    let row = |devices: &Devices| devices.snapshot().borrow()[0].clone();
    let last = devices.last_decision().expect("there is one");
    assert_eq!((last.name.as_str(), last.what.as_str()), ("Den", "ignored"));
    assert_eq!(devices.undo().await.expect("undone"), "Den");
    assert_eq!(row(&devices).standing, DeviceStanding::Admitted);
    assert_eq!(row(&devices).class, DeviceClass::Television);
    // It survives a restart.
    let (devices, _publish) = house(&home, seen).await;
    devices.undo().await.expect("undone");
    assert_eq!(row(&devices).class, DeviceClass::Camcorder);
    devices.undo().await.expect("undone");
    assert_eq!(row(&devices).name, "Camcorder");
    devices.undo().await.expect("undone");
    assert_eq!(row(&devices).standing, DeviceStanding::New);
    assert!(devices.last_decision().is_none());
}

#[tokio::test]
async fn a_device_that_is_away_keeps_its_row_and_is_known_when_all_its_names_changed() {
    let home = Home::new().await;
    let (_, seen) = Peer::start(&home).await;
    let seen = Device {
        maker: Some("Maker".into()),
        serial: Some("XK-77310".into()),
        mac: Some(MacAddress([2, 0, 0, 0, 0, 7])),
        ..seen
    };
    let (devices, publish) = house(&home, seen.clone()).await;
    devices.rename("uuid:one", "Den").await.expect("renamed");
    devices.admit("uuid:one").await.expect("admitted");
    let remembered = || async {
        let all = home
            .db
            .read(|db| Ok::<_, DbError>(store::everything(db)?))
            .await;
        !all.expect("readable").memory.is_empty()
    };
    while !remembered().await {
        tokio::task::yield_now().await;
    }
    publish.send_replace(Arc::default());
    let mut rows = devices.snapshot();
    let away = |rows: &Arc<Vec<DeviceRow>>| rows.len() == 1 && rows[0].state == DeviceState::Gone;
    rows.wait_for(away).await.expect("published");
    // After a restart it is still away, and decisions about it are taken.
    let (publish, nothing) = watch::channel(Snapshot::default());
    let devices = Devices::follow(
        nothing,
        None,
        std::env::temp_dir().join("no-mount-service"),
        home.db.clone(),
        home.library.clone(),
        Clock::real(),
        &home.tasks,
    )
    .await
    .expect("started");
    let row = devices.snapshot().borrow()[0].clone();
    assert_eq!((row.name.as_str(), row.state), ("Den", DeviceState::Gone));
    assert_eq!(
        (row.standing, row.class),
        (DeviceStanding::Admitted, DeviceClass::Camcorder)
    );
    devices.rename("uuid:one", "Attic").await.expect("renamed");
    // It was reset: new names, the same serial number.
    let key = DeviceKey::new("uuid:new").expect("a key");
    let back = Device {
        id: key.clone(),
        aliases: [key].into(),
        mac: None,
        ..seen.clone()
    };
    publish.send_replace(Arc::new(vec![back.clone()]));
    let mut rows = devices.snapshot();
    let here = |rows: &Arc<Vec<DeviceRow>>| rows.len() == 1 && rows[0].state == DeviceState::Online;
    let row = rows.wait_for(here).await.expect("published")[0].clone();
    assert_eq!(
        (row.name.as_str(), row.standing),
        ("Attic", DeviceStanding::Admitted)
    );
    // A serial number that two devices show names neither.
    let key = DeviceKey::new("uuid:copy").expect("a key");
    let copy = Device {
        id: key.clone(),
        aliases: [key].into(),
        ..back.clone()
    };
    let rows = rows::join(&[copy.clone(), copy], &Stored::default());
    assert!(rows.iter().all(|row| row.keys.marks.is_empty()));
}

#[tokio::test]
async fn a_fetch_that_breaks_off_goes_on_where_it_was() {
    let home = Home::new().await;
    let (peer, seen) = Peer::start(&home).await;
    let (devices, _publish) = house(&home, seen).await;
    let bytes = noise(1_000_000, 1);
    peer.serve("shaky", &bytes, Some(300_000), true);
    let id = devices
        .import_one("uuid:one", "shaky")
        .await
        .expect("imported");
    assert!(plaintext(&home, id).await == bytes);
    let fetches = peer.fetches.load(Ordering::SeqCst);
    assert!(fetches >= 4, "{fetches} fetches");
    assert_eq!(
        devices.snapshot().borrow()[0].standing,
        DeviceStanding::Admitted
    );
    assert_eq!(
        devices
            .import_one("uuid:one", "shaky")
            .await
            .expect("known"),
        id
    );
    assert_eq!(
        peer.fetches.load(Ordering::SeqCst),
        fetches,
        "nothing was fetched again"
    );
    let listing = devices
        .browse("uuid:one", Looked::Top, 0)
        .await
        .expect("listed");
    assert!(listing.page.entries.len() == 1 && listing.imported.contains("shaky"));
}

#[tokio::test]
async fn a_device_that_cannot_resume_is_given_up_in_words() {
    let home = Home::new().await;
    let (peer, seen) = Peer::start(&home).await;
    let (devices, _publish) = house(&home, seen).await;
    // Each answer begins anew and breaks at the same place: nothing is gained.
    peer.serve("stubborn", &noise(500_000, 2), Some(200_000), false);
    let error = devices
        .import_one("uuid:one", "stubborn")
        .await
        .expect_err("given up");
    assert!(
        error
            .to_string()
            .contains("Camcorder stopped sending. Nothing of it was kept"),
        "{error}"
    );
    assert!(home.library.list().await.expect("readable").is_empty());
    assert!(matches!(
        devices.import_one("uuid:one", "nothing").await,
        Err(DevicesError::List(_))
    ));
}

#[tokio::test]
async fn everything_on_a_device_is_imported_once_and_can_be_stopped() {
    let home = Home::new().await;
    let (peer, seen) = Peer::start(&home).await;
    let (devices, _publish) = house(&home, seen).await;
    peer.serve("a", &noise(100_000, 1), None, true);
    peer.serve("b", &noise(100_000, 2), Some(10), false);
    peer.serve("c", &noise(100_000, 3), None, true);
    let mut rows = devices.imports();
    for (imported, already_here) in [(2, 0), (0, 2)] {
        devices.import_all("uuid:one").await.expect("begun");
        let over =
            |rows: &Arc<Vec<DeviceImport>>| rows.iter().any(|r| r.state == DeviceImportState::Done);
        let row = rows.wait_for(over).await.expect("published")[0].clone();
        assert_eq!(
            (row.found, row.imported, row.already_here, row.failed),
            (3, imported, already_here, 1)
        );
        assert!(row.problem.expect("told").contains("stopped sending"));
    }
    devices.import_all("uuid:one").await.expect("begun");
    assert!(matches!(
        devices.import_all("uuid:one").await,
        Err(DevicesError::UnderWay { .. })
    ));
    devices.cancel_import("mdns:one");
    let stopped = |rows: &Arc<Vec<DeviceImport>>| rows[0].state == DeviceImportState::Stopped;
    rows.wait_for(stopped).await.expect("published");
    wait_until(|| {
        home.library
            .imports()
            .borrow()
            .iter()
            .all(|row| row.phase.is_over())
    })
    .await;
    assert_eq!(home.library.list().await.expect("readable").len(), 2);
}
