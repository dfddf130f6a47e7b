//! The loudspeaker end to end (F63): real files, fetched by ranges over loopback HTTP, decoded by the worker's code,
//! written by ALSA itself, through its `file` device, into files that are compared with what ffmpeg makes of the same
//! music. No sound card is needed. The worker runs on a thread here; its sandbox is the gateway's and tested there.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mantel_peripherals::alsa::{Levels, SoundPort, Speaker, Speakers};
use mantel_peripherals::decode::source::ByteSource;
use mantel_peripherals::decode::{DecodeError, Decoder, Decoding, Worker, wire, worker};
use mantel_peripherals::media::{
    MediaKind, Mute, PlayRequest, RenderError, TransportState, Volume,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_mins(1);

/// The worker's real code, on a thread.
fn decoder() -> Decoder {
    Decoder::new(|| {
        let (theirs_in, ours_in) = std::io::pipe()?;
        let (ours_out, theirs_out) = std::io::pipe()?;
        std::thread::spawn(move || worker::serve(theirs_in, theirs_out));
        Ok(Worker {
            input: Box::new(pipe::Sender::from_owned_fd(ours_in.into())?),
            output: Box::new(pipe::Receiver::from_owned_fd(ours_out.into())?),
            guard: Box::new(()),
        })
    })
}

fn run(program: &str, words: &[&str]) -> Vec<u8> {
    let out = Command::new(program).args(words).output().expect(program);
    assert!(
        out.status.success(),
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout
}

/// A folder that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mantel-sound-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Two voices of noise and tone: nothing that repeats.
    fn music(&self, name: &str, seconds: f32, rate: u32, codec: &[&str]) -> String {
        let path = self.file(name);
        let tone = format!("sine=frequency=330:duration={seconds}:sample_rate={rate}");
        let noise = format!("anoisesrc=duration={seconds}:sample_rate={rate}:seed=7:amplitude=0.3");
        let mut words = vec!["-v", "error", "-y", "-f", "lavfi", "-i", &tone];
        words.extend(["-f", "lavfi", "-i", &noise]);
        words.extend(["-filter_complex", "[0][1]amerge=inputs=2"]);
        words.extend(codec);
        words.push(&path);
        run("ffmpeg", &words);
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What ffmpeg decodes, 16-bit stereo.
fn reference(path: &str) -> Vec<i16> {
    let raw = run(
        "ffmpeg",
        &["-v", "error", "-i", path, "-f", "s16le", "-ac", "2", "-"],
    );
    let (samples, _) = raw.as_chunks::<2>();
    samples.iter().map(|s| i16::from_le_bytes(*s)).collect()
}

/// What the `file` device wrote: raw 32-bit samples; the upper halves, and whether the lower ones were all zero.
fn heard(path: &str) -> (Vec<i16>, bool) {
    let raw = std::fs::read(path).expect("the file device wrote");
    let (samples, _) = raw.as_chunks::<4>();
    let exact = samples.iter().all(|s| s[0] == 0 && s[1] == 0);
    (
        samples
            .iter()
            .map(|s| i16::from_le_bytes([s[2], s[3]]))
            .collect(),
        exact,
    )
}

/// A range server of one folder, like the gateway's. Counts its answers.
struct Server {
    base: String,
    answers: Arc<AtomicUsize>,
    _tasks: TaskTracker,
    _stop: tokio_util::sync::DropGuard,
}

impl Server {
    async fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let answers = Arc::new(AtomicUsize::new(0));
        let (folder, counted, each, ended) = (
            folder.to_owned(),
            Arc::clone(&answers),
            tasks.clone(),
            stop.clone(),
        );
        tasks.spawn(async move {
            while let Some(Ok((stream, _))) = ended.run_until_cancelled(listener.accept()).await {
                counted.fetch_add(1, Ordering::Relaxed);
                let folder = folder.clone();
                each.spawn(async move {
                    // The player hangs up when it has enough.
                    let _ = answer(stream, &folder).await;
                });
            }
        });
        Self {
            base,
            answers,
            _tasks: tasks,
            _stop: stop.drop_guard(),
        }
    }

    fn request(&self, file: &str, mime: &str) -> PlayRequest {
        let name = file.rsplit('/').next().expect("a name");
        PlayRequest {
            url: format!("{}/{name}", self.base),
            title: name.to_owned(),
            kind: MediaKind::Audio,
            mime: mime.to_owned(),
            size_bytes: None,
            duration: None,
        }
    }
}

async fn answer(mut stream: tokio::net::TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let name = head.split([' ', '/']).nth(2).unwrap_or_default();
    let Ok(bytes) = std::fs::read(folder.join(name)) else {
        return stream
            .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
            .await;
    };
    let start = head
        .split("bytes=")
        .nth(1)
        .and_then(|rest| rest.split('-').next()?.parse::<usize>().ok())
        .unwrap_or(0);
    let (end, total) = (bytes.len().saturating_sub(1), bytes.len());
    let answer = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {start}-{end}/{total}\r\n\r\n",
        total - start
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.write_all(&bytes[start..]).await
}

struct Stage {
    folder: Folder,
    server: Server,
    speakers: Speakers,
    _stop: tokio_util::sync::DropGuard,
}

impl Stage {
    async fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let server = Server::start(&folder.0).await;
        let stop = CancellationToken::new();
        let speakers = Speakers::new(decoder(), Levels::new(), stop.clone());
        Self {
            folder,
            server,
            speakers,
            _stop: stop.drop_guard(),
        }
    }

    /// A loudspeaker that writes what is heard into a file.
    fn speaker(&self, file: &str) -> Speaker {
        let pcm = format!("file:{},raw", self.folder.file(file));
        let port = SoundPort::named(&pcm).expect("a name");
        self.speakers.open("Test speaker", &port)
    }
}

async fn until(speaker: &Speaker, what: &str, done: impl Fn(TransportState, Duration) -> bool) {
    let wait = async {
        loop {
            let now = speaker.status().await.expect("a status");
            assert!(!now.failed, "{what}: the loudspeaker failed");
            if done(now.state, now.position.unwrap_or_default()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect(what);
}

async fn play_through(speaker: &Speaker, request: &PlayRequest) {
    speaker.load(request).await.expect("loaded");
    speaker.play().await.expect("started");
    until(speaker, "played to the end", |state, _| {
        state == TransportState::Stopped
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lossless_music_is_heard_bit_for_bit() {
    let stage = Stage::new("lossless").await;
    for (name, mime, codec) in [
        (
            "a.flac",
            "audio/flac",
            &["-c:a", "flac", "-sample_fmt", "s16"] as &[_],
        ),
        ("a.wav", "audio/wav", &["-c:a", "pcm_s16le"]),
        ("a.aiff", "audio/aiff", &["-c:a", "pcm_s16be"]),
        (
            "a.m4a",
            "audio/mp4",
            &["-c:a", "alac", "-sample_fmt", "s16p"],
        ),
    ] {
        let music = stage.folder.music(name, 3.0, 44_100, codec);
        let raw = format!("{name}.raw");
        play_through(&stage.speaker(&raw), &stage.server.request(&music, mime)).await;
        let (heard, exact) = heard(&stage.folder.file(&raw));
        assert!(exact, "{name}");
        assert!(heard == reference(&music), "{name}: other samples");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_titles_follow_each_other_without_a_gap() {
    let stage = Stage::new("gapless").await;
    let codec = &["-c:a", "flac", "-sample_fmt", "s16"];
    let first = stage.folder.music("one.flac", 1.237, 44_100, codec);
    let second = stage.folder.music("two.flac", 0.911, 44_100, codec);
    let speaker = stage.speaker("both.raw");
    speaker
        .load(&stage.server.request(&first, "audio/flac"))
        .await
        .expect("loaded");
    speaker
        .load_next(&stage.server.request(&second, "audio/flac"))
        .await
        .expect("loaded next");
    speaker.play().await.expect("started");
    until(&speaker, "the end of both", |state, _| {
        state == TransportState::Stopped
    })
    .await;
    let status = speaker.status().await.expect("a status");
    assert!(status.url.expect("a title").ends_with("two.flac"));
    let mut both = reference(&first);
    both.extend(reference(&second));
    let (heard, exact) = heard(&stage.folder.file("both.raw"));
    assert!(
        exact && heard == both,
        "{} of {} samples",
        heard.len(),
        both.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lossy_music_is_trimmed_and_sounds_as_elsewhere() {
    let stage = Stage::new("lossy").await;
    for (name, mime, codec, trimmed) in [
        (
            "a.mp3",
            "audio/mpeg",
            &["-c:a", "libmp3lame", "-b:a", "192k"] as &[_],
            true,
        ),
        ("a.ogg", "audio/ogg", &["-c:a", "libvorbis"], true),
        // The MP4 reader tells nothing of the encoder's delay: a little silence stays at both ends.
        (
            "a.m4a",
            "audio/mp4",
            &["-c:a", "aac", "-b:a", "192k"],
            false,
        ),
        ("a.mka", "audio/x-matroska", &["-c:a", "libvorbis"], false),
    ] {
        let music = stage.folder.music(name, 2.0, 44_100, codec);
        let raw = format!("{name}.raw");
        play_through(&stage.speaker(&raw), &stage.server.request(&music, mime)).await;
        let (heard, _) = heard(&stage.folder.file(&raw));
        let wanted = reference(&music);
        if trimmed {
            assert_eq!(heard.len(), wanted.len(), "{name}");
        }
        let best = (0..=2 * 2300)
            .step_by(2)
            .map(|shift| correlation(&heard[shift..shift + 20_000], &wanted))
            .fold(0.0, f64::max);
        let here = if trimmed {
            correlation(&heard, &wanted)
        } else {
            best
        };
        assert!(here > 0.999, "{name}: {here}");
    }
}

fn correlation(a: &[i16], b: &[i16]) -> f64 {
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    ab / (aa * bb).sqrt().max(1.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn seeking_is_exact_and_fetches_by_range() {
    let stage = Stage::new("seek").await;
    for (name, mime, codec, rate) in [
        (
            "a.flac",
            "audio/flac",
            &["-c:a", "flac", "-sample_fmt", "s16"] as &[_],
            44_100,
        ),
        ("b.wav", "audio/wav", &["-c:a", "pcm_s16le"], 48_000),
    ] {
        let music = stage.folder.music(name, 20.0, rate, codec);
        let raw = format!("{name}.raw");
        let speaker = stage.speaker(&raw);
        let before = stage.server.answers.load(Ordering::Relaxed);
        speaker
            .load(&stage.server.request(&music, mime))
            .await
            .expect("loaded");
        speaker.seek(Duration::from_secs(15)).await.expect("sought");
        speaker.play().await.expect("started");
        until(&speaker, "the end", |state, _| {
            state == TransportState::Stopped
        })
        .await;
        assert!(
            stage.server.answers.load(Ordering::Relaxed) > before + 1,
            "a range of its own was fetched"
        );
        let (heard, exact) = heard(&stage.folder.file(&raw));
        let wanted = reference(&music);
        let from = 15 * rate as usize * 2;
        assert!(exact && heard == wanted[from..], "{name}: {}", heard.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_begins_anew_and_a_new_title_replaces_the_old() {
    let stage = Stage::new("stop").await;
    let codec = &["-c:a", "pcm_s16le"];
    let music = stage.folder.music("a.wav", 1.0, 44_100, codec);
    let other = stage.folder.music("b.wav", 0.5, 22_050, codec);
    let speaker = stage.speaker("x.raw");
    let request = stage.server.request(&music, "audio/wav");
    assert!(matches!(
        speaker.play().await,
        Err(RenderError::NotNow { .. })
    ));
    speaker.load(&request).await.expect("loaded");
    speaker
        .seek(Duration::from_millis(500))
        .await
        .expect("sought");
    speaker.stop().await.expect("stopped");
    let status = speaker.status().await.expect("a status");
    assert_eq!(status.state, TransportState::Stopped);
    assert_eq!(status.position, Some(Duration::ZERO));
    speaker.play().await.expect("started");
    until(&speaker, "the end", |state, _| {
        state == TransportState::Stopped
    })
    .await;
    let status = speaker.status().await.expect("a status");
    assert_eq!(status.position, Some(Duration::from_secs(1)));
    assert_eq!(status.duration, Some(Duration::from_secs(1)));
    assert!(heard(&stage.folder.file("x.raw")).0 == reference(&music));
    play_through(&speaker, &stage.server.request(&other, "audio/wav")).await;
    assert!(heard(&stage.folder.file("x.raw")).0 == reference(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn loudness_without_a_mixer_is_made_here_and_told() {
    let stage = Stage::new("loud").await;
    let music = stage
        .folder
        .music("a.wav", 0.5, 44_100, &["-c:a", "pcm_s16le"]);
    let speaker = stage.speaker("a.raw");
    let levels = stage.speakers.levels();
    assert_eq!(speaker.volume().await.expect("told"), Volume::percent(100));
    speaker.set_volume(Volume::percent(50)).await.expect("set");
    assert_eq!(speaker.volume().await.expect("told"), Volume::percent(50));
    let request = stage.server.request(&music, "audio/wav");
    play_through(&speaker, &request).await;
    let (half, _) = heard(&stage.folder.file("a.raw"));
    let full = reference(&music);
    assert!(
        half.iter()
            .zip(&full)
            .all(|(h, f)| (f64::from(*h) - f64::from(*f) / 8.0).abs() <= 1.0)
    );
    speaker.set_mute(Mute::On).await.expect("muted");
    assert_eq!(speaker.mute().await.expect("told"), Mute::On);
    play_through(&speaker, &request).await;
    assert!(heard(&stage.folder.file("a.raw")).0.iter().all(|s| *s == 0));
    let kept = levels.borrow().values().copied().collect::<Vec<_>>();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].muted && kept[0].percent == 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_played_is_said_in_plain_words() {
    let stage = Stage::new("bad").await;
    let speaker = stage.speaker("x.raw");
    std::fs::write(stage.folder.file("junk.mp3"), vec![0x42; 100_000]).expect("written");
    let junk = speaker
        .load(&stage.server.request("junk.mp3", "audio/mpeg"))
        .await;
    let error = junk.expect_err("junk");
    assert!(matches!(error, RenderError::Format { .. }), "{error:?}");
    assert_eq!(error.to_string(), "Test speaker cannot play this format.");
    let missing = speaker
        .load(&stage.server.request("gone.mp3", "audio/mpeg"))
        .await;
    assert!(
        matches!(missing, Err(RenderError::MediaUnreachable { .. })),
        "{missing:?}"
    );
    let absent = SoundPort::named("hw:CARD=NoSuchCard").expect("a name");
    let absent = stage.speakers.open("Absent", &absent);
    let music = stage
        .folder
        .music("a.wav", 0.2, 44_100, &["-c:a", "pcm_s16le"]);
    absent
        .load(&stage.server.request(&music, "audio/wav"))
        .await
        .expect("the title is fine");
    let gone = absent.play().await;
    assert!(
        matches!(gone, Err(RenderError::Unreachable { .. })),
        "{gone:?}"
    );
}

/// Every prefix and some damage of every format: an end or an error, never a hang or a crash, and never more samples
/// than the whole has.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_end_or_fail_within_bounds() {
    let folder = Folder::new("damaged");
    for (name, codec) in [
        ("a.flac", &["-c:a", "flac"] as &[_]),
        ("a.wav", &["-c:a", "pcm_s16le"]),
        ("a.mp3", &["-c:a", "libmp3lame"]),
        ("a.ogg", &["-c:a", "libvorbis"]),
        ("a.m4a", &["-c:a", "aac"]),
        ("a.aiff", &["-c:a", "pcm_s16be"]),
        ("a.mka", &["-c:a", "libvorbis"]),
    ] {
        let whole = std::fs::read(folder.music(name, 0.5, 44_100, codec)).expect("read");
        let mut cases: Vec<Vec<u8>> = (0..24)
            .map(|part| whole[..whole.len() * part / 24].to_vec())
            .collect();
        for seed in 0..24_usize {
            let mut damaged = whole.clone();
            for step in 0..12 {
                let at = (seed * 7919 + step * 104_729) % damaged.len();
                damaged[at] = damaged[at].wrapping_mul(31).wrapping_add(seed as u8);
            }
            cases.push(damaged);
        }
        for (case, bytes) in cases.into_iter().enumerate() {
            let opened = Decoding::open(&decoder(), ByteSource::memory(bytes), "").await;
            let Ok(mut decoding) = opened else { continue };
            let mut samples = 0;
            while let Ok(Some(block)) = decoding.next().await {
                assert!(block.len() <= wire::MAX_FRAMES * 8, "{name} {case}");
                samples += block.len();
                assert!(samples < 44_100 * 100, "{name} {case}: no end");
            }
        }
    }
}

/// A worker that lies, or dies, costs an error and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_worker_is_an_error() {
    let no_channels = {
        let mut bytes = wire::Answer::Format(wire::PcmFormat {
            rate: 44_100,
            channels: 1,
            bits: 16,
            frames: None,
        })
        .to_bytes();
        bytes[wire::HEAD_BYTES + 4] = 0;
        bytes
    };
    let want = wire::Answer::Want { offset: 0, len: 4 };
    for (what, says, unborn) in [
        ("no channels", no_channels, false),
        ("a huge message", vec![67, 0xff, 0xff, 0xff, 0xff], false),
        ("death at once", Vec::new(), true),
        ("death by the file", want.to_bytes(), false),
        ("another answer", wire::Answer::End.to_bytes(), false),
    ] {
        let liar = Decoder::new(move || {
            let (theirs_in, ours_in) = std::io::pipe()?;
            let (ours_out, mut theirs_out) = std::io::pipe()?;
            theirs_out.write_all(&says)?;
            Ok(Worker {
                input: Box::new(pipe::Sender::from_owned_fd(ours_in.into())?),
                output: Box::new(pipe::Receiver::from_owned_fd(ours_out.into())?),
                guard: Box::new(theirs_in),
            })
        });
        let opened = Decoding::open(&liar, ByteSource::memory(vec![0; 10]), "").await;
        let fits = match &opened {
            Err(DecodeError::NoWorker(_)) => unborn,
            Err(DecodeError::Broken(_)) => !unborn,
            _ => false,
        };
        assert!(fits, "{what}: {opened:?}");
    }
}
