//! Hostile devices over loopback: each does one thing that a broken or malicious device does, and the test shows what
//! the household sees. The servers write raw bytes, since no decent library sends such answers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::MediaSource;
use crate::http::{HttpError, MAX_ANSWER_HEADERS};
use crate::media::{
    FetchError, FetchRequest, ListError, Location, ObjectId, PageRequest, Resource, WalkLimits,
};
use crate::upnp::wire::{Service, ServiceKind};
use crate::upnp::{DescribeError, MediaServer, ServerAccess, describe};
use crate::url::DeviceUrl;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const GIB: u64 = 1024 * 1024 * 1024;

/// What a server does once it has read a request.
#[derive(Clone)]
enum Reply {
    /// Writes these bytes and closes.
    Bytes(Vec<u8>),
    /// Writes the first, then the second over and over until 1 GiB or until nobody listens.
    Endless(Vec<u8>, Vec<u8>),
    /// Writes the first, then a byte per second for ever.
    Trickle(Vec<u8>),
}

fn ok(body: &str) -> Reply {
    Reply::Bytes(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
}

fn raw(text: &str) -> Reply {
    Reply::Bytes(text.as_bytes().to_vec())
}

/// A device under test: ends when dropped.
struct Hostile {
    port: u16,
    sent: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Hostile {
    /// Serves `answer`, which sees each whole request.
    async fn start(answer: impl Fn(&str) -> Reply + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let (sent, requests) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, seen) = (Arc::clone(&sent), Arc::clone(&requests));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::SeqCst);
                connections.spawn(converse(stream, answer.clone(), Arc::clone(&count)));
            }
        });
        Self {
            port,
            sent,
            requests,
            _tasks: tasks,
        }
    }

    async fn with(reply: Reply) -> Self {
        Self::start(move |_| reply.clone()).await
    }

    fn url(&self, path: &str) -> DeviceUrl {
        DeviceUrl::parse(&format!("http://127.0.0.1:{}{path}", self.port), LOOPBACK).expect("own")
    }

    fn media_server(&self) -> MediaServer {
        let service = Service {
            kind: ServiceKind::ContentDirectory,
            service_type: "urn:schemas-upnp-org:service:ContentDirectory:1".to_owned(),
            control: self.url("/ctl"),
            scpd: None,
            events: None,
        };
        MediaServer::new(
            "Box".to_owned(),
            ServerAccess {
                content_directory: service,
                all_in: None,
            },
        )
    }

    fn resource(&self, size_bytes: Option<u64>) -> Resource {
        Resource {
            location: Location::Url(self.url("/film.mp4")),
            mime: "video/mp4".to_owned(),
            protocol_info: "http-get:*:video/mp4:*".to_owned(),
            size_bytes,
            duration: None,
            resolution: None,
            converted: false,
        }
    }
}

async fn converse(mut stream: TcpStream, answer: impl Fn(&str) -> Reply, sent: Arc<AtomicU64>) {
    let request = read_request(&mut stream).await;
    match answer(&request) {
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            // Reading to the end lets the other side see our bytes before a reset could discard them.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        Reply::Endless(head, piece) => {
            let _ = stream.write_all(&head).await;
            while sent.load(Ordering::SeqCst) < GIB && stream.write_all(&piece).await.is_ok() {
                sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
        }
        Reply::Trickle(head) => {
            let _ = stream.write_all(&head).await;
            while stream.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Head and body of a request, as far as Content-Length says.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        text.extend_from_slice(&buffer[..read]);
        let request = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = request.split_once("\r\n\r\n") else {
            if read == 0 {
                return request;
            }
            continue;
        };
        let length = head.lines().find_map(|line| {
            line.to_lowercase()
                .strip_prefix("content-length:")?
                .trim()
                .parse()
                .ok()
        });
        if read == 0 || body.len() >= length.unwrap_or(0) {
            return request;
        }
    }
}

async fn description_error(reply: Reply) -> (DescribeError, Hostile) {
    let device = Hostile::with(reply).await;
    let error = describe(&device.url("/d.xml"))
        .await
        .expect_err("it is hostile");
    (error, device)
}

#[tokio::test]
async fn a_chunked_gigabyte_is_cut_off_at_the_limit() {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend(vec![b'a'; 0x1_0000]);
    chunk.extend(b"\r\n");
    let (error, device) = description_error(Reply::Endless(head, chunk)).await;
    assert!(
        matches!(error, DescribeError::Fetch(HttpError::TooLarge { .. })),
        "{error:?}"
    );
    assert_eq!(
        error.problem("10.0.0.7".parse().expect("an address")),
        "The device at 10.0.0.7 sent a description larger than 1 MiB; it was ignored. Restart it or update it."
    );
    let sent = device.sent.load(Ordering::SeqCst);
    assert!(sent < 64 * 1024 * 1024, "{sent} bytes left the device");
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_limited_too() {
    let head = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
    let (error, _device) = description_error(Reply::Endless(head, vec![b'a'; 0x1_0000])).await;
    assert!(
        matches!(error, DescribeError::Fetch(HttpError::TooLarge { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_declared_gigabyte_is_not_read_at_all() {
    let reply = Reply::Trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n".to_vec());
    let (error, _device) = description_error(reply).await;
    assert!(
        matches!(error, DescribeError::Fetch(HttpError::TooLarge { .. })),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_loris_runs_into_the_total_time() {
    for head in [
        "HTTP/1.1 200 OK\r\nX: ",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        "",
    ] {
        let (error, _device) = description_error(Reply::Trickle(head.as_bytes().to_vec())).await;
        let slow = matches!(error, DescribeError::Fetch(HttpError::TimedOut(_)));
        // Without a status line the first trickled byte already is no HTTP.
        assert!(slow || head.is_empty(), "{head:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Hostile::with(ok("<root/>")).await;
    for status in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"] {
        let target = other.url("/elsewhere");
        let reply = format!("HTTP/1.1 {status}\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
        let (error, _device) = description_error(raw(&reply)).await;
        assert!(
            matches!(error, DescribeError::Fetch(HttpError::Redirect)),
            "{error:?}"
        );
    }
    assert_eq!(other.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn unusable_descriptions_are_refused_in_plain_words() {
    let deep = format!("<root>{}</root>", "<a>".repeat(100_000));
    let bomb = "<!DOCTYPE r [<!ENTITY a \"aaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><r>&b;</r>";
    for (body, words) in [
        ("<root><device>", "not well-formed"),
        ("not xml", "not well-formed"),
        ("", "not well-formed"),
        (bomb, "not well-formed"),
        (deep.as_str(), "too complicated"),
        ("<root/>", "without a device"),
        ("<root><device/></root>", "without a device"),
    ] {
        let (error, _device) = description_error(ok(body)).await;
        let problem = error.problem(LOOPBACK);
        assert!(problem.contains(words), "{problem}");
    }
}

#[tokio::test]
async fn answers_that_are_no_http_are_refused() {
    let headers = "X: y\r\n".repeat(MAX_ANSWER_HEADERS + 1);
    let large = format!("X: {}\r\n", "y".repeat(200_000));
    for text in [
        "SSH-2.0-OpenSSH_9\r\n".to_owned(),
        String::new(),
        format!("HTTP/1.1 200 OK\r\n{headers}\r\n"),
        format!("HTTP/1.1 200 OK\r\n{large}\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_owned(),
    ] {
        let (error, _device) = description_error(raw(&text)).await;
        assert!(
            matches!(error, DescribeError::Fetch(HttpError::Protocol(_))),
            "{error:?}"
        );
    }
    let (error, _device) =
        description_error(raw("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")).await;
    assert!(
        matches!(error, DescribeError::Fetch(HttpError::Status(404))),
        "{error:?}"
    );
}

/// The answer to Browse with `didl` in it.
fn browse_answer(didl: &str, total: u32) -> Reply {
    let didl = crate::xml::escape(&format!("<DIDL-Lite>{didl}</DIDL-Lite>"));
    ok(&format!(
        "<s:Envelope xmlns:s='e'><s:Body><u:BrowseResponse xmlns:u='c'><Result>{didl}</Result>\
         <NumberReturned>{total}</NumberReturned><TotalMatches>{total}</TotalMatches></u:BrowseResponse>\
         </s:Body></s:Envelope>"
    ))
}

#[tokio::test]
async fn cyclic_containers_are_walked_once_and_resources_elsewhere_left_out() {
    let device = Hostile::start(|_| {
        browse_answer(
            "<container id='0'/><container id='a'/><container id='b'/>\
             <item id='i'><res protocolInfo='http-get:*:video/mp4:*'>http://127.0.0.1/f</res>\
             <res protocolInfo='http-get:*:video/mp4:*'>http://10.0.0.1/admin</res></item>",
            4,
        )
    })
    .await;
    let mut walk = MediaSource::Upnp(device.media_server()).walk(WalkLimits::default());
    let mut items = Vec::new();
    while let Some(item) = walk.next().await.expect("it lists") {
        items.push(item);
    }
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].resources.len(), 1);
    let summary = walk.summary();
    assert_eq!(
        (summary.containers, summary.repeated, summary.refused),
        (3, 2, 3)
    );
    assert_eq!(device.requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_endless_listing_ends_at_the_limits() {
    let n = Arc::new(AtomicU64::new(0));
    let device = Hostile::start(move |_| {
        let n = n.fetch_add(1, Ordering::SeqCst);
        browse_answer(&format!("<container id='c{n}'/><item id='i{n}'><res protocolInfo='http-get:*:a/b:*'>http://127.0.0.1/{n}</res></item>"), u32::MAX)
    })
    .await;
    let mut walk = MediaSource::Upnp(device.media_server()).walk(WalkLimits {
        depth: 2,
        containers: 10,
        items: 20,
    });
    while walk.next().await.expect("it lists").is_some() {}
    assert!(walk.summary().cut);
    assert!(device.requests.load(Ordering::SeqCst) <= 13);
}

#[tokio::test]
async fn listing_faults_are_told_in_plain_words() {
    let fault = include_str!("../testdata/minidlna-fault-701.xml");
    let reply = format!(
        "HTTP/1.1 500 Internal\r\nContent-Length: {}\r\n\r\n{fault}",
        fault.len()
    );
    let device = Hostile::with(raw(&reply)).await;
    let root = ObjectId::root();
    let error = device
        .media_server()
        .list(&root, PageRequest::default())
        .await
        .expect_err("a fault");
    assert!(matches!(error, ListError::NotFound { .. }), "{error:?}");
    let device = Hostile::with(browse_answer("<unclosed>", 1)).await;
    let error = device
        .media_server()
        .list(&root, PageRequest::default())
        .await
        .expect_err("bad XML");
    assert!(matches!(error, ListError::BadAnswer { .. }), "{error:?}");
    let port = TcpListener::bind((LOOPBACK, 0))
        .await
        .expect("loopback")
        .local_addr()
        .expect("bound")
        .port();
    let closed = Hostile {
        port,
        ..Hostile::with(ok("")).await
    };
    let error = closed
        .media_server()
        .list(&root, PageRequest::default())
        .await
        .expect_err("closed");
    assert!(matches!(error, ListError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("does not answer"));
}

/// Fetches from a device that answers with `reply`; the bytes that came and how it ended.
async fn fetch(
    reply: Reply,
    size: Option<u64>,
    from: u64,
) -> (u64, Vec<u8>, Result<(), FetchError>) {
    let device = Hostile::with(reply).await;
    let request = FetchRequest {
        from,
        validator: None,
        max_bytes: 1000,
    };
    let mut fetched = match device
        .media_server()
        .fetch(&device.resource(size), request)
        .await
    {
        Ok(fetched) => fetched,
        Err(error) => return (0, Vec::new(), Err(error)),
    };
    let mut bytes = Vec::new();
    while let Some(chunk) = fetched.body.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => return (fetched.offset, bytes, Err(error)),
        }
    }
    (fetched.offset, bytes, Ok(()))
}

fn body(head: &str, body: &str) -> Reply {
    raw(&format!("HTTP/1.1 {head}\r\n\r\n{body}"))
}

#[tokio::test]
async fn an_honest_asset_comes_whole_or_from_the_byte_asked_for() {
    let (offset, bytes, end) = fetch(ok("0123456789"), Some(10), 0).await;
    assert!(end.is_ok(), "{end:?}");
    assert_eq!((offset, bytes.as_slice()), (0, &b"0123456789"[..]));
    let part = body(
        "206 Partial\r\nContent-Length: 4\r\nContent-Range: bytes 6-9/10",
        "6789",
    );
    let (offset, bytes, end) = fetch(part, Some(10), 6).await;
    assert!(end.is_ok(), "{end:?}");
    assert_eq!((offset, bytes.as_slice()), (6, &b"6789"[..]));
    // A device that ignores the range says so by status 200: the caller sees offset 0.
    let (offset, bytes, _) = fetch(ok("0123456789"), Some(10), 6).await;
    assert_eq!((offset, bytes.len()), (0, 10));
}

#[tokio::test]
async fn a_body_shorter_than_declared_is_an_interruption_to_resume_from() {
    let (_, bytes, end) = fetch(body("200 OK\r\nContent-Length: 10", "01234"), None, 0).await;
    assert_eq!(bytes, b"01234");
    let Err(FetchError::Interrupted { source, .. }) = end else {
        panic!("{end:?}")
    };
    assert!(
        matches!(
            source.downcast_ref(),
            Some(HttpError::Truncated {
                declared: 10,
                received: 5
            })
        ),
        "{source:?}"
    );
}

#[tokio::test]
async fn a_body_longer_than_declared_is_refused() {
    let (_, _, end) = fetch(body("200 OK\r\nContent-Length: 5", "0123456789"), None, 0).await;
    assert!(
        matches!(
            end,
            Err(FetchError::WrongSize {
                declared: 5,
                received: 6,
                ..
            })
        ),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_body_without_length_is_held_to_the_listed_size() {
    for (size, declared) in [(20, 20), (5, 5)] {
        let (_, _, end) = fetch(body("200 OK", "0123456789"), Some(size), 0).await;
        let Err(FetchError::WrongSize { declared: told, .. }) = end else {
            panic!("{end:?}")
        };
        assert_eq!(told, declared);
    }
    let (_, bytes, end) = fetch(body("200 OK", "0123456789"), Some(10), 0).await;
    assert!(end.is_ok() && bytes.len() == 10, "{end:?}");
}

#[tokio::test]
async fn assets_beyond_the_limit_and_off_the_device_are_refused() {
    let (_, _, end) = fetch(body("200 OK\r\nContent-Length: 1001", ""), None, 0).await;
    assert!(
        matches!(end, Err(FetchError::TooLarge { limit: 1000, .. })),
        "{end:?}"
    );
    let endless = Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![0; 400]);
    let (_, bytes, end) = fetch(endless, None, 0).await;
    assert!(bytes.len() <= 1000, "{}", bytes.len());
    assert!(matches!(end, Err(FetchError::TooLarge { .. })), "{end:?}");
    let moved = body(
        "302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0",
        "",
    );
    let (_, _, end) = fetch(moved, None, 0).await;
    assert!(matches!(end, Err(FetchError::Elsewhere { .. })), "{end:?}");
    let wrong = body(
        "206 Partial\r\nContent-Length: 4\r\nContent-Range: bytes 2-5/10",
        "2345",
    );
    let (_, _, end) = fetch(wrong, None, 6).await;
    assert!(
        matches!(end, Err(FetchError::Refused { status: 206, .. })),
        "{end:?}"
    );

    let device = Hostile::with(ok("")).await;
    let mut resource = device.resource(None);
    let other = "10.0.0.1".parse().expect("an address");
    let url = DeviceUrl::parse("http://10.0.0.1/admin", other).expect("its own");
    resource.location = Location::Url(url);
    let end = device
        .media_server()
        .fetch(&resource, FetchRequest::whole(1000))
        .await;
    assert!(matches!(end, Err(FetchError::Elsewhere { .. })), "{end:?}");
    assert_eq!(device.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn an_asset_that_trickles_counts_as_stalled() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n".to_vec();
    let (_, bytes, end) = fetch(Reply::Trickle(head), None, 0).await;
    let Err(FetchError::Interrupted { source, .. }) = end else {
        panic!("{end:?}")
    };
    assert!(
        matches!(source.downcast_ref(), Some(HttpError::Stalled)),
        "{source:?}"
    );
    assert!(!bytes.is_empty() && bytes.len() < 100, "{}", bytes.len());
}

mod over_multicast {
    //! Whole discovery against devices on the loopback interface.

    use super::*;
    use crate::device::{Device, DeviceState};
    use crate::discovery::{Discovery, DiscoveryConfig, Loopback, Mdns, Snapshot, SsdpConfig};
    use std::net::SocketAddrV4;
    use tokio::net::UdpSocket;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    /// A device that answers searches, and can speak by itself.
    struct Announcer {
        socket: UdpSocket,
        group: SocketAddrV4,
    }

    impl Announcer {
        async fn start() -> Self {
            let free = UdpSocket::bind((LOOPBACK, 0)).await.expect("loopback");
            let port = free.local_addr().expect("bound").port();
            let group = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), port);
            let socket = socket2::SockRef::from(&free);
            socket
                .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
                .expect("loopback can multicast");
            Self {
                socket: free,
                group,
            }
        }

        fn discovery(&self, cancel: &CancellationToken) -> (watch::Receiver<Snapshot>, Discovery) {
            let config = DiscoveryConfig {
                ssdp: SsdpConfig {
                    group: self.group,
                    loopback: Loopback::Searched,
                },
                mdns: Mdns::Off,
                hotplug: None,
                ..DiscoveryConfig::default()
            };
            Discovery::start(config, cancel.clone())
        }

        async fn say(&self, kind: &str, name: &str, location: &str) {
            let text = format!(
                "NOTIFY * HTTP/1.1\r\nHOST: {}\r\nNTS: ssdp:{kind}\r\nNT: upnp:rootdevice\r\n\
                 USN: uuid:{name}::upnp:rootdevice\r\nLOCATION: {location}\r\n\r\n",
                self.group
            );
            self.socket
                .send_to(text.as_bytes(), self.group)
                .await
                .expect("sent");
        }
    }

    /// Repeats what `announcer` says until the device `name` is as `reached` wants it: datagrams may be lost, and the
    /// listener may not have joined yet.
    async fn until(
        announcer: &Announcer,
        devices: &mut watch::Receiver<Snapshot>,
        (kind, name, location): (&str, &str, &str),
        reached: impl Fn(&Device) -> bool,
    ) -> Device {
        let run = async {
            loop {
                announcer.say(kind, name, location).await;
                let _ = tokio::time::timeout(Duration::from_millis(100), devices.changed()).await;
                let snapshot = devices.borrow_and_update().clone();
                let named = |device: &&Device| {
                    device
                        .aliases
                        .iter()
                        .any(|key| key.as_str() == format!("uuid:{name}"))
                };
                if let Some(device) = snapshot.iter().find(|d| named(d) && reached(d)) {
                    return device.clone();
                }
            }
        };
        tokio::time::timeout(Duration::from_mins(1), run)
            .await
            .expect("it is seen in time")
    }

    #[tokio::test]
    async fn good_and_bad_devices_become_rows_and_leave_again() {
        let announcer = Announcer::start().await;
        let cancel = CancellationToken::new();
        let (mut devices, discovery) = announcer.discovery(&cancel);

        let good = "<root><device><deviceType>urn:schemas-upnp-org:device:MediaServer:1</deviceType>\
            <friendlyName>Attic</friendlyName><UDN>uuid:good</UDN><serviceList><service>\
            <serviceType>urn:schemas-upnp-org:service:ContentDirectory:1</serviceType>\
            <controlURL>/c</controlURL></service></serviceList></device></root>";
        let honest = Hostile::with(ok(good)).await;
        let broken = Hostile::with(ok("<root><device>")).await;
        let victim = Hostile::with(ok(good)).await;

        let location = honest.url("/d").to_string();
        let device = until(
            &announcer,
            &mut devices,
            ("alive", "good", &location),
            |d| d.problem.is_none(),
        )
        .await;
        assert_eq!(
            (device.name.as_str(), device.state),
            ("Attic", DeviceState::Online)
        );
        assert!(device.media_source().is_some());

        let location = broken.url("/d").to_string();
        let device = until(&announcer, &mut devices, ("alive", "bad", &location), |d| {
            d.problem.is_some()
        })
        .await;
        assert!(
            device
                .problem
                .as_ref()
                .is_some_and(|p| p.contains("not well-formed")),
            "{device:?}"
        );
        assert!(device.capabilities.is_empty());

        let elsewhere = format!("http://127.0.0.2:{}/d", victim.port);
        let device = until(
            &announcer,
            &mut devices,
            ("alive", "sly", &elsewhere),
            |d| d.problem.is_some(),
        )
        .await;
        assert!(
            device
                .problem
                .as_ref()
                .is_some_and(|p| p.contains("points to another device")),
            "{device:?}"
        );
        assert_eq!(victim.requests.load(Ordering::SeqCst), 0);

        until(&announcer, &mut devices, ("byebye", "good", ""), |d| {
            d.state == DeviceState::Gone
        })
        .await;
        cancel.cancel();
        discovery.finished().await;
    }
}
