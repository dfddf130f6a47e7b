//! The I/O with an MPD: connect, greet, send a list of commands, read the answer; every part of it bounded.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use mpd_client::protocol::command::Argument;
use mpd_client::protocol::response::Frame;
use mpd_client::protocol::{AsyncConnection, Command, CommandList, MpdProtocolError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Password;
use crate::changes::{Change, MediaChange};

/// Longest line accepted from an MPD, in bytes. MPD itself accepts lines of 4 KiB.
pub const MAX_LINE_BYTES: usize = 16 * 1024;
/// Most lines read on one connection; a song has about twelve.
pub const MAX_ANSWER_LINES: usize = 200_000;
/// Most bytes read on one connection.
pub const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// Longest time for connecting and greeting.
pub const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Longest time for one exchange.
pub const EXCHANGE_TIME: Duration = Duration::from_secs(10);

/// After a change the jukebox is listened to again so late: one that changes all the time costs little.
pub const TELL_PAUSE: Duration = Duration::from_millis(250);
/// A jukebox that cannot be listened to is tried again so late.
pub const TELL_AGAIN: Duration = Duration::from_secs(5);

/// Why an exchange with an MPD failed.
#[derive(Debug, thiserror::Error)]
pub enum MpdError {
    /// No connection could be made.
    #[error("no connection to {to}")]
    Connect {
        /// Address and port tried.
        to: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("no complete answer within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// The connection broke, or a limit was reached.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// Not the MPD protocol.
    #[error("the answer is not valid in the MPD protocol")]
    Protocol,
    /// The answer lacks something, or it is unreadable.
    #[error("the answer has no readable {0}")]
    Missing(&'static str),
    /// It refused a command (MPD protocol, "Failure responses").
    #[error("it answered: {message} (error {code})")]
    Refused {
        /// MPD's error code.
        code: u64,
        /// Its words, cut to 200 characters.
        message: String,
    },
    /// It wants a password, or another one.
    #[error("it asks for a password, and this gateway has none or another one")]
    Password,
    /// An argument that MPD cannot take: a line break in a name.
    #[error("a name on it cannot be sent back to it")]
    Argument,
}

impl MpdError {
    /// Whether nothing answers at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::TimedOut(_) | Self::Broken(_)
        )
    }

    /// MPD's error code (`ack.h`): 2 argument, 4 permission, 5 unknown command, 50 no such song, 52 system, 55 player.
    pub fn code(&self) -> Option<u64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl From<MpdProtocolError> for MpdError {
    fn from(error: MpdProtocolError) -> Self {
        match error {
            MpdProtocolError::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                Self::Protocol
            }
            MpdProtocolError::Io(source) => Self::Broken(source),
            MpdProtocolError::InvalidMessage => Self::Protocol,
        }
    }
}

/// A command with its arguments.
pub(super) fn command(word: &'static str, arguments: &[&str]) -> Result<Command, MpdError> {
    let mut command = Command::new(word);
    for argument in arguments {
        add(&mut command, *argument)?;
    }
    Ok(command)
}

fn add(command: &mut Command, argument: impl Argument) -> Result<(), MpdError> {
    command
        .add_argument(argument)
        .map_err(|_| MpdError::Argument)
}

/// One connection, greeted.
pub(super) struct Link {
    connection: AsyncConnection<Limited<TcpStream>>,
}

impl Link {
    /// Connects, reads the greeting and says the password.
    pub(super) async fn open(
        to: SocketAddr,
        password: Option<&Password>,
    ) -> Result<Self, MpdError> {
        let connecting = async {
            let stream = TcpStream::connect(to)
                .await
                .map_err(|source| MpdError::Connect { to, source })?;
            // Commands are short and each waits for its answer.
            let _ = stream.set_nodelay(true);
            Ok::<_, MpdError>(AsyncConnection::connect(Limited::new(stream)).await?)
        };
        let connection = timeout(CONNECT_TIME, connecting)
            .await
            .map_err(|_| MpdError::TimedOut(CONNECT_TIME))??;
        let mut link = Self { connection };
        if let Some(password) = password {
            link.exchange(vec![command("password", &[password.reveal()])?])
                .await?;
        }
        Ok(link)
    }

    /// Sends `commands` as one list and returns one frame for each. Nothing after a refused one is done.
    pub(super) async fn exchange(
        &mut self,
        commands: Vec<Command>,
    ) -> Result<Vec<Frame>, MpdError> {
        let mut commands = commands.into_iter();
        let Some(first) = commands.next() else {
            return Ok(Vec::new());
        };
        let mut list = CommandList::new(first);
        commands.for_each(|command| list.add(command));
        let wanted = list.len();
        let answer = timeout(EXCHANGE_TIME, self.connection.command_list(list))
            .await
            .map_err(|_| MpdError::TimedOut(EXCHANGE_TIME))??;
        let mut frames = Vec::with_capacity(wanted);
        for frame in answer {
            match frame {
                Ok(frame) => frames.push(frame),
                Err(refused) if matches!(refused.code, 3 | 4) => return Err(MpdError::Password),
                Err(refused) => {
                    return Err(MpdError::Refused {
                        code: refused.code,
                        message: crate::device::clean_label(&refused.message, 200)
                            .unwrap_or_default(),
                    });
                }
            }
        }
        // A hostile peer may answer with fewer.
        if frames.len() == wanted {
            Ok(frames)
        } else {
            Err(MpdError::Missing("answer to each command"))
        }
    }

    /// Sends `commands` and expects exactly `N` of them to be answered.
    pub(super) async fn ask<const N: usize>(
        &mut self,
        commands: [Command; N],
    ) -> Result<[Frame; N], MpdError> {
        self.exchange(commands.into())
            .await?
            .try_into()
            .map_err(|_| MpdError::Missing("answer to each command"))
    }
}

impl Link {
    /// Waits, without an end of its own, until something changes (MPD protocol, `idle`).
    pub(super) async fn idle(&mut self) -> Result<Vec<Change>, MpdError> {
        self.connection.send(command("idle", IDLE)?).await?;
        let answer = self.connection.receive().await?.ok_or(MpdError::Protocol)?;
        let frame = answer.into_single_frame().map_err(|_| MpdError::Protocol)?;
        let changed = frame.fields().filter_map(|(_, what)| match what {
            "player" | "playlist" | "options" => Some(Change::Playing),
            "mixer" => Some(Change::Loudness),
            "database" | "stored_playlist" => Some(Change::Media(MediaChange::Anything)),
            _ => None,
        });
        Ok(changed.take(IDLE.len()).collect())
    }
}

/// What is listened for.
const IDLE: &[&str] = &[
    "player",
    "playlist",
    "options",
    "mixer",
    "database",
    "stored_playlist",
];

/// A stream that fails once more came than any answer needs.
struct Limited<S> {
    inner: S,
    bytes: usize,
    lines: usize,
    line: usize,
}

impl<S> Limited<S> {
    fn new(inner: S) -> Self {
        Self {
            inner,
            bytes: 0,
            lines: 0,
            line: 0,
        }
    }

    fn count(&mut self, part: &[u8]) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(part.len());
        for (index, piece) in part.split(|byte| *byte == b'\n').enumerate() {
            if index > 0 {
                self.lines += 1;
                self.line = 0;
            }
            self.line += piece.len();
            if self.line > MAX_LINE_BYTES {
                return Err(too_much("a line is too long"));
            }
        }
        if self.bytes > MAX_ANSWER_BYTES || self.lines > MAX_ANSWER_LINES {
            return Err(too_much("the answer is too long"));
        }
        Ok(())
    }
}

fn too_much(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        Poll::Ready(self.count(buf.filled().get(before..).unwrap_or_default()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
