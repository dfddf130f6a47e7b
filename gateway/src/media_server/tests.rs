//! Browse, Search and media addresses over real HTTP on loopback, with real rights (F26, F27, F63).

use super::*;
use crate::library::tests::wait_until;
use crate::playback::tests::{Stage, ask};
use mantel_peripherals::media::{Entry, MAX_PAGE};
use mantel_peripherals::upnp::didl::{Listing, parse_listing};
use mantel_peripherals::upnp::wire::{SoapAnswer, parse_soap_answer, soap_request};
use mantel_protocol::license::Terms;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

/// The device that the stage's house lists, and a player that nobody lists.
const LISTED: [u8; 4] = [127, 0, 0, 1];
const STRANGER: [u8; 4] = [127, 0, 0, 2];

struct Shown {
    stage: Stage,
    server: MediaServer,
    at: SocketAddr,
}

impl Shown {
    async fn new() -> Self {
        let stage = Stage::with(&[super::SCHEMA]).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        let parts = Parts {
            db: stage.home.db.clone(),
            library: stage.home.library.clone(),
            rights: stage.rights.clone(),
            playback: stage.playback.clone(),
            devices: stage.devices.clone(),
            link: stage.link.clone(),
            clock: stage.home.clock.clone(),
        };
        let announce = Announce {
            web: at,
            interface: Some("none".into()),
            loopback: false,
        };
        let config = MediaServerConfig::default();
        let server = MediaServer::start(config, announce, parts, &stage.home.tasks)
            .await
            .expect("started");
        let router = server.router().merge(stage.playback.router());
        mantel_runtime::http::serve(listener, router, &stage.home.tasks);
        Self { stage, server, at }
    }

    async fn call(&self, from: [u8; 4], action: &str, arguments: &[(&str, &str)]) -> SoapAnswer {
        let body = soap_request(directory::SERVICE, action, arguments);
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("a loopback address");
        let mut stream = socket.connect(self.at).await.expect("connected");
        let request = format!(
            "POST /upnp/directory/control HTTP/1.0\r\nHost: {}\r\nSOAPACTION: \"{}#{action}\"\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.at,
            directory::SERVICE,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("answered");
        let head = all
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("a head");
        parse_soap_answer(&all[head + 4..], action).expect("an answer")
    }

    async fn browse(&self, from: [u8; 4], id: &str, start: u32, count: u32) -> Found {
        let (start, count) = (start.to_string(), count.to_string());
        let arguments = [
            ("ObjectID", id),
            ("BrowseFlag", "BrowseDirectChildren"),
            ("Filter", "*"),
            ("StartingIndex", &start),
            ("RequestedCount", &count),
            ("SortCriteria", ""),
        ];
        self.found(self.call(from, "Browse", &arguments).await)
    }

    async fn search(&self, from: [u8; 4], criteria: &str) -> Found {
        let arguments = [
            ("ContainerID", "0"),
            ("SearchCriteria", criteria),
            ("Filter", "dc:title"),
            ("StartingIndex", "0"),
            ("RequestedCount", "0"),
            ("SortCriteria", "-dc:title"),
        ];
        self.found(self.call(from, "Search", &arguments).await)
    }

    fn found(&self, answer: SoapAnswer) -> Found {
        let arguments = match answer {
            SoapAnswer::Done(arguments) => arguments,
            SoapAnswer::Fault(fault) => {
                return Found {
                    fault: Some(fault.code),
                    ..Found::default()
                };
            }
        };
        let text = |name: &str| {
            let found = arguments.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str()).expect("an argument")
        };
        let number = |name: &str| text(name).parse::<u32>().expect("a number");
        let listing = parse_listing(text("Result"), self.at.ip()).expect("readable");
        // Our own reader takes no more of one page.
        let read = number("NumberReturned").min(MAX_PAGE);
        assert_eq!(listing.entries.len() as u32, read);
        let written = text("Result").matches("<dc:title>").count();
        assert_eq!(written as u32, number("NumberReturned"));
        Found {
            total: number("TotalMatches"),
            update: number("UpdateID"),
            listing,
            fault: None,
        }
    }

    /// Puts rows on the shelf as imports would: music by eleven artists on 23 albums.
    async fn fill(&self, count: usize) {
        let write = move |tx: &rusqlite::Transaction<'_>| {
            for n in 0..count {
                tx.execute(
                    "INSERT INTO shelf (title, listed, kind, name, artist, album, album_by, track, mime, plain_bytes,
                         duration_ms, picture)
                     VALUES (?1, 1, 'audio', ?2, ?3, ?4, ?3, ?5, 'audio/mpeg', 4096, 61500, 1)",
                    (
                        mantel_protocol::ids::TitleId::generate().to_string(),
                        format!("Song {n:05} <&\">"),
                        format!("Artist {}", n % 11),
                        format!("Album {}", n % 23),
                        (n % 12) as i64,
                    ),
                )?;
            }
            Ok::<_, DbError>(())
        };
        self.stage.home.db.write(write).await.expect("written");
    }
}

#[derive(Default)]
struct Found {
    total: u32,
    update: u32,
    listing: Listing,
    fault: Option<u16>,
}

impl Found {
    fn names(&self) -> Vec<String> {
        let names = self.listing.entries.iter().map(|entry| match entry {
            Entry::Container(container) => container.title.clone(),
            Entry::Item(item) => item.title.clone(),
        });
        names.collect()
    }
}

#[tokio::test]
async fn pages_give_every_title_once_and_in_order() {
    let shown = Shown::new().await;
    shown.fill(600).await;
    shown.stage.devices.admit("uuid:one").await.expect("let in");
    let whole = shown.browse(LISTED, "music.all", 0, 0).await;
    assert_eq!(whole.total, 600);
    assert_eq!(whole.names()[7], "Song 00007 <&\">");
    let mut pieced = Vec::new();
    for start in (0..600).step_by(70) {
        let page = shown.browse(LISTED, "music.all", start, 70).await;
        assert_eq!(page.total, 600);
        pieced.extend(page.names());
    }
    assert_eq!(pieced.len(), 600);
    assert_eq!(pieced[..whole.names().len()], whole.names());
    assert!(pieced.is_sorted());
    let past = shown.browse(LISTED, "music.all", 601, 5).await;
    assert_eq!((past.total, past.names().len()), (600, 0));
    let top = shown.browse(LISTED, "0", 0, 0).await;
    assert_eq!(top.names(), ["Music"]);
    let artists = shown.browse(LISTED, "music.artists", 0, 0).await;
    assert_eq!(artists.total, 11);
    let mut seen = BTreeSet::new();
    for entry in &artists.listing.entries {
        let Entry::Container(artist) = entry else {
            panic!("an artist")
        };
        let songs = shown.browse(LISTED, artist.id.as_str(), 0, 0).await;
        assert_eq!(artist.child_count, Some(songs.total));
        seen.extend(songs.names());
    }
    assert_eq!(seen.len(), 600);
    let albums = shown
        .search(LISTED, "upnp:class = \"object.container.album.musicAlbum\"")
        .await;
    assert_eq!(albums.total, 253);
    let one = shown
        .search(
            LISTED,
            "dc:title contains \"0012\" and upnp:artist = \"artist 10\"",
        )
        .await;
    assert_eq!(one.names(), ["Song 00120 <&\">"]);
    for (id, code) in [("artist.9999", 701), ("nonsense", 701), ("i1", 710)] {
        let refused = shown.browse(LISTED, id, 0, 5).await;
        assert_eq!(refused.fault, Some(code), "{id}");
    }
    assert_eq!(
        shown.search(LISTED, "dc:title ~ \"x\"").await.fault,
        Some(708)
    );
}

#[tokio::test]
async fn who_was_not_let_in_sees_how_to_be_and_who_is_ignored_is_refused() {
    let shown = Shown::new().await;
    shown.fill(3).await;
    let devices = &shown.stage.devices;
    for from in [LISTED, STRANGER] {
        let top = shown.browse(from, "0", 0, 0).await;
        assert_eq!(top.total, 1);
        assert!(top.names()[0].starts_with("Not let in yet: open http://127.0.0.1:"));
        assert_eq!(shown.browse(from, "music.all", 0, 0).await.fault, Some(701));
        assert_eq!(shown.search(from, "*").await.total, 0);
    }
    let before = shown.browse(STRANGER, "0", 0, 0).await.update;
    let players = devices.players().borrow().clone();
    assert_eq!(
        players.len(),
        1,
        "the listed device is not listed twice: {players:?}"
    );
    devices.admit_player(&players[0].id).await.expect("let in");
    let after = shown.browse(STRANGER, "0", 0, 0).await;
    assert_eq!(after.names(), ["Music"]);
    wait_until(|| shown.server.inner.update_id() > before).await;
    devices
        .ignore_player(&players[0].id)
        .await
        .expect("put out");
    assert_eq!(shown.browse(STRANGER, "0", 0, 0).await.fault, Some(606));
    devices.admit("uuid:one").await.expect("let in");
    assert_eq!(shown.browse(LISTED, "0", 0, 0).await.names(), ["Music"]);
    devices.ignore("uuid:one").await.expect("put out");
    assert_eq!(shown.browse(LISTED, "0", 0, 0).await.fault, Some(606));
    shown.server.switch(false).await.expect("switched");
    let off = ask(shown.at, LISTED, "GET", DESCRIPTION, "").await;
    assert_eq!(off.status, 404);
}

#[tokio::test]
async fn a_license_is_counted_by_a_play_and_its_end_takes_the_title_off_the_list() {
    let shown = Shown::new().await;
    let plain = crate::library::tests::noise(300_000, 3);
    let terms = Terms {
        start_within_s: None,
        viewing_window_s: Some(3600),
        plays: Some(1),
    };
    let title = shown.stage.licensed(&plain, terms).await;
    shown.stage.devices.admit("uuid:one").await.expect("let in");
    let library = &shown.stage.home.library;
    // The change makes the judge look at once.
    library.rename(title, "Film").await.expect("renamed");
    let shelf = library.clone();
    let listed = move || {
        let shelf = shelf.clone();
        async move {
            let all = shelf.foreign_on_shelf().await.expect("readable");
            all == [(title, true)]
        }
    };
    while !listed().await {
        tokio::task::yield_now().await;
    }
    let homes = shown.browse(LISTED, "homes", 0, 0).await;
    assert_eq!(homes.names(), ["Ann"]);
    let all = shown.browse(LISTED, "videos.all", 0, 0).await;
    let Some(Entry::Item(item)) = all.listing.entries.first() else {
        panic!("the film")
    };
    let mantel_peripherals::media::Location::Url(url) = &item.resources[0].location else {
        panic!("an address")
    };
    let path = url.target().to_owned();
    let stranger = ask(shown.at, STRANGER, "GET", &path, "").await;
    assert_eq!(stranger.status, 404);
    let got = ask(shown.at, LISTED, "GET", &path, "").await;
    assert_eq!((got.status, got.body == plain), (200, true));
    let part = ask(shown.at, LISTED, "GET", &path, "Range: bytes=100-199\r\n").await;
    assert_eq!((part.status, &part.body[..]), (206, &plain[100..200]));
    assert!(part.header("contentfeatures.dlna.org").is_some());
    shown.stage.home.clock.advance(Duration::from_secs(3601));
    let over = ask(shown.at, LISTED, "GET", &path, "").await;
    assert_eq!(over.status, 403, "{}", over.text());
    library.rename(title, "Film again").await.expect("renamed");
    while listed().await {
        tokio::task::yield_now().await;
    }
    assert_eq!(shown.browse(LISTED, "0", 0, 0).await.total, 0);
    shown
        .stage
        .devices
        .ignore("uuid:one")
        .await
        .expect("put out");
    let mut words = String::new();
    write!(
        words,
        "{}",
        ask(shown.at, LISTED, "GET", &path, "").await.text()
    )
    .expect("written");
    assert!(words.contains("may not play"), "{words}");
}
