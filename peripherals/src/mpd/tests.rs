//! Against the real MPD on loopback, and against hostile ones.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::session::{MAX_ANSWER_BYTES, MAX_LINE_BYTES};
use super::{Jukebox, MpdAccess, Password};
use crate::MediaSource;
use crate::changes::Change;
use crate::media::{
    Entry, FetchError, FetchRequest, Item, ListError, MediaKind, Mute, ObjectId, PageRequest,
    PlayRequest, PlaybackStatus, RenderError, TransportState, Volume, WalkLimits,
};

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(1);
/// How long to wait before looking again.
const AGAIN: Duration = Duration::from_millis(50);

/// A real MPD with three songs in its library, a null output with a volume, and a password if asked for.
struct Peer {
    _folder: TempDir,
    program: Child,
    address: SocketAddr,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself; the test has failed then anyway.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// A tone that lasts `seconds`, as WAV (mono, 8 kHz, 16 bit).
fn tone(seconds: u32) -> Vec<u8> {
    let samples = seconds * 8000;
    let mut wav = Vec::new();
    wav.extend(b"RIFF");
    wav.extend((36 + samples * 2).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16_u32.to_le_bytes());
    for part in [1_u16, 1] {
        wav.extend(part.to_le_bytes());
    }
    wav.extend(8000_u32.to_le_bytes());
    wav.extend(16_000_u32.to_le_bytes());
    for part in [2_u16, 16] {
        wav.extend(part.to_le_bytes());
    }
    wav.extend(b"data");
    wav.extend((samples * 2).to_le_bytes());
    wav.extend((0..samples).flat_map(|n| (((n * 37) % 2000) as i16 - 1000).to_le_bytes()));
    wav
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder for the test");
    std::fs::File::create(path)
        .and_then(|mut file| file.write_all(bytes))
        .expect("a file for the test");
}

async fn peer(password: Option<&str>) -> Peer {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let at = |name: &str| folder.path().join(name);
    for name in ["one.wav", "two.wav", "Sub folder/three \"3\".wav"] {
        write(&at("music").join(name), &tone(30));
    }
    write(&at("lists/Party.m3u"), b"two.wav\n");
    let free = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = free.local_addr().expect("bound");
    drop(free);
    let lock = password.map_or_else(String::new, |word| {
        format!("password \"{word}@read,add,control,admin\"\ndefault_permissions \"\"\n")
    });
    let config = format!(
        "music_directory \"{}\"\nplaylist_directory \"{}\"\ndb_file \"{}\"\nbind_to_address \"{}\"\nport \"{}\"\n\
         zeroconf_enabled \"no\"\nauto_update \"no\"\n{lock}audio_output {{\n type \"null\"\n name \"Kitchen\"\n \
         mixer_type \"software\"\n}}\naudio_output {{\n type \"null\"\n name \"Garden\"\n mixer_type \"software\"\n}}\n",
        at("music").display(),
        at("lists").display(),
        at("db").display(),
        address.ip(),
        address.port(),
    );
    write(&at("mpd.conf"), config.as_bytes());
    let program = Command::new("mpd")
        .args(["--no-daemon", "--stderr"])
        .arg(at("mpd.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(at("log")).expect("a log"))
        .spawn()
        .expect("mpd is installed (./mantel setup)");
    let peer = Peer {
        _folder: folder,
        program,
        address,
    };
    let jukebox = peer
        .jukebox()
        .with_password(password.and_then(Password::new));
    until("its database", async || {
        jukebox.order("update", &[]).await.ok()?;
        let page = jukebox
            .list(&ObjectId::root(), PageRequest::default())
            .await;
        (page.ok()?.total >= 5).then_some(())
    })
    .await;
    peer
}

impl Peer {
    fn jukebox(&self) -> Jukebox {
        Jukebox::new(
            "Jukebox".to_owned(),
            MpdAccess {
                address: self.address,
            },
        )
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(AGAIN).await;
        }
    };
    timeout(LONG, waiting)
        .await
        .unwrap_or_else(|_| panic!("waited {LONG:?} for {what}"))
}

/// Serves one WAV of `seconds` to whoever asks, by ranges too; returns its URL.
async fn web(seconds: u32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!(
        "http://{}/media/title.wav",
        listener.local_addr().expect("bound")
    );
    let body = tone(seconds);
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let length = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
            let range = head.split("range: bytes=").nth(1);
            let from = range.and_then(|range| range.split('-').next()?.parse().ok());
            let from: usize = from.unwrap_or(0).min(body.len());
            let status = if range.is_some() {
                let total = body.len();
                format!(
                    "206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}",
                    total - 1
                )
            } else {
                "200 OK".to_owned()
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: audio/wav\r\nAccept-Ranges: bytes\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n",
                body.len() - from
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.write_all(&body[from..]).await;
        }
    });
    // It ends with the test's runtime.
    serving.detach_all();
    url
}

fn title(url: &str, kind: MediaKind) -> PlayRequest {
    PlayRequest {
        url: url.to_owned(),
        title: "Ours".to_owned(),
        kind,
        mime: "audio/wav".to_owned(),
        size_bytes: None,
        duration: None,
    }
}

async fn wait_status(
    jukebox: &Jukebox,
    what: &str,
    is: impl Fn(&PlaybackStatus) -> bool,
) -> PlaybackStatus {
    until(what, async || {
        jukebox.status().await.ok().filter(|status| is(status))
    })
    .await
}

fn playing(status: &PlaybackStatus) -> bool {
    status.state == TransportState::Playing && status.position.is_some_and(|at| !at.is_zero())
}

async fn songs(jukebox: &Jukebox) -> Vec<Item> {
    let mut walk = MediaSource::Mpd(jukebox.clone()).walk(WalkLimits::default());
    let mut found = Vec::new();
    while let Some(item) = walk.next().await.expect("a walk") {
        found.push(item);
    }
    found
}

#[tokio::test]
async fn a_library_is_listed_and_gives_no_files() {
    let peer = peer(None).await;
    let jukebox = peer.jukebox();
    let top = jukebox
        .list(&ObjectId::root(), PageRequest::default())
        .await
        .expect("a listing");
    let names: Vec<&str> = top
        .entries
        .iter()
        .map(|entry| match entry {
            Entry::Container(container) => container.title.as_str(),
            Entry::Item(item) => item.title.as_str(),
        })
        .collect();
    assert_eq!(
        names,
        ["Albums", "Sub folder", "Party", "one.wav", "two.wav"]
    );
    let all = songs(&jukebox).await;
    let mut titles: Vec<&str> = all.iter().map(|item| item.title.as_str()).collect();
    titles.sort_unstable();
    assert_eq!(titles, ["one.wav", "three \"3\".wav", "two.wav"]);
    for item in &all {
        let again = jukebox.item(&item.id).await.expect("the song again");
        assert_eq!(&again, item);
        assert_eq!(
            item.original().and_then(|file| file.duration),
            Some(Duration::from_secs(30))
        );
    }
    let file = all[0].original().expect("a form");
    let fetched = MediaSource::Mpd(jukebox.clone())
        .fetch(file, FetchRequest::whole(1000))
        .await;
    assert!(matches!(fetched, Err(FetchError::NotGiven { .. })));
    for gone in [
        "song:no.wav",
        "dir:no",
        "list:no",
        "nonsense",
        "dir:a\nstop",
    ] {
        let id = ObjectId::new(gone).expect("short");
        let listed = jukebox.list(&id, PageRequest::default()).await;
        assert!(
            matches!(listed, Err(ListError::NotFound { .. })),
            "{gone}: {listed:?}"
        );
    }
}

#[tokio::test]
async fn a_title_plays_and_the_households_queue_is_kept() {
    let peer = peer(None).await;
    let jukebox = peer.jukebox();
    let own = songs(&jukebox).await;
    for item in &own {
        jukebox.play_own(&item.id).await.expect("its own song");
    }
    jukebox.seek(Duration::from_secs(11)).await.expect("a seek");
    let before = jukebox.queue().await.expect("a queue");
    assert_eq!(before.entries.len(), 3);
    let current = |queue: &super::Queue| queue.entries.iter().find(|e| e.current).map(|e| e.id);

    let url = web(30).await;
    jukebox
        .load(&title(&url, MediaKind::Audio))
        .await
        .expect("loaded");
    jukebox.play().await.expect("started");
    let status = wait_status(&jukebox, "the title to play", |status| {
        playing(status) && status.url.as_deref() == Some(&url)
    })
    .await;
    assert_eq!(status.duration, Some(Duration::from_secs(30)));
    wait_status(&jukebox, "the position to advance", |now| {
        now.position > status.position
    })
    .await;
    assert!(
        jukebox
            .queue()
            .await
            .expect("a queue")
            .entries
            .iter()
            .any(|e| e.ours)
    );

    jukebox.seek(Duration::from_secs(20)).await.expect("a seek");
    wait_status(&jukebox, "the seek", |now| {
        now.position >= Some(Duration::from_secs(20))
    })
    .await;
    jukebox.pause().await.expect("a pause");
    let paused = wait_status(&jukebox, "the pause", |now| {
        now.state == TransportState::Paused
    })
    .await;
    assert_eq!(paused.url.as_deref(), Some(url.as_str()));
    jukebox.play().await.expect("resumed");
    wait_status(&jukebox, "the resume", playing).await;

    jukebox
        .set_volume(Volume::percent(40))
        .await
        .expect("a volume");
    assert_eq!(jukebox.volume().await.expect("a volume").as_percent(), 40);
    jukebox.set_mute(Mute::On).await.expect("muted");
    assert_eq!(jukebox.mute().await.expect("a mute"), Mute::On);
    jukebox.set_mute(Mute::Off).await.expect("unmuted");
    assert_eq!(jukebox.volume().await.expect("a volume").as_percent(), 40);

    jukebox.stop().await.expect("stopped");
    let after = jukebox.queue().await.expect("a queue");
    let shown = |queue: &super::Queue| queue.entries.iter().map(|e| e.id).collect::<Vec<_>>();
    assert_eq!(shown(&after), shown(&before));
    assert_eq!(current(&after), current(&before));
    assert_eq!(after.state, TransportState::Paused, "a stop is silent");
    let back = jukebox.status().await.expect("a status");
    assert!(back.position >= Some(Duration::from_secs(11)), "{back:?}");
}

#[tokio::test]
async fn titles_follow_each_other_and_then_its_own_song_goes_on() {
    let peer = peer(None).await;
    let jukebox = peer.jukebox();
    let own = songs(&jukebox).await;
    jukebox.play_own(&own[0].id).await.expect("its own song");
    jukebox.order("repeat", &["1"]).await.expect("a mode");
    let (first, second) = (web(3).await, web(3).await);
    jukebox
        .load(&title(&first, MediaKind::Audio))
        .await
        .expect("loaded");
    jukebox.play().await.expect("started");
    wait_status(&jukebox, "the first title", |now| {
        now.url.as_deref() == Some(&first)
    })
    .await;
    jukebox
        .load_next(&title(&second, MediaKind::Audio))
        .await
        .expect("loaded");
    wait_status(&jukebox, "the second title", |now| {
        now.url.as_deref() == Some(&second) && playing(now)
    })
    .await;
    wait_status(&jukebox, "the end", |now| {
        now.state == TransportState::Stopped
    })
    .await;
    let queue = until("its own song", async || {
        let queue = jukebox.queue().await.ok()?;
        (queue.state == TransportState::Playing).then_some(queue)
    })
    .await;
    assert_eq!(queue.entries.len(), 1, "{queue:?}");
    assert!(!queue.entries[0].ours);
}

#[tokio::test]
async fn a_song_chosen_at_the_jukebox_itself_plays_on() {
    let peer = peer(None).await;
    let jukebox = peer.jukebox();
    let own = songs(&jukebox).await;
    jukebox.play_own(&own[0].id).await.expect("its own song");
    let url = web(30).await;
    jukebox
        .load(&title(&url, MediaKind::Audio))
        .await
        .expect("loaded");
    jukebox.play().await.expect("started");
    wait_status(&jukebox, "the title", |now| now.url.is_some()).await;
    peer.jukebox()
        .play_own(&own[1].id)
        .await
        .expect("another song");
    wait_status(&jukebox, "the end", |now| {
        now.state == TransportState::Stopped
    })
    .await;
    let queue = jukebox.queue().await.expect("a queue");
    assert_eq!(queue.state, TransportState::Playing);
    let current = queue.entries.iter().find(|entry| entry.current);
    assert_eq!(
        current.map(|entry| entry.title.as_str()),
        Some(own[1].title.as_str())
    );
    assert!(queue.entries.iter().all(|entry| !entry.ours), "{queue:?}");
}

#[tokio::test]
async fn its_own_library_and_outputs_are_driven() {
    let peer = peer(None).await;
    let jukebox = peer.jukebox();
    let outputs = jukebox.outputs().await.expect("outputs");
    let named: Vec<_> = outputs.iter().map(|o| (o.name.as_str(), o.on)).collect();
    assert_eq!(named, [("Kitchen", true), ("Garden", true)]);
    jukebox.disable_output(outputs[1].id).await.expect("off");
    assert!(!jukebox.outputs().await.expect("outputs")[1].on);
    jukebox.enable_output(outputs[1].id).await.expect("on");

    for whole in ["list:Party", "dir:Sub folder"] {
        let id = ObjectId::new(whole).expect("short");
        jukebox.play_own(&id).await.expect("played");
    }
    let queue = jukebox.queue().await.expect("a queue");
    assert_eq!(queue.entries.len(), 2);
    assert!(queue.entries[1].current, "{queue:?}");
    jukebox.previous().await.expect("back");
    jukebox.next().await.expect("on");
    jukebox
        .play_queued(queue.entries[0].id)
        .await
        .expect("chosen");
    assert!(jukebox.queue().await.expect("a queue").entries[0].current);
    let film = title("http://127.0.0.1:1/film.mp4", MediaKind::Video);
    assert!(matches!(
        jukebox.load(&film).await,
        Err(RenderError::Format { .. })
    ));
}

#[tokio::test]
async fn what_is_done_at_the_jukebox_itself_is_told() {
    let peer = peer(None).await;
    let jukebox = peer.jukebox();
    let mut changes = jukebox.changes();
    let other = peer.jukebox();
    // It may not listen yet when the first change is made.
    until("the change to be told", async || {
        let loud = other.volume().await.ok()?.as_percent();
        other
            .set_volume(Volume::percent((loud + 1) % 100))
            .await
            .ok()?;
        let told = timeout(Duration::from_secs(2), changes.next()).await.ok()?;
        (told == Some(Change::Loudness)).then_some(())
    })
    .await;
    changes.end().await;
}

#[tokio::test]
async fn a_password_is_asked_for_and_used() {
    let peer = peer(Some("open sesame")).await;
    let locked = peer
        .jukebox()
        .list(&ObjectId::root(), PageRequest::default())
        .await;
    assert!(
        matches!(locked, Err(ListError::Password { .. })),
        "{locked:?}"
    );
    let wrong = peer.jukebox().with_password(Password::new("wrong"));
    assert!(matches!(
        wrong.status().await,
        Err(RenderError::Refused { .. })
    ));
    let open = peer.jukebox().with_password(Password::new("open sesame"));
    assert!(open.status().await.is_ok());
}

/// Something at the address of an MPD that sends `greeting`, then `flood` again and again.
async fn hostile(greeting: &'static [u8], flood: &'static [u8]) -> Jukebox {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            flood_it(&mut stream, greeting, flood).await;
        }
    });
    serving.detach_all();
    Jukebox::new("Evil".to_owned(), MpdAccess { address })
}

async fn flood_it(stream: &mut TcpStream, greeting: &[u8], flood: &[u8]) {
    if stream.write_all(greeting).await.is_err() || flood.is_empty() {
        // Silent from here on, until the other side gives up.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        return;
    }
    let mut sent = 0;
    while stream.write_all(flood).await.is_ok() {
        sent += flood.len();
        assert!(
            sent < 4 * MAX_ANSWER_BYTES,
            "it is still read after {sent} bytes"
        );
    }
}

#[tokio::test]
async fn hostile_answers_end_in_plain_words() {
    let top = ObjectId::root();
    for (greeting, flood) in [
        // An endless greeting, an endless line, endless lines, an endless binary, junk, and no MPD at all.
        (&b""[..], &[b'x'; MAX_LINE_BYTES][..]),
        (b"OK MPD 0.23.5\n", &[b'x'; MAX_LINE_BYTES]),
        (b"OK MPD 0.23.5\n", b"a: \n"),
        (b"OK MPD 0.23.5\nbinary: 99999999999\n", &[b'\n'; 4096]),
        (
            b"OK MPD 0.23.5\n",
            b"directory: d\nfile: x\nduration: nan\n",
        ),
        (b"OK MPD 0.23.5\n", b"OK\nOK\nOK\n"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", b""),
        (b"OK MPD 0.23.5\nACK [50@0] {lsinfo} \x1b[31mred\n", b"OK\n"),
    ] {
        let jukebox = hostile(greeting, flood).await;
        let what = String::from_utf8_lossy(greeting);
        let listed = timeout(LONG, jukebox.list(&top, PageRequest::default())).await;
        let listed = listed.unwrap_or_else(|_| panic!("listing hangs on {what:?}"));
        // "OK" at once is an empty folder; everything else is an error.
        assert!(
            listed.is_err() || listed.is_ok_and(|page| page.total <= 1),
            "{what:?}"
        );
        let status = timeout(LONG, jukebox.status()).await;
        assert!(
            status
                .unwrap_or_else(|_| panic!("status hangs on {what:?}"))
                .is_err(),
            "{what:?}"
        );
    }
}

#[tokio::test]
async fn one_that_says_nothing_is_given_up() {
    let jukebox = hostile(b"OK MPD 0.23.5\n", b"").await;
    let error = timeout(LONG, jukebox.status())
        .await
        .expect("no hang")
        .expect_err("no answer");
    assert!(matches!(error, RenderError::Unreachable { .. }), "{error}");
}
