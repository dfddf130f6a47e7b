//! Decoding sound of unknown origin (F63): the gateway keeps the file and the loudspeaker, a worker in its sandbox
//! sees compressed bytes and gives samples.
//!
//! - `wire`: their conversation, pure. `worker`: the sandboxed side. `source`: where the compressed bytes come from.
//!
//! The gateway owns the sandbox: it makes a [`Decoder`], which starts one worker per file.

pub mod source;
pub mod wire;
pub mod worker;

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::media::Cause;
use source::ByteSource;
use wire::{Answer, Ask, HEAD_BYTES, PcmFormat, RefusalKind, WireError, head};

/// How long a worker may take for one answer, the time to fetch its bytes included.
pub const ANSWER_TIME: Duration = Duration::from_secs(20);
/// Most bytes that a worker may read for one answer: it looks through a file's beginning and index, not through all
/// of a film again and again.
pub const MAX_READ_PER_ANSWER: u64 = 256 << 20;

/// A started worker: its pipes, and what ends it when dropped.
pub struct Worker {
    /// To its standard input.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// From its standard output.
    pub output: Box<dyn AsyncRead + Send + Unpin>,
    /// Ends the worker when dropped.
    pub guard: Box<dyn Any + Send>,
}

/// Starts workers; cheap to clone.
#[derive(Clone)]
pub struct Decoder {
    start: Arc<dyn Fn() -> io::Result<Worker> + Send + Sync>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    /// `start` starts one worker, which runs [`worker::serve`] on its pipes; called within a tokio runtime.
    pub fn new(start: impl Fn() -> io::Result<Worker> + Send + Sync + 'static) -> Self {
        Self {
            start: Arc::new(start),
        }
    }
}

/// Why a file gives no (more) sound.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No worker could be started, or it ended or hung before it asked for the file's first byte: the file is not to
    /// blame, its sandbox is.
    #[error("the sandbox for decoding sound could not be started")]
    NoWorker(#[source] io::Error),
    /// A format that is not known here.
    #[error("its format is not supported ({0})")]
    Unsupported(String),
    /// The file is damaged.
    #[error("it is damaged ({0})")]
    Damaged(String),
    /// Its bytes could not be fetched.
    #[error("its bytes could not be fetched")]
    Unreachable(#[source] Option<Cause>),
    /// The worker died, hung or said what cannot be: most likely by fault of the file.
    #[error("decoding it failed")]
    Broken(#[source] Cause),
}

/// What came in place of an answer.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the worker ended")]
    Ended(#[source] io::Error),
    #[error("the worker sent what cannot be")]
    Wire(#[source] WireError),
    #[error("the worker answered another question")]
    OffTopic,
    #[error("no answer within {} seconds", ANSWER_TIME.as_secs())]
    Slow,
    #[error("it read more than {MAX_READ_PER_ANSWER} bytes for one answer")]
    Greedy,
}

impl From<Trouble> for DecodeError {
    fn from(trouble: Trouble) -> Self {
        Self::Broken(Box::new(trouble))
    }
}

/// One file being decoded. Dropping it ends its worker.
pub struct Decoding {
    worker: Worker,
    source: ByteSource,
    format: PcmFormat,
}

impl fmt::Debug for Decoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoding")
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl Decoding {
    /// Starts a worker on `source`; `mime` is a hint.
    pub async fn open(
        decoder: &Decoder,
        mut source: ByteSource,
        mime: &str,
    ) -> Result<Self, DecodeError> {
        let mut worker = (decoder.start)().map_err(DecodeError::NoWorker)?;
        let size = source
            .size()
            .await
            .map_err(|cause| DecodeError::Unreachable(Some(cause)))?;
        let ask = Ask::Open {
            size,
            mime: mime.to_owned(),
        };
        let mut spoke = false;
        match converse(&mut worker, &mut source, &ask, None, &mut spoke).await {
            Ok(Answer::Format(format)) => Ok(Self {
                worker,
                source,
                format,
            }),
            Ok(_) => Err(Trouble::OffTopic.into()),
            // It knew nothing of the file yet.
            Err(DecodeError::Broken(cause)) if !spoke => {
                Err(DecodeError::NoWorker(io::Error::other(cause)))
            }
            Err(error) => Err(error),
        }
    }

    /// How its samples are.
    pub fn format(&self) -> PcmFormat {
        self.format
    }

    /// The next samples, interleaved; `None` at the end. Not to be dropped half-way: the worker is then lost.
    pub async fn next(&mut self) -> Result<Option<Vec<i32>>, DecodeError> {
        match self.ask(&Ask::Decode).await? {
            Answer::Pcm(samples) => Ok(Some(samples)),
            Answer::End => Ok(None),
            _ => Err(Trouble::OffTopic.into()),
        }
    }

    /// Goes to `frame`; where it really went. Not to be dropped half-way.
    pub async fn seek(&mut self, frame: u64) -> Result<u64, DecodeError> {
        match self.ask(&Ask::Seek(frame)).await? {
            Answer::Sought(frame) => Ok(frame),
            _ => Err(Trouble::OffTopic.into()),
        }
    }

    async fn ask(&mut self, ask: &Ask) -> Result<Answer, DecodeError> {
        let channels = Some(self.format.channels);
        converse(&mut self.worker, &mut self.source, ask, channels, &mut true).await
    }
}

/// Asks, serves what the worker wants, and returns its answer. `spoke` becomes true with the worker's first word.
async fn converse(
    worker: &mut Worker,
    source: &mut ByteSource,
    ask: &Ask,
    channels: Option<u16>,
    spoke: &mut bool,
) -> Result<Answer, DecodeError> {
    let mut fetching: Option<Cause> = None;
    let talk = async {
        let mut read = 0;
        tell(worker, ask).await?;
        loop {
            let answer = hear(worker, channels, spoke).await?;
            match answer {
                Answer::Want { offset, len } => {
                    read += u64::from(len);
                    if read > MAX_READ_PER_ANSWER {
                        return Err(Trouble::Greedy);
                    }
                    let reply = match source.read(offset, len).await {
                        Ok(bytes) => Ask::Bytes(bytes.to_vec()),
                        Err(cause) => {
                            fetching = Some(cause);
                            Ask::NoBytes
                        }
                    };
                    tell(worker, &reply).await?;
                }
                answer => return Ok(answer),
            }
        }
    };
    let answer = timeout(ANSWER_TIME, talk)
        .await
        .unwrap_or(Err(Trouble::Slow));
    match answer {
        Ok(Answer::Refused(kind, reason)) => Err(match kind {
            RefusalKind::Unsupported => DecodeError::Unsupported(reason),
            RefusalKind::Damaged => DecodeError::Damaged(reason),
            RefusalKind::Unreachable => DecodeError::Unreachable(fetching),
        }),
        Ok(answer) => Ok(answer),
        Err(trouble) => match fetching {
            // It gave up for want of bytes, whatever it said.
            Some(cause) => Err(DecodeError::Unreachable(Some(cause))),
            None => Err(trouble.into()),
        },
    }
}

async fn tell(worker: &mut Worker, ask: &Ask) -> Result<(), Trouble> {
    let bytes = ask.to_bytes();
    worker
        .input
        .write_all(&bytes)
        .await
        .map_err(Trouble::Ended)?;
    worker.input.flush().await.map_err(Trouble::Ended)
}

async fn hear(
    worker: &mut Worker,
    channels: Option<u16>,
    spoke: &mut bool,
) -> Result<Answer, Trouble> {
    let mut start = [0; HEAD_BYTES];
    let output = &mut worker.output;
    output
        .read_exact(&mut start)
        .await
        .map_err(Trouble::Ended)?;
    *spoke = true;
    let (tag, size) = head(start).map_err(Trouble::Wire)?;
    let mut payload = vec![0; size];
    output
        .read_exact(&mut payload)
        .await
        .map_err(Trouble::Ended)?;
    Answer::parse(tag, &payload, channels).map_err(Trouble::Wire)
}
