//! The media URL over real HTTP on loopback, with real rights: every range against the plaintext, who may fetch, and
//! licenses that end (F26, F27).

use super::session::NoSession;
use super::*;
use crate::devices::tests::{Peer, house};
use crate::library::LibraryOptions;
use crate::library::tests::{Home, noise, upload};
use crate::link::{Enrolment, Identity, Link};
use futures_util::future::join_all;
use mantel_protocol::api::ServerCard;
use mantel_protocol::blob::CHUNK_BYTES;
use mantel_protocol::envelope::{self, OpeningKey};
use mantel_protocol::ids::{CustomerId, HomeId, LicenseId, PassId};
use mantel_protocol::key::SigningKey;
use mantel_protocol::license::{License, Terms};
use mantel_protocol::manifest::{Manifest, TitleKeys, license_context};
use mantel_protocol::token::sign;
use mantel_runtime::db::{DbError, Schema};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A home that serves its media URLs on loopback.
pub(crate) struct Stage {
    pub(crate) home: Home,
    pub(crate) playback: Playback,
    pub(crate) rights: Rights,
    pub(crate) devices: Devices,
    pub(crate) link: Link,
    identity: Arc<Identity>,
    server: SigningKey,
    pub(crate) address: SocketAddr,
    peer: Arc<Peer>,
    #[allow(dead_code, reason = "the list of devices ends when it is dropped")]
    seen: watch::Sender<mantel_peripherals::discovery::Snapshot>,
    #[allow(dead_code, reason = "the folder goes when it is dropped")]
    folder: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A stage whose database also has the tables of modules above this one.
    pub(crate) async fn with(above: &[Schema]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let identity = Arc::new(Identity::load_or_create(folder.path()).expect("keys"));
        let clock = Clock::manual("2026-01-01T00:00:00Z".parse().expect("a time"));
        let options = LibraryOptions::new(identity.device.device_id());
        let more = [&[crate::link::SCHEMA, crate::rights::SCHEMA], above].concat();
        let home = Home::open(folder.path(), options, clock.clone(), &more).await;
        let server = SigningKey::generate();
        enrol(&home, &server).await;
        let link = Link::start(
            home.db.clone(),
            clock.clone(),
            Arc::clone(&identity),
            None,
            None,
            &home.tasks,
        )
        .await
        .expect("started");
        let rights = Rights::open(home.db.clone(), link.clone(), home.library.clone())
            .await
            .expect("opened");
        let (peer, device) = Peer::start(&home).await;
        let (devices, seen) = house(&home, device).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let playback = Playback::new(
            home.library.clone(),
            rights.clone(),
            devices.clone(),
            clock,
            address,
            &home.tasks,
        );
        mantel_runtime::http::serve(listener, playback.router(), &home.tasks);
        Self {
            home,
            playback,
            rights,
            devices,
            link,
            identity,
            server,
            address,
            peer,
            seen,
            folder,
        }
    }

    pub(crate) async fn import(&self, name: &str, mime: &str, bytes: &[u8]) -> TitleId {
        // Noise is no media: its type is set by hand afterwards, so that the answer's type can be checked.
        let id = self
            .home
            .library
            .import(upload(name, None, bytes))
            .await
            .expect("imported");
        let mime = mime.to_owned();
        let set = move |tx: &rusqlite::Transaction<'_>| {
            tx.execute(
                "UPDATE assets SET mime = $1 WHERE title = $2",
                (mime, id.to_string()),
            )?;
            Ok::<_, DbError>(())
        };
        self.home.db.write(set).await.expect("set");
        id
    }

    /// A title from another home whose key comes in a license with `terms` only.
    pub(crate) async fn licensed(&self, bytes: &[u8], terms: Terms) -> TitleId {
        let sender = Home::new().await;
        let id = sender
            .library
            .import(upload("film.bin", None, bytes))
            .await
            .expect("imported");
        let title = sender
            .library
            .title(id)
            .await
            .expect("readable")
            .expect("there");
        let blob = title.assets[0].blob;
        let key = sender
            .library
            .own_key(id, blob)
            .await
            .expect("readable")
            .expect("stored");
        let library = &self.home.library;
        let manifest = Manifest {
            title: id,
            name: title.name.clone(),
            kind: MediaKind::Video,
            recorded: None,
            publisher: title.publisher,
            assets: title.assets.clone(),
        };
        library
            .add_arriving(
                &manifest,
                "token".into(),
                (HomeId::generate(), "Ann".into()),
            )
            .await
            .expect("noted");
        let reader = sender
            .library
            .blobs()
            .read(blob)
            .await
            .expect("readable")
            .expect("complete");
        let mut part = library
            .blobs()
            .partial(blob, reader.size())
            .await
            .expect("made");
        part.set_hashes(reader.hashes().clone())
            .await
            .expect("its own");
        for run in part.missing() {
            for index in run.start..run.end() {
                let at = index * CHUNK_BYTES;
                let len = (reader.size() - at).min(CHUNK_BYTES) as usize;
                part.write(
                    index,
                    reader.read_at(at, len).await.expect("readable").to_vec(),
                )
                .await
                .expect("right");
            }
        }
        part.finish().await.expect("complete");
        library.set_ready(id).await.expect("ready");
        self.license(id, &TitleKeys::new([(blob, &key)]), terms)
            .await;
        id
    }

    async fn license(&self, title: TitleId, keys: &TitleKeys, terms: Terms) {
        let device = self.identity.device.device_id();
        let context = license_context(title, device);
        let sealed = envelope::seal(&self.identity.seal.seal_key(), &context, &keys.to_bytes())
            .expect("sealed");
        let license = License {
            id: LicenseId::generate(),
            pass: PassId::generate(),
            title,
            device,
            keys: sealed,
            terms,
            granted: self.home.clock.now(),
        };
        self.rights
            .store_license(title, sign(&self.server, &license))
            .await
            .expect("stored");
    }

    async fn open(&self, title: TitleId) -> String {
        self.playback
            .open(title, Viewer::Browser)
            .await
            .expect("may be played")
            .path
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        ask(self.address, [127, 0, 0, 1], method, path, headers).await
    }
}

/// Writes what an enrolment at a server leaves behind; no server is there, as when the Internet is out.
async fn enrol(home: &Home, server: &SigningKey) {
    let card = ServerCard {
        name: "Test".into(),
        key: server.server_key(),
        vault_key: OpeningKey::generate().seal_key(),
        mqtt_port: 1,
        relay_port: 1,
        version: "0".into(),
    };
    let enrolment = Enrolment {
        home: HomeId::generate(),
        home_name: "Here".into(),
        customer: CustomerId::generate(),
        customer_name: "Bo".into(),
        server: card,
        host: "127.0.0.1".into(),
        api_port: 1,
        pin: [0; 32],
    };
    crate::link::store::set_enrolment(&home.db, &enrolment)
        .await
        .expect("written");
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request from one of the loopback addresses; reads until the server closes.
pub(crate) async fn ask(
    to: SocketAddr,
    from: [u8; 4],
    method: &str,
    path: &str,
    headers: &str,
) -> Answer {
    let mut stream = connect(to, from).await;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut all = Vec::new();
    // A body that the server cuts off on purpose ends in an error here; what came counts.
    let _ = stream.read_to_end(&mut all).await;
    let end = all
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a head");
    let head = String::from_utf8(all[..end].to_vec()).expect("ASCII");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .expect("a status");
    Answer {
        status,
        head,
        body: all[end + 4..].to_vec(),
    }
}

async fn connect(to: SocketAddr, from: [u8; 4]) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("a loopback address");
    socket.connect(to).await.expect("connected")
}

#[tokio::test]
async fn every_range_shape_gives_the_right_bytes() {
    let stage = Stage::new().await;
    let plain = noise(700_123, 1);
    let title = stage.import("film.mp4", "video/mp4", &plain).await;
    let path = stage.open(title).await;
    assert!(path.starts_with("/media/"), "{path}");
    assert_eq!(path.rsplit_once('.').map(|(_, ending)| ending), Some("mp4"));
    let size = plain.len();
    let whole = stage.ask("GET", &path, "").await;
    assert_eq!((whole.status, whole.body == plain), (200, true));
    let etag = whole.header("etag").expect("a tag").to_owned();
    for (name, value) in [
        ("content-type", "video/mp4"),
        ("accept-ranges", "bytes"),
        ("content-length", "700123"),
        ("x-content-type-options", "nosniff"),
        ("transfermode.dlna.org", "Streaming"),
    ] {
        assert_eq!(whole.header(name), Some(value), "{name}");
    }
    assert!(
        whole
            .header("contentfeatures.dlna.org")
            .expect("told")
            .contains("DLNA.ORG_OP=01")
    );
    for (range, start, end) in [
        ("0-0", 0, 1),
        ("0-", 0, size),
        ("65535-65536", 65_535, 65_537),
        ("65536-131071", 65_536, 131_072),
        ("262143-262144", 262_143, 262_145),
        ("1-524289", 1, 524_290),
        ("-1", size - 1, size),
        ("-70000", size - 70_000, size),
        ("-9999999", 0, size),
        ("700122-", size - 1, size),
        ("600000-99999999", 600_000, size),
    ] {
        let part = stage
            .ask("GET", &path, &format!("Range: bytes={range}\r\n"))
            .await;
        assert_eq!(
            (part.status, part.body == plain[start..end]),
            (206, true),
            "{range}"
        );
        assert_eq!(
            part.header("content-range"),
            Some(format!("bytes {start}-{}/{size}", end - 1).as_str())
        );
        assert_eq!(
            part.header("content-length"),
            Some((end - start).to_string().as_str())
        );
        let head = stage
            .ask("HEAD", &path, &format!("Range: bytes={range}\r\n"))
            .await;
        assert_eq!((head.status, head.body.len()), (206, 0));
        assert_eq!(head.header("content-length"), part.header("content-length"));
    }
    for range in ["700123-", "9999999-99999999", "-0"] {
        let none = stage
            .ask("GET", &path, &format!("Range: bytes={range}\r\n"))
            .await;
        assert_eq!(
            (none.status, none.header("content-range")),
            (416, Some("bytes */700123")),
            "{range}"
        );
    }
    for (headers, status) in [
        (format!("Range: bytes=5-9\r\nIf-Range: {etag}\r\n"), 206),
        (
            "Range: bytes=5-9\r\nIf-Range: \"other\"\r\n".to_owned(),
            200,
        ),
        (
            "Range: bytes=5-9\r\nIf-Range: Wed, 21 Oct 2015 07:28:00 GMT\r\n".to_owned(),
            200,
        ),
        ("Range: bytes=0-1,4-5\r\n".to_owned(), 200),
        ("Range: bytes=9-5\r\n".to_owned(), 200),
        ("Range: lines=0-5\r\n".to_owned(), 200),
    ] {
        assert_eq!(
            stage.ask("GET", &path, &headers).await.status,
            status,
            "{headers}"
        );
    }
    assert_eq!(stage.ask("POST", &path, "").await.status, 405);
}

#[tokio::test]
async fn many_viewers_seek_at_the_same_time() {
    let stage = Stage::new().await;
    let plain = noise(3_000_000, 2);
    let title = stage.import("film.mp4", "video/mp4", &plain).await;
    let path = stage.open(title).await;
    let asked = (0..24usize).map(|i| {
        let (start, len) = (i * 117_001 % 2_000_000, 1 + i * 41_003);
        let (stage, path, plain) = (&stage, &path, &plain);
        async move {
            let headers = format!("Range: bytes={start}-{}\r\n", start + len - 1);
            let part = stage.ask("GET", path, &headers).await;
            assert!(
                part.status == 206 && part.body == plain[start..start + len],
                "{headers}"
            );
        }
    });
    join_all(asked).await;
}

#[tokio::test]
async fn a_media_url_is_one_viewers_and_ends() {
    let stage = Stage::new().await;
    let title = stage.import("film.mp4", "video/mp4", &noise(1000, 3)).await;
    let path = stage.open(title).await;
    assert_eq!(stage.ask("GET", &path, "").await.status, 200);
    let other = ask(stage.address, [127, 0, 0, 2], "GET", &path, "").await;
    assert_eq!(other.status, 403);
    assert!(
        other.text().contains("belongs to another player"),
        "{}",
        other.text()
    );
    let tv = stage
        .playback
        .open(title, Viewer::Renderer([127, 0, 0, 3].into()))
        .await
        .expect("opened")
        .path;
    assert_eq!(stage.ask("GET", &tv, "").await.status, 403);
    assert_eq!(
        ask(stage.address, [127, 0, 0, 3], "GET", &tv, "")
            .await
            .status,
        200
    );
    for wrong in [
        "/media/",
        "/media/0123456789abcdef0123456789abcdef.mp4",
        "/media/..%2f..%2fetc",
    ] {
        assert_eq!(stage.ask("GET", wrong, "").await.status, 404, "{wrong}");
    }
    stage.home.clock.advance(SESSION_LIFE);
    assert_eq!(stage.ask("GET", &path, "").await.status, 404);
}

#[tokio::test]
async fn what_could_be_a_page_is_a_download() {
    let stage = Stage::new().await;
    for mime in ["text/html", "image/svg+xml", "application/pdf"] {
        let title = stage
            .import("evil.html", mime, &noise(500, mime.len() as u64))
            .await;
        let answer = stage.ask("GET", &stage.open(title).await, "").await;
        assert_eq!(
            answer.header("content-type"),
            Some("application/octet-stream"),
            "{mime}"
        );
        assert!(
            answer
                .header("content-disposition")
                .expect("told")
                .starts_with("attachment")
        );
        assert_eq!(answer.header("content-security-policy"), Some("sandbox"));
    }
}

#[tokio::test]
async fn a_play_is_counted_at_the_first_byte_and_a_used_license_refused() {
    let stage = Stage::new().await;
    let plain = noise(100_000, 4);
    let terms = Terms {
        plays: Some(1),
        ..Terms::default()
    };
    let title = stage.licensed(&plain, terms).await;
    let left = |standing| match standing {
        Standing::Licensed { plays_left, .. } => plays_left,
        other => panic!("{other:?}"),
    };
    let (first, second) = (stage.open(title).await, stage.open(title).await);
    assert_eq!(stage.ask("HEAD", &first, "").await.status, 200);
    assert_eq!(
        left(stage.rights.standing(title).await.expect("known")),
        Some(1),
        "looking counts nothing"
    );
    assert_eq!(stage.ask("GET", &first, "").await.body, plain);
    let seek = stage.ask("GET", &first, "Range: bytes=50-\r\n").await;
    assert!(
        seek.status == 206 && seek.body == plain[50..],
        "seeking is the same play"
    );
    let refused = stage.ask("GET", &second, "").await;
    assert_eq!(refused.status, 403);
    assert!(
        refused
            .text()
            .contains("all 1 plays of this title are used"),
        "{}",
        refused.text()
    );
    let error = stage
        .playback
        .open(title, Viewer::Browser)
        .await
        .expect_err("used up");
    assert!(
        matches!(error, PlaybackError::Rights(RightsError::Over(_))),
        "{error}"
    );
}

#[tokio::test]
async fn a_viewing_period_that_ends_stops_the_stream_and_refuses_the_next_request() {
    let stage = Stage::new().await;
    // Larger than what sockets and read-ahead hold.
    let plain = noise(48 << 20, 5);
    let terms = Terms {
        viewing_window_s: Some(3600),
        ..Terms::default()
    };
    let title = stage.licensed(&plain, terms).await;
    let path = stage.open(title).await;
    let mut stream = connect(stage.address, [127, 0, 0, 1]).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut begin = vec![0u8; 64 * 1024];
    stream.read_exact(&mut begin).await.expect("it plays");
    stage.home.clock.advance(Duration::from_secs(3601));
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest).await;
    assert!(
        rest.len() < plain.len() - begin.len(),
        "cut off: {} bytes, {ended:?}",
        rest.len()
    );
    let refused = stage.ask("GET", &path, "Range: bytes=0-9\r\n").await;
    assert_eq!(refused.status, 403);
    assert!(
        refused.text().contains("the viewing period ended"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn a_title_without_license_or_not_all_here_is_not_played() {
    let stage = Stage::new().await;
    let title = stage
        .licensed(
            &noise(1000, 6),
            Terms {
                start_within_s: Some(60),
                ..Terms::default()
            },
        )
        .await;
    stage.home.clock.advance(Duration::from_secs(61));
    let late = stage
        .playback
        .open(title, Viewer::Browser)
        .await
        .expect_err("too late");
    assert!(
        late.to_string()
            .contains("the time to start this title ended"),
        "{late}"
    );
    let unknown = stage
        .playback
        .open(TitleId::generate(), Viewer::Browser)
        .await;
    assert!(matches!(unknown, Err(PlaybackError::NoSuchTitle)));
    assert!(matches!(
        stage.playback.play_on(title, "uuid:none").await,
        Err(PlaybackError::NoPlayer)
    ));
    assert!(matches!(
        stage.playback.pause("uuid:none").await,
        Err(PlaybackError::NotPlaying)
    ));
}

#[tokio::test]
async fn sessions_are_bounded_and_ending_one_stops_its_stream() {
    let stage = Stage::new().await;
    let plain = noise(48 << 20, 7);
    let title = stage.import("film.mp4", "video/mp4", &plain).await;
    let path = stage.open(title).await;
    let mut stream = connect(stage.address, [127, 0, 0, 1]).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut begin = vec![0u8; 1024];
    stream.read_exact(&mut begin).await.expect("it plays");
    stage.home.clock.advance(Duration::from_secs(1));
    for _ in 0..MAX_SESSIONS {
        stage.open(title).await;
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < plain.len() - 1024, "the oldest ended");
    let token = path
        .trim_start_matches("/media/")
        .split('.')
        .next()
        .expect("a token");
    let now = stage.home.clock.monotonic();
    let gone = stage
        .playback
        .inner
        .sessions
        .find(token, [127, 0, 0, 1].into(), now)
        .err();
    assert_eq!(gone, Some(NoSession::Unknown));
}

#[tokio::test]
async fn a_title_plays_on_a_renderer_and_a_renderer_that_leaves_is_told() {
    let stage = Stage::new().await;
    let plain = noise(200_000, 8);
    let title = stage.import("film.mp4", "video/mp4", &plain).await;
    let mut rows = stage.playback.sessions();
    stage
        .playback
        .play_on(title, "mdns:one")
        .await
        .expect("started");
    let playing = |rows: &Arc<Vec<PlayingOn>>| {
        rows.first()
            .is_some_and(|r| r.state == TransportState::Playing)
    };
    let row = rows.wait_for(playing).await.expect("published")[0].clone();
    assert_eq!(
        (row.device.as_str(), row.title, row.problem),
        ("uuid:one", title, None)
    );
    assert_eq!(
        (row.position, row.duration),
        (Some(Duration::ZERO), Some(Duration::from_mins(1)))
    );
    // The renderer fetches what it was given, from its own address.
    let url = stage
        .peer
        .transport
        .lock()
        .expect("unpoisoned")
        .as_ref()
        .expect("there")
        .2
        .clone();
    let path = url
        .strip_prefix(&format!("http://{}", stage.address))
        .expect("our address as it sees us")
        .to_owned();
    assert!(stage.ask("GET", &path, "").await.body == plain);
    stage.playback.pause("uuid:one").await.expect("paused");
    let paused = |rows: &Arc<Vec<PlayingOn>>| {
        rows.first()
            .is_some_and(|r| r.state == TransportState::Paused)
    };
    rows.wait_for(paused).await.expect("published");
    stage.playback.resume("uuid:one").await.expect("goes on");
    stage
        .playback
        .seek("uuid:one", Duration::from_secs(30))
        .await
        .expect("sought");
    assert!(
        stage
            .peer
            .asked
            .lock()
            .expect("unpoisoned")
            .iter()
            .any(|action| action == "Seek")
    );
    stage.playback.stop("uuid:one").await.expect("stopped");
    rows.wait_for(|rows| rows.is_empty())
        .await
        .expect("published");
    let over = async {
        while stage.ask("GET", &path, "").await.status != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), over)
        .await
        .expect("the media address ends with the session");
    // Somebody else takes the renderer.
    stage
        .playback
        .play_on(title, "uuid:one")
        .await
        .expect("started");
    rows.wait_for(playing).await.expect("published");
    let theirs = ("PLAYING", "0:00:01", "http://10.0.0.9/other.mp3".to_owned());
    *stage.peer.transport.lock().expect("unpoisoned") = Some(theirs);
    let told = |rows: &Arc<Vec<PlayingOn>>| rows.first().is_some_and(|r| r.problem.is_some());
    let row = rows.wait_for(told).await.expect("published")[0].clone();
    assert_eq!(
        row.problem.as_deref(),
        Some("Camcorder now plays something else. Play the title again to take it back.")
    );
    stage
        .playback
        .stop("uuid:one")
        .await
        .expect("the problem is forgotten");
    assert!(stage.playback.sessions().borrow().is_empty());
}

#[tokio::test]
async fn titles_play_one_after_the_other_and_the_queue_may_change() {
    let stage = Stage::new().await;
    let mut titles = Vec::new();
    for name in ["one.mp4", "two.mp4", "three.mp4", "four.mp4"] {
        let plain = noise(70_000, name.len() as u64 + titles.len() as u64);
        titles.push(stage.import(name, "video/mp4", &plain).await);
    }
    let [one, two, three, four] = titles[..] else {
        panic!("four titles")
    };
    let playback = &stage.playback;
    let mut rows = playback.sessions();
    let says = |state: &'static str, position: &'static str| {
        let mut now = stage.peer.transport.lock().expect("unpoisoned");
        let now = now.as_mut().expect("it answers");
        (now.0, now.1) = (state, position);
    };
    // Nothing plays: the first begins at once. "Next" goes before what waits.
    for (title, place) in [(one, Place::Last), (two, Place::Last), (four, Place::Last)] {
        playback
            .play_after(title, "uuid:one", place)
            .await
            .expect("taken");
    }
    playback
        .play_after(three, "mdns:one", Place::Next)
        .await
        .expect("taken");
    let plays = |title: TitleId| {
        move |rows: &Arc<Vec<PlayingOn>>| {
            rows.first()
                .is_some_and(|r| r.title == title && r.state == TransportState::Playing)
        }
    };
    let row = rows.wait_for(plays(one)).await.expect("published")[0].clone();
    let order: Vec<TitleId> = row.queue.iter().map(|one| one.title).collect();
    assert_eq!(order, [three, two, four]);
    playback.promote("uuid:one", row.queue[1].entry);
    playback.unqueue("uuid:one", row.queue[2].entry);
    // Near its end the renderer is given the next one; it takes no notice and stops, and the next is started.
    says("PLAYING", "0:00:58");
    let given = async {
        let asked = |action: &str| {
            let asked = stage.peer.asked.lock().expect("unpoisoned");
            asked.iter().any(|one| one == action)
        };
        while !asked("SetNextAVTransportURI") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), given)
        .await
        .expect("given in time");
    says("STOPPED", "0:00:00");
    let row = rows.wait_for(plays(two)).await.expect("published")[0].clone();
    let order: Vec<TitleId> = row.queue.iter().map(|one| one.title).collect();
    assert_eq!((order, row.problem), (vec![three], None));
    // Stopped at the renderer in the middle: what waits is kept and started by a person.
    says("PLAYING", "0:00:05");
    let heard = |rows: &Arc<Vec<PlayingOn>>| {
        rows.first()
            .is_some_and(|r| r.position == Some(Duration::from_secs(5)))
    };
    rows.wait_for(heard).await.expect("published");
    says("STOPPED", "0:00:00");
    let kept = |rows: &Arc<Vec<PlayingOn>>| {
        rows.first()
            .is_some_and(|r| r.state == TransportState::Stopped && r.problem.is_some())
    };
    let row = rows.wait_for(kept).await.expect("published")[0].clone();
    assert_eq!(row.queue.len(), 1, "{row:?}");
    let restarted = async {
        while let Err(error) = playback.skip("uuid:one").await {
            assert!(matches!(error, PlaybackError::NotPlaying), "{error}");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), restarted)
        .await
        .expect("what waits is started");
    rows.wait_for(plays(three)).await.expect("published");
    // Skipping the last one ends it.
    playback.skip("uuid:one").await.expect("skipped");
    rows.wait_for(|rows| rows.is_empty())
        .await
        .expect("published");
}
