//! Sound at the gateway end to end (F2, F63): the real program, with its sandbox, its pages and ALSA's own `file`
//! device instead of a card: music is uploaded, played on the loudspeaker and compared with what ffmpeg decodes; a tape
//! is recorded and its tracks are played back and compared with the tape. No sound card is needed.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(2);
const RATE: usize = 44_100;

/// A gateway at work, ended when dropped.
struct Gateway {
    child: Child,
    base: String,
    folder: tempfile::TempDir,
    browser: reqwest::Client,
    cookie: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

impl Gateway {
    /// A gateway whose loudspeaker writes `heard.raw` and whose line-in plays `tape.raw`.
    async fn start(tape: &[i16]) -> Result<Self> {
        Self::start_with(tape, std::env::var_os("PATH").unwrap_or_default()).await
    }

    /// The same, with programs looked for in `path`.
    async fn start_with(tape: &[i16], path: OsString) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let place = |name: &str| folder.path().join(name).display().to_string();
        let bytes: Vec<u8> = tape.iter().flat_map(|s| s.to_le_bytes()).collect();
        std::fs::write(folder.path().join("tape.raw"), bytes)?;
        let sound = format!(
            "<confdir:alsa.conf>\n\
             pcm.speaker {{ type file slave.pcm null file \"{}\" format raw }}\n\
             pcm.deck {{ type file slave.pcm null file /dev/null infile \"{}\" format raw }}\n",
            place("heard.raw"),
            place("tape.raw")
        );
        std::fs::write(folder.path().join("asound.conf"), sound)?;
        let settings = format!(
            "data_dir = \"{}\"\n[web]\nlisten = \"127.0.0.1:{}\"\n[exchange]\nlisten = \"127.0.0.1:{}\"\n\
             [devices]\nloudspeakers = [\"speaker\"]\nline_ins = [\"deck\"]\n\
             [recording]\nsilence_s = 1.0\nmin_track_s = 2.0\n",
            place("data"),
            free_port()?,
            free_port()?
        );
        let base = settings
            .split('"')
            .nth(3)
            .map(|listen| format!("http://{listen}"))
            .context("an address")?;
        std::fs::write(folder.path().join("gateway.toml"), settings)?;
        mantel_runtime::tls::install_provider();
        let browser = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let child = Command::new(env!("CARGO_BIN_EXE_mantel-gateway"))
            .args(["--config", &place("gateway.toml")])
            .env("ALSA_CONFIG_PATH", place("asound.conf"))
            .env("TZ", "UTC")
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log"))?)
            .spawn()?;
        let mut gateway = Self {
            child,
            base,
            folder,
            browser,
            cookie: String::new(),
        };
        gateway.log_in().await?;
        Ok(gateway)
    }

    async fn log_in(&mut self) -> Result<()> {
        until("the gateway serves", async || {
            let asked = self.browser.get(format!("{}/healthz", self.base)).send();
            Ok(asked.await.is_ok().then_some(()))
        })
        .await?;
        let fields = "password=a+long+pass+phrase&again=a+long+pass+phrase";
        let answer = self.form("/setup", fields).await?;
        let cookie = answer
            .headers()
            .get("set-cookie")
            .and_then(|line| line.to_str().ok()?.split(';').next())
            .context("a cookie")?;
        cookie.clone_into(&mut self.cookie);
        Ok(())
    }

    async fn form(&self, path: &str, fields: &str) -> Result<reqwest::Response> {
        let request = self
            .browser
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("cookie", &self.cookie)
            .body(fields.to_owned());
        Ok(request.send().await?)
    }

    /// Posts a form; it must be done.
    async fn press(&self, path: &str, fields: &str) -> Result<()> {
        let answer = self.form(path, fields).await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.as_u16() == 303, "{path} {fields}: {status}: {text}");
        Ok(())
    }

    async fn page(&self, path: &str) -> Result<String> {
        let request = self
            .browser
            .get(format!("{}{path}", self.base))
            .header("cookie", &self.cookie);
        Ok(request.send().await?.error_for_status()?.text().await?)
    }

    async fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.page("/status.json").await?)?)
    }

    /// Uploads a file; its title.
    async fn upload(&self, path: &Path, mime: &str) -> Result<String> {
        let name = path.file_name().context("a name")?.to_string_lossy();
        let mut body = format!(
            "--cut\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             content-type: {mime}\r\n\r\n"
        )
        .into_bytes();
        body.extend(std::fs::read(path)?);
        body.extend(b"\r\n--cut--\r\n");
        let request = self
            .browser
            .post(format!("{}/library/upload", self.base))
            .header("content-type", "multipart/form-data; boundary=cut")
            .header("accept", "application/json")
            .header("cookie", &self.cookie)
            .body(body);
        let text = request.send().await?.text().await?;
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let title = answer["title"].as_str().with_context(|| text.clone())?;
        Ok(title.to_owned())
    }

    /// The key of the device of this class, let in.
    async fn device(&self, class: &str) -> Result<String> {
        let id = until("the device is listed", async || {
            let status = self.status().await?;
            let devices = status["devices"].as_array().context("devices")?;
            let found = devices.iter().find(|device| device["class"] == class);
            Ok(found.and_then(|device| device["id"].as_str().map(str::to_owned)))
        })
        .await?;
        let id = id.replace(':', "%3A");
        self.press(&format!("/devices/{id}/admit"), "").await?;
        Ok(id)
    }

    /// Plays a title to its end; what was heard.
    async fn play(&self, title: &str, speaker: &str) -> Result<Vec<i16>> {
        self.press(&format!("/library/{title}/play"), &format!("on={speaker}"))
            .await?;
        until("it is over", async || {
            let status = self.status().await?;
            Ok(status["playing"]
                .as_array()
                .is_none_or(Vec::is_empty)
                .then_some(()))
        })
        .await?;
        let raw = std::fs::read(self.folder.path().join("heard.raw"))?;
        let (samples, _) = raw.as_chunks::<4>();
        Ok(samples
            .iter()
            .map(|s| i16::from_le_bytes([s[2], s[3]]))
            .collect())
    }

    fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(self.folder.path().join("log")) {
            let _ = file.read_to_string(&mut text);
        }
        text
    }
}

async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let wait = async {
        loop {
            if let Some(found) = ask().await? {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .with_context(|| format!("waited for: {what}"))?
}

fn ffmpeg(words: &[&str]) -> Result<Vec<u8>> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-y"])
        .args(words)
        .output()?;
    ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(out.stdout)
}

/// A tone with an odd beat: nothing in it repeats exactly.
fn tone(seconds: f64, hertz: f64) -> Vec<i16> {
    let frames = (seconds * RATE as f64) as usize;
    (0..frames)
        .flat_map(|n| {
            let t = n as f64 / RATE as f64;
            let sample = (t * hertz * std::f64::consts::TAU).sin() * 9_000.0
                + (t * t * 97.3).sin() * 3_000.0;
            [sample as i16, (sample * 0.7) as i16]
        })
        .collect()
}

fn quiet(seconds: f64) -> Vec<i16> {
    vec![0; (seconds * RATE as f64) as usize * 2]
}

fn write_wav(path: &Path, samples: &[i16]) -> Result<()> {
    let raw = path.with_extension("raw");
    let bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    std::fs::write(&raw, bytes)?;
    let (raw, path) = (raw.display().to_string(), path.display().to_string());
    ffmpeg(&["-f", "s16le", "-ar", "44100", "-ac", "2", "-i", &raw, &path])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_title_plays_on_the_gateways_loudspeaker() -> Result<()> {
    let gateway = Gateway::start(&[]).await?;
    let run = async {
        let speaker = gateway.device("speaker").await?;
        let music = tone(3.0, 440.0);
        for (name, mime) in [("a.wav", "audio/wav"), ("a.flac", "audio/flac")] {
            let file = gateway.folder.path().join(name);
            write_wav(&file, &music)?;
            let title = gateway.upload(&file, mime).await?;
            let heard = gateway.play(&title, &speaker).await?;
            ensure!(heard == music, "{name}: {} samples heard", heard.len());
        }
        // What is no sound is refused in words, and the gateway lives on.
        let junk = gateway.folder.path().join("junk.mp3");
        std::fs::write(&junk, vec![0x55; 50_000])?;
        let title = gateway.upload(&junk, "audio/mpeg").await?;
        let refused = gateway
            .form(&format!("/library/{title}/play"), &format!("on={speaker}"))
            .await?;
        ensure!(refused.status().as_u16() == 409, "{}", refused.status());
        ensure!(refused.text().await?.contains("cannot play this format"));
        // No mixer here: loudness is made in software.
        let volume = gateway
            .form(
                &format!("/devices/{speaker}/player"),
                "action=volume&volume=40&back=/",
            )
            .await?;
        ensure!(volume.status().as_u16() == 303, "{}", volume.status());
        Ok(())
    };
    run.await.with_context(|| gateway.log())
}

/// A machine without the sandbox: the household reads that the gateway lacks something, not that the title is bad.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_sandbox_is_not_blamed_on_the_title() -> Result<()> {
    let programs = tempfile::tempdir()?;
    for name in ["timeout", "prlimit"] {
        std::os::unix::fs::symlink(Path::new("/usr/bin").join(name), programs.path().join(name))?;
    }
    let gateway = Gateway::start_with(&[], programs.path().into()).await?;
    let run = async {
        let speaker = gateway.device("speaker").await?;
        let file = gateway.folder.path().join("a.wav");
        write_wav(&file, &tone(1.0, 440.0))?;
        let title = gateway.upload(&file, "audio/wav").await?;
        let refused = gateway
            .form(&format!("/library/{title}/play"), &format!("on={speaker}"))
            .await?;
        ensure!(refused.status().as_u16() == 409, "{}", refused.status());
        let page = refused.text().await?;
        ensure!(page.contains("could not start its decoder"), "{page}");
        ensure!(!page.contains("cannot play this format"), "{page}");
        Ok(())
    };
    run.await.with_context(|| gateway.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tape_becomes_titles() -> Result<()> {
    let songs = [tone(3.0, 330.0), tone(4.5, 550.0), tone(2.5, 220.0)];
    let mut tape = quiet(1.5);
    for song in &songs {
        tape.extend(song);
        tape.extend(quiet(1.5));
    }
    let gateway = Gateway::start(&tape).await?;
    let run = async {
        let deck = gateway.device("line_in").await?;
        let speaker = gateway.device("speaker").await?;
        gateway
            .press(&format!("/devices/{deck}/record"), "action=start")
            .await?;
        // The file device has no clock: it plays the tape again and again, as fast as it is read.
        let recording = until("three tracks are stored", async || {
            let status = gateway.status().await?;
            let recording = status["recordings"][0].clone();
            let saved = recording["tracks"].as_array().is_some_and(|tracks| {
                tracks
                    .iter()
                    .filter(|track| track["state"] == "saved")
                    .count()
                    >= songs.len()
            });
            Ok(saved.then_some(recording))
        })
        .await?;
        let page = gateway.page(&format!("/devices/{deck}")).await?;
        ensure!(page.contains("Track 1"), "the page lists the tracks");
        gateway
            .press(&format!("/devices/{deck}/record"), "action=stop")
            .await?;
        until("the recording ended", async || {
            let status = gateway.status().await?;
            Ok((status["recordings"][0]["running"] == false).then_some(()))
        })
        .await?;
        let tracks = recording["tracks"].as_array().context("tracks")?;
        for (number, (track, song)) in tracks.iter().zip(&songs).enumerate() {
            let name = track["name"].as_str().context("a name")?;
            ensure!(name.starts_with("Line-in (deck) 2"), "{name}");
            ensure!(
                name.ends_with(&format!(" - Track {}", number + 1)),
                "{name}"
            );
            let title = track["title"].as_str().context("a title")?;
            let heard = gateway.play(title, &speaker).await?;
            let extra =
                heard.len() as f64 / 2.0 / RATE as f64 - song.len() as f64 / 2.0 / RATE as f64;
            ensure!(
                (0.0..=0.8).contains(&extra),
                "track {number}: {extra} s of silence kept"
            );
            let first = heard.iter().position(|s| *s != 0).context("sound")? / 2 * 2;
            let start = song.iter().position(|s| *s != 0).context("sound")? / 2 * 2;
            let song = &song[start..];
            ensure!(
                heard[first..first + song.len()] == *song,
                "track {number} differs"
            );
        }
        Ok(())
    };
    run.await.with_context(|| gateway.log())
}
