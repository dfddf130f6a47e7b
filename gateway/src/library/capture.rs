//! Pictures and clips that this gateway takes itself: what a camera gave becomes a JPEG or an MP4 in the sandbox, in
//! memory only (F2, F26). Also secrets of other modules, sealed under the store key.

use super::plain::InMemory;
use super::sandbox::{ClipPicture, ClipSound, Operation, SandboxError};
use super::{ImportSource, Library};
use bytes::Bytes;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use mantel_peripherals::live::Still;
use mantel_peripherals::picture;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;
use tokio_util::io::ReaderStream;

/// Why a picture or a clip was not made.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The media tools are missing.
    #[error("{0}")]
    Unavailable(String),
    /// What the camera sent cannot be decoded.
    #[error(
        "what the camera sent cannot be read as a picture; restart or update the camera, then try again"
    )]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No memory.
    #[error("there is no memory for it now; nothing was kept, try again later")]
    Memory(#[from] io::Error),
}

impl From<SandboxError> for CaptureError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Unavailable(why) => Self::Unavailable(why),
            SandboxError::Refused | SandboxError::Limit => Self::Unreadable(error.into()),
        }
    }
}

/// A clip while it is recorded: plaintext in anonymous memory, gone when dropped.
pub(crate) struct Reel {
    file: File,
    bytes: u64,
}

impl Reel {
    /// An empty one.
    pub(crate) fn new() -> Result<Self, CaptureError> {
        Ok(Self {
            file: memory()?,
            bytes: 0,
        })
    }

    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), CaptureError> {
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// How much is in it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// An MP4 in memory.
pub(crate) struct Clip {
    file: File,
    bytes: u64,
}

fn memory() -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(
        "media",
        MemfdFlags::CLOEXEC,
    )?))
}

impl Library {
    /// A still picture as a JPEG of full size: the camera's own where it gave one.
    pub(crate) async fn jpeg_of(&self, still: Still) -> Result<Bytes, CaptureError> {
        if still.mime == picture::JPEG {
            return Ok(still.bytes);
        }
        let mut file = memory()?;
        file.write_all(&still.bytes)?;
        let input = InMemory {
            file: Arc::new(file),
            whole: true,
        };
        let jpeg = self.inner.sandbox.run(Operation::Still, &input).await?;
        Ok(jpeg.into())
    }

    /// A recorded reel (Matroska) as an MP4.
    pub(crate) async fn mp4_of(
        &self,
        reel: Reel,
        picture: ClipPicture,
        sound: ClipSound,
    ) -> Result<Clip, CaptureError> {
        let input = InMemory {
            file: Arc::new(reel.file),
            whole: true,
        };
        let mut file = memory()?;
        let operation = Operation::Clip { picture, sound };
        self.inner
            .sandbox
            .run_into(operation, &input, &file)
            .await?;
        drop(input);
        let bytes = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        Ok(Clip { file, bytes })
    }
}

impl ImportSource {
    /// A picture that a camera gave at `taken`.
    pub(crate) fn picture(device: (&str, &str), name: &str, taken: Timestamp, jpeg: Bytes) -> Self {
        let size = jpeg.len() as u64;
        let once = futures_util::stream::iter([Ok::<_, io::Error>(jpeg)]);
        Self::captured(device, name, "image/jpeg", taken, size, once)
    }

    /// A clip that was recorded from `taken` on.
    pub(crate) fn clip(device: (&str, &str), name: &str, taken: Timestamp, clip: Clip) -> Self {
        let file = tokio::fs::File::from_std(clip.file);
        let bytes = ReaderStream::with_capacity(file, 256 * 1024);
        Self::captured(
            device,
            name,
            "video/mp4",
            taken,
            clip.bytes,
            bytes.map_err(io::Error::other),
        )
    }
}
