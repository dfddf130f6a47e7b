//! One track on its way into the library: encoded as it comes, held in memory until its length is known, so that its
//! header tells players how long it is. A track that grows too large for that is streamed into the library from then
//! on, with a header that leaves the length open.

use super::{Table, TrackState};
use crate::library::{ImportSource, Library};
use bytes::Bytes;
use jiff::Timestamp;
use mantel_peripherals::recorder::flac::{FlacEncoder, FlacError};
use std::io;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

/// Most bytes of a track held in memory: about half an hour of music.
const HOLD_BYTES: u64 = 192 << 20;
/// Pieces on their way into the library.
const QUEUE: usize = 16;

type Pieces = mpsc::Sender<Result<Bytes, io::Error>>;

/// A track being recorded.
pub(super) struct OpenTrack {
    library: Library,
    table: Table,
    index: usize,
    /// The device's key and name, and the track's name.
    names: (String, String, String),
    began: Timestamp,
    encoder: FlacEncoder,
    frames: u64,
    held: Vec<Bytes>,
    held_bytes: u64,
    streaming: Option<Pieces>,
}

impl OpenTrack {
    pub(super) fn begin(
        library: Library,
        table: Table,
        index: usize,
        names: (String, String, String),
        began: Timestamp,
        rate: u32,
    ) -> Result<Self, FlacError> {
        Ok(Self {
            library,
            table,
            index,
            names,
            began,
            encoder: FlacEncoder::new(rate)?,
            frames: 0,
            held: Vec::new(),
            held_bytes: 0,
            streaming: None,
        })
    }

    /// Frames recorded.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    /// Bytes that are not in the library yet.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    pub(super) async fn push(
        &mut self,
        samples: &[i16],
        saving: &mut JoinSet<()>,
    ) -> Result<(), FlacError> {
        self.frames += samples.len() as u64 / 2;
        let encoded = self.encoder.push(samples)?;
        if !encoded.is_empty() {
            self.keep(encoded.into()).await;
        }
        if self.held_bytes > HOLD_BYTES && self.streaming.is_none() {
            let header = self.encoder.open_header();
            self.stream(header, saving).await;
        }
        Ok(())
    }

    async fn keep(&mut self, encoded: Bytes) {
        if let Some(streaming) = &self.streaming {
            // Closed: the import failed, and its row says why.
            let _ = streaming.send(Ok(encoded)).await;
        } else {
            self.held_bytes += encoded.len() as u64;
            self.held.push(encoded);
        }
    }

    /// The last samples are in.
    pub(super) async fn finish(mut self, saving: &mut JoinSet<()>) -> Result<(), FlacError> {
        let last = self.encoder.finish()?;
        self.keep(last.into()).await;
        if self.streaming.is_none() {
            let header = self.encoder.header();
            self.hand_over(header, saving);
        }
        Ok(())
    }

    /// The whole track goes into the library at once.
    fn hand_over(&mut self, header: Vec<u8>, saving: &mut JoinSet<()>) {
        let held = std::mem::take(&mut self.held);
        let pieces = std::iter::once(Bytes::from(header)).chain(held);
        let pieces = futures_util::stream::iter(pieces.map(Ok::<_, io::Error>));
        let duration = self.frames.saturating_mul(1000) / u64::from(self.encoder.rate());
        self.import(Some(duration), pieces, saving);
    }

    /// From now on the track goes into the library as it comes.
    async fn stream(&mut self, header: Vec<u8>, saving: &mut JoinSet<()>) {
        let (pieces, arriving) = mpsc::channel(QUEUE);
        self.import(None, ReceiverStream::new(arriving), saving);
        let held = std::mem::take(&mut self.held);
        self.held_bytes = 0;
        for piece in std::iter::once(Bytes::from(header)).chain(held) {
            if pieces.send(Ok(piece)).await.is_err() {
                break;
            }
        }
        self.streaming = Some(pieces);
    }

    fn import(
        &self,
        duration_ms: Option<u64>,
        pieces: impl futures_util::Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
        saving: &mut JoinSet<()>,
    ) {
        let (key, device, name) = &self.names;
        let source = ImportSource::recording((key, device), name, self.began, duration_ms, pieces);
        let (library, table, index) = (self.library.clone(), self.table.clone(), self.index);
        saving.spawn(async move {
            let state = match Box::pin(library.import(source)).await {
                Ok(title) => TrackState::Saved(title),
                Err(error) => TrackState::Lost(error.to_string()),
            };
            table.update(|row| {
                if let Some(track) = row.tracks.get_mut(index) {
                    track.state = state;
                }
            });
        });
    }
}
