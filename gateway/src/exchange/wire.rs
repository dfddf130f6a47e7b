//! Framing of the chunk protocol (`mantel_protocol::chunk`) over a byte stream, the same on every path.
//!
//! Reading is cancel-safe: what has come of a frame is kept. Raw chunk bytes are read straight into the caller's buffer.

use mantel_protocol::chunk::{FrameError, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a connection may stand still, without a single byte, where bytes are due.
pub const STALL_LIMIT: Duration = Duration::from_mins(1);

/// Bytes of a frame's length.
const LEN_BYTES: usize = 4;

/// Why no message could be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The peer closed it between two frames.
    #[error("the other side closed the connection")]
    Closed,
    /// A frame too long, or one that holds no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads frames of at most `limit` bytes.
#[derive(Debug)]
pub struct Frames {
    limit: usize,
    /// What has come of the next frame, its length included.
    partial: Vec<u8>,
}

impl Frames {
    /// No frame is longer than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            partial: Vec::new(),
        }
    }

    /// Reads the next message. Cancel-safe.
    pub async fn read<M, R>(&mut self, from: &mut R) -> Result<M, WireError>
    where
        M: DeserializeOwned,
        R: AsyncBufRead + Unpin,
    {
        loop {
            let want = self.want()?;
            if want == 0 {
                let message = decode(&self.partial[LEN_BYTES..]);
                self.partial.clear();
                // A hash list may have been large; the frames after it are small.
                self.partial.shrink_to(self.limit.min(4_096));
                return Ok(message?);
            }
            let come = fill(from).await?;
            if come.is_empty() {
                if self.partial.is_empty() {
                    return Err(WireError::Closed);
                }
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let take = come.len().min(want);
            self.partial.extend_from_slice(&come[..take]);
            from.consume(take);
        }
    }

    /// How many bytes of the frame are lacking, as far as is known.
    fn want(&self) -> Result<usize, FrameError> {
        let have = self.partial.len();
        let Some((len, body)) = self.partial.split_first_chunk::<LEN_BYTES>() else {
            return Ok(LEN_BYTES - have);
        };
        let len = u32::from_le_bytes(*len) as usize;
        if len > self.limit || len == 0 {
            return Err(FrameError);
        }
        Ok(len - body.len())
    }
}

async fn fill<R: AsyncBufRead + Unpin>(from: &mut R) -> io::Result<&[u8]> {
    timeout(STALL_LIMIT, from.fill_buf())
        .await
        .map_err(|_| stalled())?
}

fn stalled() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "the other side has stood still for a minute",
    )
}

/// Writes one message and flushes.
pub async fn send<M, W>(to: &mut W, message: &M) -> io::Result<()>
where
    M: Serialize,
    W: AsyncWrite + Unpin,
{
    write_raw(to, &encode(message)).await?;
    timeout(STALL_LIMIT, to.flush())
        .await
        .map_err(|_| stalled())?
}

/// Writes all of `bytes`, without flushing. A slow peer may take its time, a still one may not.
pub async fn write_raw<W>(to: &mut W, mut bytes: &[u8]) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    while !bytes.is_empty() {
        let put = timeout(STALL_LIMIT, to.write(bytes))
            .await
            .map_err(|_| stalled())??;
        if put == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[put..];
    }
    Ok(())
}

/// Appends exactly `len` raw bytes to `buffer`.
pub async fn read_raw<R>(from: &mut R, len: usize, buffer: &mut Vec<u8>) -> io::Result<()>
where
    R: AsyncBufRead + Unpin,
{
    buffer.reserve(len);
    let mut left = len;
    while left > 0 {
        let come = fill(from).await?;
        if come.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let take = come.len().min(left);
        buffer.extend_from_slice(&come[..take]);
        from.consume(take);
        left -= take;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_protocol::chunk::{Answer, Refusal, Request};
    use tokio::io::BufReader;

    #[tokio::test]
    async fn reads_frames_whatever_the_pieces() {
        let first = Request::Hello {
            version: 1,
            grant: "g".repeat(5_000),
        };
        let mut bytes = encode(&first);
        bytes.extend(encode(&Request::Done));
        for piece in [1, 3, 4, 7, 4_096, 100_000] {
            let mut from = BufReader::with_capacity(piece, &bytes[..]);
            let mut frames = Frames::new(8_192);
            assert_eq!(
                frames.read::<Request, _>(&mut from).await.expect("a frame"),
                first
            );
            assert_eq!(
                frames
                    .read::<Request, _>(&mut from)
                    .await
                    .expect("one more"),
                Request::Done
            );
            let end = frames.read::<Request, _>(&mut from).await;
            assert!(matches!(end, Err(WireError::Closed)));
        }
    }

    #[tokio::test]
    async fn refuses_long_empty_and_cut_frames() {
        let long = 101u32.to_le_bytes();
        let read = Frames::new(100).read::<Answer, _>(&mut &long[..]).await;
        assert!(matches!(read, Err(WireError::Frame(_))));
        let read = Frames::new(100).read::<Answer, _>(&mut &[0u8; 4][..]).await;
        assert!(matches!(read, Err(WireError::Frame(_))));
        let frame = encode(&Answer::Refuse(Refusal::Busy));
        let cut = &frame[..frame.len() - 1];
        let read = Frames::new(100).read::<Answer, _>(&mut &cut[..]).await;
        assert!(matches!(read, Err(WireError::Io(_))));
    }

    #[tokio::test]
    async fn a_cancelled_read_goes_on_where_it_was() {
        let (mut near, far) = tokio::io::duplex(64);
        let mut far = BufReader::new(far);
        let mut frames = Frames::new(100);
        let frame = encode(&Answer::Chunk { index: 7, len: 9 });
        let (head, tail) = frame.split_at(5);
        near.write_all(head).await.expect("written");
        tokio::select! {
            biased;
            read = frames.read::<Answer, _>(&mut far) => panic!("no whole frame: {read:?}"),
            () = tokio::task::yield_now() => {}
        }
        near.write_all(tail).await.expect("written");
        let read = frames.read::<Answer, _>(&mut far).await.expect("whole");
        assert_eq!(read, Answer::Chunk { index: 7, len: 9 });
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(0u8.., 0..400)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.expect("a runtime").block_on(async {
                let mut frames = Frames::new(64);
                let mut from = &bytes[..];
                while frames.read::<Request, _>(&mut from).await.is_ok() {}
            });
        }
    }
}
