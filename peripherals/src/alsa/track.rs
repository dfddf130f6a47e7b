//! One title on its way to a loudspeaker: a task that decodes ahead of the sound, a little, and seeks.

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::decode::source::ByteSource;
use crate::decode::wire::PcmFormat;
use crate::decode::{ANSWER_TIME, DecodeError, Decoder, Decoding};
use crate::media::PlayRequest;

/// Blocks decoded ahead: about a second and a half of music, at most 2 MiB.
const AHEAD: usize = 16;

/// What comes from the task.
#[derive(Debug)]
pub(super) enum Fed {
    /// The first message, unless it failed.
    Format(PcmFormat),
    /// Samples, interleaved, all channels.
    Block {
        /// Counts seeks: blocks from before one are stale.
        epoch: u64,
        samples: Vec<i32>,
    },
    /// The title's end.
    End { epoch: u64 },
    /// No more will come.
    Failed(DecodeError),
}

struct Jump {
    frame: u64,
    epoch: u64,
    reply: oneshot::Sender<u64>,
}

/// Tells whether the title can be played, once that is known; gone without a word when it was replaced before.
pub(super) type Opened = oneshot::Receiver<Result<(), DecodeError>>;

/// A title being decoded. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) request: PlayRequest,
    pub(super) format: Option<PcmFormat>,
    /// The end was reached: nothing more comes without a seek.
    pub(super) ended: bool,
    pub(super) epoch: u64,
    feed: mpsc::Receiver<Fed>,
    jumps: mpsc::Sender<Jump>,
    _task: JoinSet<()>,
}

impl Track {
    /// Begins to decode. Called within a tokio runtime.
    pub(super) fn begin(decoder: &Decoder, request: PlayRequest) -> (Self, Opened) {
        let (feeding, feed) = mpsc::channel(AHEAD);
        let (jumps, jumping) = mpsc::channel(1);
        let (opening, opened) = oneshot::channel();
        let (decoder, wanted) = (decoder.clone(), request.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let decoding = match open(&decoder, &wanted).await {
                Ok(decoding) => decoding,
                Err(error) => {
                    tracing::info!(
                        error = &error as &dyn std::error::Error,
                        "a title cannot be decoded"
                    );
                    let _ = feeding.send(Fed::Failed(again(&error))).await;
                    let _ = opening.send(Err(error));
                    return;
                }
            };
            let format = decoding.format();
            if feeding.send(Fed::Format(format)).await.is_ok() {
                // Whoever asked may have gone away.
                let _ = opening.send(Ok(()));
                decode(decoding, feeding, jumping).await;
            }
        });
        let track = Self {
            request,
            format: None,
            ended: false,
            epoch: 0,
            feed,
            jumps,
            _task: task,
        };
        (track, opened)
    }

    /// The next message; cancel-safe.
    pub(super) async fn next(&mut self) -> Fed {
        let fed = self.feed.recv().await;
        let fed = fed.unwrap_or_else(|| {
            Fed::Failed(DecodeError::Damaged("decoding it ended early".to_owned()))
        });
        match &fed {
            Fed::Format(format) => self.format = Some(*format),
            Fed::End { epoch } if *epoch == self.epoch => self.ended = true,
            _ => {}
        }
        fed
    }

    /// Waits until the format is known.
    pub(super) async fn known_format(&mut self) -> Result<PcmFormat, DecodeError> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        match timeout(ANSWER_TIME * 2, self.next()).await {
            Ok(Fed::Format(format)) => Ok(format),
            Ok(Fed::Failed(error)) => Err(error),
            Ok(Fed::Block { .. } | Fed::End { .. }) | Err(_) => Err(DecodeError::Damaged(
                "its format did not become known".to_owned(),
            )),
        }
    }

    /// Goes to `frame`; where it really went. `None`: it cannot; the reason comes from [`Track::next`].
    pub(super) async fn seek(&mut self, frame: u64) -> Option<u64> {
        self.known_format().await.ok()?;
        let (reply, sought) = oneshot::channel();
        let epoch = self.epoch + 1;
        let jump = Jump {
            frame,
            epoch,
            reply,
        };
        self.jumps.send(jump).await.ok()?;
        let sought = timeout(ANSWER_TIME * 2, sought).await.ok()?.ok()?;
        self.epoch = epoch;
        self.ended = false;
        Some(sought)
    }
}

/// The error once more, for who asks later; its cause is in the log.
fn again(error: &DecodeError) -> DecodeError {
    match error {
        DecodeError::NoWorker(cause) => {
            DecodeError::NoWorker(std::io::Error::new(cause.kind(), cause.to_string()))
        }
        DecodeError::Unreachable(_) => DecodeError::Unreachable(None),
        _ => DecodeError::Damaged(error.to_string()),
    }
}

async fn open(decoder: &Decoder, request: &PlayRequest) -> Result<Decoding, DecodeError> {
    let source = ByteSource::http(&request.url, request.size_bytes)
        .map_err(|cause| DecodeError::Unreachable(Some(cause)))?;
    Decoding::open(decoder, source, &request.mime).await
}

async fn decode(
    mut decoding: Decoding,
    feeding: mpsc::Sender<Fed>,
    mut jumping: mpsc::Receiver<Jump>,
) {
    let (mut epoch, mut over) = (0, false);
    loop {
        // Neither wait holds a question to the worker: both may be given up.
        let (permit, jump) = tokio::select! {
            biased;
            jump = jumping.recv() => (None, Some(jump)),
            permit = feeding.reserve(), if !over => (Some(permit), None),
        };
        let fed = match (permit, jump) {
            (_, Some(Some(jump))) => match decoding.seek(jump.frame).await {
                Ok(frame) => {
                    (epoch, over) = (jump.epoch, false);
                    let _ = jump.reply.send(frame);
                    continue;
                }
                Err(error) => Fed::Failed(error),
            },
            (Some(Ok(permit)), _) => {
                let fed = match decoding.next().await {
                    Ok(Some(samples)) => Fed::Block { epoch, samples },
                    Ok(None) => {
                        over = true;
                        Fed::End { epoch }
                    }
                    Err(error) => Fed::Failed(error),
                };
                let failed = matches!(fed, Fed::Failed(_));
                permit.send(fed);
                if failed {
                    return;
                }
                continue;
            }
            // The track was dropped.
            _ => return,
        };
        let _ = feeding.send(fed).await;
        return;
    }
}
