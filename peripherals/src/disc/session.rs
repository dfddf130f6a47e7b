//! Running the programs that read audio CDs: `cd-paranoia` (corrects what a drive reads wrongly) for the table of
//! contents and the sound, `cd-info` for CD-TEXT. They are separate programs; they are ended when nobody waits for them
//! any more.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::wire::{CdText, Toc, Track, parse_cd_text};

/// A drive must have told what is on its disc within this time; spinning up takes ten seconds or so.
pub const LOOK_TIME: Duration = Duration::from_mins(1);
/// Most bytes read of what a program prints about a disc.
const MAX_PRINTED: u64 = 256 * 1024;
/// Most drives remembered.
const MAX_DRIVES: usize = 64;

/// Why a disc was not read.
#[derive(Debug, thiserror::Error)]
pub enum DiscError {
    /// A program is missing.
    #[error("the program {program} could not be started")]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The drive does not answer.
    #[error("the drive does not answer")]
    Silent,
    /// It is being read for somebody else.
    #[error("the disc is being copied right now")]
    Busy,
    /// It holds no audio.
    #[error("there is no audio CD in the drive")]
    NoAudio,
    /// The program broke off.
    #[error("reading the disc failed")]
    Reading(#[source] io::Error),
}

/// What is on a disc.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) disc_id: String,
    pub(super) toc: Toc,
    pub(super) text: CdText,
}

/// One drive: read by one program at a time.
struct Drive {
    free: Arc<Semaphore>,
    last: Mutex<Option<Arc<Contents>>>,
}

static DRIVES: Mutex<BTreeMap<PathBuf, Arc<Drive>>> = Mutex::new(BTreeMap::new());

fn drive(path: &Path) -> Arc<Drive> {
    let mut drives = DRIVES.lock().expect("no holder of this lock panics");
    if drives.len() >= MAX_DRIVES && !drives.contains_key(path) {
        drives.retain(|_, drive| drive.free.available_permits() == 0);
    }
    let entry = drives.entry(path.to_owned()).or_insert_with(|| {
        Arc::new(Drive {
            free: Arc::new(Semaphore::new(1)),
            last: Mutex::new(None),
        })
    });
    Arc::clone(entry)
}

/// What is on the disc now. While the disc is being copied it is locked in the drive: then what was seen last counts.
pub(super) async fn contents(path: &Path) -> Result<Arc<Contents>, DiscError> {
    let drive = drive(path);
    let Ok(_permit) = drive.free.try_acquire() else {
        let last = drive.last.lock().expect("no holder of this lock panics");
        return last.clone().ok_or(DiscError::Busy);
    };
    let read = look(path).await.map(Arc::new);
    *drive.last.lock().expect("no holder of this lock panics") = read.as_ref().ok().cloned();
    read
}

async fn look(path: &Path) -> Result<Contents, DiscError> {
    let mut query = Command::new("cd-paranoia");
    query.arg("-Q").arg("-d").arg(path);
    let printed = printed(query, "cd-paranoia").await?;
    let toc = Toc::parse(&printed).ok_or(DiscError::NoAudio)?;
    // Names are a comfort: without the program, or without CD-TEXT, tracks are called by their number.
    let mut info = Command::new("cd-info");
    info.args(["--no-header", "--no-device-info"]);
    if path.extension().is_some_and(|ending| ending == "cue") {
        let mut image = std::ffi::OsString::from("--cue-file=");
        image.push(path);
        info.arg(image);
    } else {
        info.arg("-C").arg(path);
    }
    let text = match self::printed(info, "cd-info").await {
        Ok(printed) => parse_cd_text(&printed),
        Err(error) => {
            tracing::info!(error = %error, "no CD-TEXT");
            CdText::new()
        }
    };
    Ok(Contents {
        disc_id: toc.disc_id(),
        toc,
        text,
    })
}

/// What a program prints, on either stream.
async fn printed(mut command: Command, program: &'static str) -> Result<String, DiscError> {
    let mut child = spawn(&mut command, program, Stdio::piped())?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let reading = async {
        let (out, err) = tokio::join!(text(out), text(err));
        // Its exit code says nothing that its output does not.
        let _ = child.wait().await;
        Ok::<_, io::Error>(out? + &err?)
    };
    let text = timeout(LOOK_TIME, reading).await;
    text.map_err(|_| DiscError::Silent)?
        .map_err(DiscError::Reading)
}

async fn text(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_PRINTED).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn spawn(command: &mut Command, program: &'static str, errors: Stdio) -> Result<Child, DiscError> {
    command
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| DiscError::Program { program, source })
}

/// A track's sound on its way; the drive is kept until this is dropped.
pub(super) struct Rip {
    child: Child,
    sound: ChildStdout,
    _drive: OwnedSemaphorePermit,
}

impl Rip {
    /// Begins to read a track; waits while the drive is busy.
    pub(super) async fn begin(path: &Path, track: Track) -> Result<Self, DiscError> {
        let free = Arc::clone(&drive(path).free);
        let permit = free.acquire_owned().await.map_err(|_| DiscError::Busy)?;
        let mut command = Command::new("cd-paranoia");
        // -r: samples as they are, little-endian, without a head.
        command
            .arg("-q")
            .arg("-r")
            .arg("-d")
            .arg(path)
            .arg(track.number.to_string())
            .arg("-");
        let mut child = spawn(&mut command, "cd-paranoia", Stdio::null())?;
        let sound = child.stdout.take().expect("it was asked for");
        Ok(Self {
            child,
            sound,
            _drive: permit,
        })
    }

    /// Fills `block` with samples; returns how many bytes came, fewer only at the end.
    pub(super) async fn read(
        &mut self,
        block: &mut [u8],
        patience: Duration,
    ) -> Result<usize, DiscError> {
        let mut filled = 0;
        while filled < block.len() {
            let read = timeout(patience, self.sound.read(&mut block[filled..])).await;
            match read
                .map_err(|_| DiscError::Silent)?
                .map_err(DiscError::Reading)?
            {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    /// Waits for the program's end after the last sample.
    pub(super) async fn finish(mut self, patience: Duration) -> Result<(), DiscError> {
        let ended = timeout(patience, self.child.wait()).await;
        let status = ended
            .map_err(|_| DiscError::Silent)?
            .map_err(DiscError::Reading)?;
        if status.success() {
            Ok(())
        } else {
            Err(DiscError::Reading(io::Error::other(format!(
                "cd-paranoia: {status}"
            ))))
        }
    }
}
