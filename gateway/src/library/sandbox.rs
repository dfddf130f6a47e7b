//! The sandbox around media tools (DESIGN §9): ffprobe and ffmpeg, each run once on one input, without network, files,
//! processes, environment or time to spare. Untrusted media is parsed here and nowhere else.
//!
//! Bubblewrap gives new namespaces of every kind (no network), drops all capabilities and shows `/usr` read-only and
//! an empty `/tmp`; prlimit bounds processor time, memory and files. The input is standard input: a memory file
//! without a name. Operations are a closed set; nothing that a person or a device wrote gets into their arguments.
//! Where the service manager closes the gateway's own unit so far that it may make no namespaces, units of their own are
//! the sandbox ([`super::workers`]). Where neither can be had, nothing is run: titles are imported with what the device
//! said.

use super::plain::InMemory;
use super::workers;
use mantel_peripherals::decode::{Decoder, Worker};
use mantel_peripherals::live::MAX_STILL_BYTES;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::{OnceCell, Semaphore};

/// Processor seconds of one run.
const CPU_SECONDS: u32 = 20;
/// Wall-clock time of one run.
const WALL_TIME: Duration = Duration::from_secs(45);
/// Wall-clock seconds after which a run ends that has lost its gateway (kill -9).
const ORPHAN_SECONDS: u32 = 60;
/// Processor seconds for a clip: pictures that must be coded anew take about a second for each on a small machine.
const CLIP_CPU_SECONDS: u32 = 300;
/// Wall-clock time for a clip.
const CLIP_WALL_TIME: Duration = Duration::from_mins(6);
/// [`ORPHAN_SECONDS`] for a clip.
const CLIP_ORPHAN_SECONDS: u32 = 400;
/// Largest clip, bytes.
pub(crate) const MAX_CLIP_BYTES: u64 = 256 * 1024 * 1024;
/// Address space of one run, bytes.
const MEMORY_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Largest file that a run may write (its `/tmp` is empty and gone afterwards), bytes.
const FILE_BYTES: u64 = 1024 * 1024;
/// Open files of one run.
const OPEN_FILES: u32 = 64;
/// Largest output of one run, bytes.
const MAX_OUTPUT_BYTES: u64 = 512 * 1024;
/// How much of an error text is kept, bytes.
const MAX_COMPLAINT_BYTES: u64 = 2 * 1024;
/// Runs at the same time.
const RUNS_AT_ONCE: usize = 2;

/// The argument that makes this program a decoding worker.
pub const DECODE_COMMAND: &str = "decode-audio";
/// Where this program is inside the sandbox.
const OWN_PROGRAM: &str = "/tmp/decode";
/// Processor seconds of one decoding worker: the longest film's sound takes minutes.
const DECODE_CPU_SECONDS: u32 = 3600;
/// Wall-clock seconds after which a decoding worker ends: a title may be paused for a day.
const DECODE_ORPHAN_SECONDS: u32 = 172_800;

/// Demuxers that may be tried: what cameras, recorders and phones write. Playlists and scripts are not among them.
const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mp3,aac,flac,ogg,wav,w64,aiff,asf,avi,flv,mpeg,mpegts,\
mpegvideo,h264,hevc,m4v,dv,mxf,amr,ac3,eac3,dts,ape,caf,au,ivf,rm,wv,tta,\
jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif,gif_pipe,image2,jpegxl_pipe,j2k_pipe,ppm_pipe,pgm_pipe,yuv4mpegpipe";

/// What encloses the tools.
#[derive(Debug, Clone)]
pub enum Enclosure {
    /// Bubblewrap, this program: a sandbox for each run, made by the gateway itself.
    Bubblewrap(PathBuf),
    /// Media workers in units of their own, behind this socket.
    Workers(PathBuf),
}

/// What can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    /// ffprobe prints its version: shows that the sandbox works.
    Version,
    /// ffprobe describes container and streams, as JSON.
    Describe,
    /// ffprobe prints the EXIF date of a still image, as JSON.
    PictureDate,
    /// ffmpeg makes a JPEG thumbnail of the frame at this time.
    Frame {
        /// From the beginning, milliseconds.
        at_ms: u64,
    },
    /// ffmpeg makes a JPEG of the first picture, in its full size.
    Still,
    /// ffmpeg makes an MP4 of a recorded Matroska stream.
    Clip {
        /// What becomes of its pictures.
        picture: ClipPicture,
        /// What becomes of its sound.
        sound: ClipSound,
    },
}

/// What becomes of a clip's pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClipPicture {
    /// Kept as they are.
    Copy,
    /// H.265, kept as it is, with the tag that players know it by.
    CopyH265,
    /// JPEG or raw: coded as H.264, since nothing plays those in an MP4.
    Encode,
}

/// What becomes of a clip's sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClipSound {
    /// Kept as it is.
    Copy,
    /// G.711 or raw: coded as AAC, since an MP4 holds neither.
    Encode,
}

/// The limits of a run that depend on what is run.
struct Limits {
    cpu_seconds: u32,
    wall_time: Duration,
    /// Wall-clock seconds after which a run ends that has lost its gateway (kill -9).
    orphan_seconds: u32,
    file_bytes: u64,
    output_bytes: u64,
}

impl Limits {
    const USUAL: Self = Self {
        cpu_seconds: CPU_SECONDS,
        wall_time: WALL_TIME,
        orphan_seconds: ORPHAN_SECONDS,
        file_bytes: FILE_BYTES,
        output_bytes: MAX_OUTPUT_BYTES,
    };
}

impl Operation {
    fn limits(self) -> Limits {
        let usual = Limits::USUAL;
        match self {
            Self::Version | Self::Describe | Self::PictureDate | Self::Frame { .. } => usual,
            Self::Still => Limits {
                output_bytes: MAX_STILL_BYTES as u64,
                ..usual
            },
            Self::Clip { .. } => Limits {
                cpu_seconds: CLIP_CPU_SECONDS,
                wall_time: CLIP_WALL_TIME,
                orphan_seconds: CLIP_ORPHAN_SECONDS,
                file_bytes: MAX_CLIP_BYTES,
                ..usual
            },
        }
    }

    pub(super) fn program_and_arguments(self) -> (&'static str, Vec<String>) {
        let fixed = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        const INPUT: [&str; 6] = [
            "-protocol_whitelist",
            "file",
            "-format_whitelist",
            FORMATS,
            "-i",
            "/proc/self/fd/0",
        ];
        match self {
            Self::Version => (
                "/usr/bin/ffprobe",
                fixed(&["-hide_banner", "-loglevel", "quiet", "-version"]),
            ),
            Self::Describe => {
                let entries = "format=format_name,duration:format_tags=creation_time,date,artist,album,\
                     album_artist,track:stream=codec_type,codec_name,width,height,duration,nb_frames:\
                     stream_tags=creation_time,artist,album,album_artist,track:\
                     stream_disposition=attached_pic";
                let mut words = fixed(&["-v", "error", "-of", "json", "-show_entries", entries]);
                words.extend(fixed(&INPUT));
                ("/usr/bin/ffprobe", words)
            }
            Self::PictureDate => {
                let entries = "frame_tags=DateTimeOriginal,DateTimeDigitized,DateTime";
                let mut words = fixed(&["-v", "error", "-of", "json", "-read_intervals", "%+#1"]);
                words.extend(fixed(&["-select_streams", "v:0", "-show_entries", entries]));
                words.extend(fixed(&INPUT));
                ("/usr/bin/ffprobe", words)
            }
            Self::Frame { at_ms } => {
                let mut words = fixed(&["-v", "error", "-nostdin", "-threads", "1"]);
                if at_ms > 0 {
                    words.extend([
                        "-ss".to_owned(),
                        format!("{}.{:03}", at_ms / 1000, at_ms % 1000),
                    ]);
                }
                words.extend(fixed(&INPUT));
                let filter = "scale=w='max(2,min(320,iw))':h='max(2,min(320,ih))':\
                     force_original_aspect_ratio=decrease,format=yuvj420p";
                words.extend(fixed(&[
                    "-map",
                    "0:v:0",
                    "-frames:v",
                    "1",
                    "-vf",
                    filter,
                    "-map_metadata",
                    "-1",
                ]));
                words.extend(fixed(&[
                    "-c:v",
                    "mjpeg",
                    "-q:v",
                    "5",
                    "-f",
                    "image2pipe",
                    "pipe:1",
                ]));
                ("/usr/bin/ffmpeg", words)
            }
            Self::Still => {
                let mut words = fixed(&["-v", "error", "-nostdin", "-threads", "1"]);
                words.extend(fixed(&INPUT));
                words.extend(fixed(&[
                    "-map",
                    "0:v:0",
                    "-frames:v",
                    "1",
                    "-vf",
                    "format=yuvj420p",
                ]));
                words.extend(fixed(&[
                    "-map_metadata",
                    "-1",
                    "-c:v",
                    "mjpeg",
                    "-q:v",
                    "2",
                ]));
                words.extend(fixed(&["-f", "image2pipe", "pipe:1"]));
                ("/usr/bin/ffmpeg", words)
            }
            Self::Clip { picture, sound } => {
                let mut words = fixed(&["-v", "error", "-nostdin", "-y", "-threads", "2"]);
                words.extend(fixed(&INPUT));
                words.extend(fixed(&[
                    "-map",
                    "0:v:0?",
                    "-map",
                    "0:a:0?",
                    "-map_metadata",
                    "-1",
                ]));
                words.extend(fixed(match picture {
                    ClipPicture::Copy => &["-c:v", "copy"],
                    ClipPicture::CopyH265 => &["-c:v", "copy", "-tag:v", "hvc1"],
                    ClipPicture::Encode => &[
                        "-c:v",
                        "libx264",
                        "-preset",
                        "ultrafast",
                        "-crf",
                        "23",
                        "-pix_fmt",
                        "yuv420p",
                    ],
                }));
                words.extend(fixed(match sound {
                    ClipSound::Copy => &["-c:a", "copy"],
                    ClipSound::Encode => &["-c:a", "aac", "-b:a", "64k"],
                }));
                // A place in memory, not a pipe: an MP4's tables go to its head at the end.
                words.extend(fixed(&[
                    "-movflags",
                    "+faststart",
                    "-f",
                    "mp4",
                    "/proc/self/fd/1",
                ]));
                ("/usr/bin/ffmpeg", words)
            }
        }
    }
}

/// Why a run gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SandboxError {
    /// No sandbox here: nothing is run.
    #[error("{0}")]
    Unavailable(String),
    /// The tool gave up: the media is damaged or of an unknown kind.
    #[error("the media tool could not read it")]
    Refused,
    /// A limit ended the run.
    #[error("reading it took more time or space than is allowed")]
    Limit,
}

/// Whether media is looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaTools {
    /// Yes, in the sandbox.
    Ready,
    /// No; the text says what is missing and what to do. Titles are imported with what the device says.
    Missing(String),
}

/// The sandbox; one per library.
pub(crate) struct Sandbox {
    enclosure: Enclosure,
    tools: OnceCell<MediaTools>,
    places: Semaphore,
}

impl Sandbox {
    pub(crate) fn new(enclosure: Enclosure) -> Self {
        Self {
            enclosure,
            tools: OnceCell::new(),
            places: Semaphore::new(RUNS_AT_ONCE),
        }
    }

    /// Whether runs are possible; tried once.
    pub(crate) async fn tools(&self) -> MediaTools {
        self.tools
            .get_or_init(|| async {
                match self.execute(Operation::Version, None, None).await {
                    Ok(_) => MediaTools::Ready,
                    Err((_, complaint)) => {
                        tracing::warn!(complaint, "no sandbox for media tools: media is not looked into");
                        let remedy = match self.enclosure {
                            Enclosure::Bubblewrap(_) => {
                                "Install bubblewrap, util-linux and ffmpeg, allow user namespaces, and"
                            }
                            Enclosure::Workers(_) => {
                                "Install ffmpeg, start the unit mantel-media-worker.socket, and"
                            }
                        };
                        MediaTools::Missing(format!(
                            "Media is not looked into on this gateway, because the sandbox for it could not be set \
                             up. Titles are imported with what the device says, without thumbnails. {remedy} \
                             restart the gateway."
                        ))
                    }
                }
            })
            .await
            .clone()
    }

    /// Runs one operation on one input.
    pub(crate) async fn run(
        &self,
        operation: Operation,
        input: &InMemory,
    ) -> Result<Vec<u8>, SandboxError> {
        self.run_with(operation, input, None).await
    }

    /// Runs one operation that writes its result into `output`, a file in memory.
    pub(crate) async fn run_into(
        &self,
        operation: Operation,
        input: &InMemory,
        output: &File,
    ) -> Result<(), SandboxError> {
        self.run_with(operation, input, Some(output))
            .await
            .map(drop)
    }

    async fn run_with(
        &self,
        operation: Operation,
        input: &InMemory,
        output: Option<&File>,
    ) -> Result<Vec<u8>, SandboxError> {
        if let MediaTools::Missing(why) = self.tools().await {
            return Err(SandboxError::Unavailable(why));
        }
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|_| SandboxError::Refused)?;
        self.execute(operation, Some(input), output)
            .await
            .map_err(|(error, complaint)| {
                tracing::debug!(?operation, complaint, "media tool");
                error
            })
    }

    async fn execute(
        &self,
        operation: Operation,
        input: Option<&InMemory>,
        output: Option<&File>,
    ) -> Result<Vec<u8>, Failure> {
        let limits = operation.limits();
        let run = async {
            match &self.enclosure {
                Enclosure::Bubblewrap(program) => {
                    bubblewrapped(program, operation, input, output).await
                }
                Enclosure::Workers(socket) => {
                    let input = input.map(|memory| &*memory.file);
                    workers::run(socket, operation, input, output, limits.output_bytes).await
                }
            }
        };
        let ended = tokio::time::timeout(limits.wall_time, run).await;
        ended.unwrap_or_else(|_| Err((SandboxError::Limit, "took too long".to_owned())))
    }
}

async fn bubblewrapped(
    program: &Path,
    operation: Operation,
    input: Option<&InMemory>,
    output: Option<&File>,
) -> Result<Vec<u8>, Failure> {
    let stdin = match input {
        Some(memory) => Stdio::from(memory.file.try_clone().map_err(refused)?),
        None => Stdio::null(),
    };
    let stdout = match output {
        Some(file) => Stdio::from(file.try_clone().map_err(refused)?),
        None => Stdio::piped(),
    };
    let mut child = command(program, operation)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(refused)?;
    let mut group = Group(child.id());
    let collected = collect(&mut child, operation.limits().output_bytes).await;
    if child.id().is_none() {
        // It has been waited for: its number may be another's by now.
        group.0 = None;
    }
    collected
}

fn command(bubblewrap: &Path, operation: Operation) -> Command {
    let (program, arguments) = operation.program_and_arguments();
    let mut command = enclosed(bubblewrap, &operation.limits(), None);
    command.arg("--").arg(program).args(arguments);
    command
}

/// The sandbox up to the program's name. `own`: a program from elsewhere than `/usr`, shown as [`OWN_PROGRAM`].
fn enclosed(bubblewrap: &Path, limits: &Limits, own: Option<&Path>) -> Command {
    // Bubblewrap's own death signal leaves a child waiting for ever when the parent dies while it starts; a group of
    // its own with a time limit ends that too.
    let mut command = Command::new("timeout");
    command
        .args(["-s", "KILL", &limits.orphan_seconds.to_string(), "prlimit"])
        .process_group(0);
    command.args([
        format!("--cpu={}", limits.cpu_seconds),
        format!("--as={MEMORY_BYTES}"),
        format!("--fsize={}", limits.file_bytes),
        format!("--nofile={OPEN_FILES}"),
        "--core=0".to_owned(),
    ]);
    command.arg(bubblewrap);
    command.args([
        "--unshare-all",
        "--cap-drop",
        "ALL",
        "--die-with-parent",
        "--new-session",
    ]);
    command.args(["--ro-bind", "/usr", "/usr"]);
    for folder in ["/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache"] {
        command.args(["--ro-bind-try", folder, folder]);
    }
    command.args([
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "--chdir",
        "/tmp",
        "--clearenv",
    ]);
    if let Some(own) = own {
        command.arg("--ro-bind").arg(own).arg(OWN_PROGRAM);
    }
    command
}

/// A decoder of sound: each file has a worker of its own, this program's `decode-audio` in the sandbox.
pub(crate) fn decoder(enclosure: &Enclosure, program: Option<PathBuf>) -> Decoder {
    let enclosure = enclosure.clone();
    Decoder::new(move || {
        let bubblewrap = match &enclosure {
            Enclosure::Bubblewrap(program) => program,
            Enclosure::Workers(socket) => return workers::decoder(socket),
        };
        let program = match &program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?,
        };
        let limits = Limits {
            cpu_seconds: DECODE_CPU_SECONDS,
            orphan_seconds: DECODE_ORPHAN_SECONDS,
            ..Limits::USUAL
        };
        let mut command = enclosed(bubblewrap, &limits, Some(&program));
        let mut child = command
            .args(["--", OWN_PROGRAM, DECODE_COMMAND])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("no pipes"));
        };
        // Not waited for while this lives, so the group's number stays its own; the group goes first.
        let guard = (Group(child.id()), child);
        Ok(Worker {
            input: Box::new(input),
            output: Box::new(output),
            guard: Box::new(guard),
        })
    })
}

/// The processes of one run; killed together unless they were waited for.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self
            .0
            .and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        if let Some(pid) = pid {
            // Fails when all are gone already.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Why a run gave nothing, and what the tool complained of.
pub(super) type Failure = (SandboxError, String);

/// The run could not be made.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn refused(error: std::io::Error) -> Failure {
    (SandboxError::Refused, error.to_string())
}

async fn collect(child: &mut Child, output_bytes: u64) -> Result<Vec<u8>, Failure> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let said = heard(stdout, stderr, output_bytes).await?;
    let status = child.wait().await.map_err(refused)?;
    said.judged(status.success(), status)
}

/// What a run printed and complained of.
pub(super) struct Said {
    output: Vec<u8>,
    complaint: String,
}

impl Said {
    /// `status` is for the log.
    pub(super) fn judged(self, success: bool, status: impl Display) -> Result<Vec<u8>, Failure> {
        if success {
            return Ok(self.output);
        }
        Err((
            SandboxError::Refused,
            format!("{status}: {}", self.complaint),
        ))
    }
}

/// Reads what a run prints (nothing where it writes into a file) until it closes both streams.
pub(super) async fn heard(
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
    output_bytes: u64,
) -> Result<Said, Failure> {
    let (output, complaint) = tokio::join!(
        bounded(stdout, output_bytes),
        bounded(stderr, MAX_COMPLAINT_BYTES)
    );
    if output.cut {
        return Err((SandboxError::Limit, "printed too much".to_owned()));
    }
    Ok(Said {
        output: output.kept,
        complaint: String::from_utf8_lossy(&complaint.kept).trim().to_owned(),
    })
}

struct Output {
    kept: Vec<u8>,
    cut: bool,
}

/// Reads to the end and keeps at most `limit` bytes.
async fn bounded(stream: Option<impl AsyncRead + Unpin>, limit: u64) -> Output {
    let mut kept = Vec::new();
    let Some(stream) = stream else {
        return Output { kept, cut: false };
    };
    let mut stream = stream.take(limit + 1);
    let _ = stream.read_to_end(&mut kept).await;
    let cut = kept.len() as u64 > limit;
    kept.truncate(limit as usize);
    if cut {
        // A tool that complains without end must not block on a full pipe; one that prints without end is killed.
        let _ = tokio::io::copy(
            &mut stream.into_inner().take(64 * 1024 * 1024),
            &mut tokio::io::sink(),
        )
        .await;
    }
    Output { kept, cut }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn memory(bytes: &[u8]) -> InMemory {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        InMemory {
            file: std::sync::Arc::new(file),
            whole: true,
        }
    }

    #[test]
    fn arguments_hold_nothing_but_constants_and_numbers() {
        let (_, words) = Operation::Frame { at_ms: 61_007 }.program_and_arguments();
        assert!(words.windows(2).any(|pair| pair == ["-ss", "61.007"]));
        let all = command(Path::new("bwrap"), Operation::Describe);
        let words: Vec<_> = all
            .as_std()
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        for needed in [
            "--unshare-all",
            "--die-with-parent",
            "--clearenv",
            "--cap-drop",
        ] {
            assert!(words.iter().any(|word| word == needed), "{needed}");
        }
        assert!(
            !words
                .iter()
                .any(|word| word == "--share-net" || word == "--bind" || word == "--dev-bind")
        );
    }

    #[tokio::test]
    async fn rubbish_is_refused_within_the_limits() {
        let sandbox = Sandbox::new(Enclosure::Bubblewrap("bwrap".into()));
        let rubbish: Vec<u8> = (0..300_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let run = sandbox.run(Operation::Describe, &memory(&rubbish)).await;
        assert!(
            matches!(
                run,
                Err(SandboxError::Refused | SandboxError::Unavailable(_))
            ),
            "{run:?}"
        );
    }
}
