//! The connection to a Cast device, on a thread of its own: it takes orders one by one, answers heartbeats while it
//! waits, and ends when its player is dropped or nothing was asked for [`IDLE_TIME`].

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rust_cast::NoCertificateVerification;
use rust_cast::message_manager::{CastMessage, CastMessagePayload, MessageManager};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::wire::{
    self, CONNECTION, DEFAULT_APP, Failure, HEARTBEAT, Heard, MEDIA, MediaStatus, RECEIVER,
    ReceiverStatus,
};
use crate::media::{Mute, PlayRequest, PlaybackStatus, TransportState, Volume};

/// Largest message accepted, in bytes: what the Cast protocol allows.
pub const MAX_MESSAGE_BYTES: u32 = 64 * 1024;
/// Most messages read while one answer is waited for.
pub const MAX_MESSAGES: u32 = 64;
/// Longest time for connecting and the TLS handshake.
pub const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Longest time for an answer.
pub const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Longest time for an application to start, and for a title to load.
pub const LOAD_TIME: Duration = Duration::from_secs(20);
/// A device that says nothing is asked whether it is there so often; it expects the same of us.
pub const PING_EVERY: Duration = Duration::from_secs(5);
/// A connection that nobody needs is closed after so long.
pub const IDLE_TIME: Duration = Duration::from_secs(15);
/// Orders waiting for one device.
pub const ORDER_QUEUE: usize = 8;

/// This side of a virtual connection.
const SENDER: &str = "sender-mantel";
/// The device itself, as opposed to an application on it.
const DEVICE: &str = "receiver-0";

/// Why a Cast device did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CastError {
    /// No connection could be made.
    #[error("no connection to {to}")]
    Connect {
        /// Address and port tried.
        to: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection broke, took too long, or a limit was reached.
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It sent more than a device has to say.
    #[error("it sent too much, or what is no Cast message")]
    TooMuch,
    /// It did not answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The default media receiver did not start.
    #[error("its player did not start")]
    NoApp,
    /// Nothing is loaded.
    #[error("nothing is loaded")]
    NothingLoaded,
    /// It said no.
    #[error("it refused the request")]
    Refused(Failure),
    /// Too many orders wait, or the gateway is stopping.
    #[error("too many orders wait for it")]
    Busy,
}

/// What a player wants done.
#[derive(Debug)]
pub(super) enum Order {
    Load(PlayRequest),
    LoadNext(PlayRequest),
    Play,
    Pause,
    Stop,
    Seek(Duration),
    Status,
    Receiver,
    SetVolume(Volume),
    SetMute(Mute),
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    Status(PlaybackStatus),
    Receiver(ReceiverStatus),
}

/// Where the result goes.
pub(super) type Reply = oneshot::Sender<Result<Done, CastError>>;

/// Starts the thread for the device at `to`. It ends when the sender is dropped.
pub(super) fn start(to: SocketAddr) -> io::Result<SyncSender<(Order, Reply)>> {
    let (orders, inbox) = sync_channel(ORDER_QUEUE);
    std::thread::Builder::new()
        .name("cast".to_owned())
        .spawn(move || run(to, &inbox))?;
    Ok(orders)
}

fn run(to: SocketAddr, inbox: &Receiver<(Order, Reply)>) {
    let mut link: Option<Link> = None;
    let mut idle = Duration::ZERO;
    loop {
        match inbox.recv_timeout(PING_EVERY) {
            Ok((order, reply)) => {
                idle = Duration::ZERO;
                // Nobody waits any more: the order is out of date.
                if reply.is_closed() {
                    continue;
                }
                let kept = link.is_some();
                let mut done = obey(&mut link, to, &order);
                if kept && matches!(done, Err(CastError::Broken(_))) {
                    // It had closed the old connection.
                    done = obey(&mut link, to, &order);
                }
                // The presser may have gone away.
                let _ = reply.send(done);
            }
            Err(RecvTimeoutError::Timeout) => {
                idle += PING_EVERY;
                if idle >= IDLE_TIME {
                    return;
                }
                if let Some(open) = &mut link
                    && open.ping().is_err()
                {
                    link = None;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn obey(link: &mut Option<Link>, to: SocketAddr, order: &Order) -> Result<Done, CastError> {
    let mut open = match link.take() {
        Some(open) => open,
        None => Link::open(to)?,
    };
    let done = open.obey(order);
    // After a refusal the connection is sound; after anything else it may be out of step.
    if matches!(
        done,
        Ok(_) | Err(CastError::Refused(_) | CastError::NothingLoaded | CastError::NoApp)
    ) {
        *link = Some(open);
    }
    done
}

/// One connection.
struct Link {
    messages: MessageManager<Framed<StreamOwned<ClientConnection, Timed>>>,
    until: Rc<Cell<Instant>>,
    left: Rc<Cell<u32>>,
    request: u64,
    /// The application that a virtual connection was begun to.
    joined: Option<String>,
}

impl Link {
    fn open(to: SocketAddr) -> Result<Self, CastError> {
        let refused = |source| CastError::Connect { to, source };
        let socket = TcpStream::connect_timeout(&to, CONNECT_TIME).map_err(refused)?;
        // Messages are short and each waits for its answer.
        let _ = socket.set_nodelay(true);
        let until = Rc::new(Cell::new(Instant::now() + CONNECT_TIME));
        let left = Rc::new(Cell::new(MAX_MESSAGES));
        let tls = ClientConnection::new(tls_config()?, to.ip().into())
            .map_err(|error| CastError::Broken(error.into()))?;
        let timed = Timed {
            socket,
            until: Rc::clone(&until),
        };
        let mut link = Self {
            messages: MessageManager::new(Framed::new(
                StreamOwned::new(tls, timed),
                Rc::clone(&left),
            )),
            until,
            left,
            request: 0,
            joined: None,
        };
        // The handshake is made by this first message.
        link.send(DEVICE, CONNECTION, &json!({"type": "CONNECT"}))?;
        link.receiver(&json!({"type": "GET_STATUS"}))?;
        Ok(link)
    }

    fn send(&mut self, to: &str, namespace: &str, payload: &Value) -> Result<(), CastError> {
        let message = CastMessage {
            namespace: namespace.to_owned(),
            source: SENDER.to_owned(),
            destination: to.to_owned(),
            payload: CastMessagePayload::String(payload.to_string()),
        };
        self.messages.send(message).map_err(broken)
    }

    fn within(&self, time: Duration) {
        self.until.set(Instant::now() + time);
        self.left.set(MAX_MESSAGES);
    }

    /// The next message; heartbeats are answered on the way.
    fn hear(&mut self) -> Result<Heard, CastError> {
        loop {
            let message = self.messages.receive().map_err(broken)?;
            let CastMessagePayload::String(payload) = message.payload else {
                continue;
            };
            match wire::heard(&message.namespace, &payload) {
                Heard::Ping => self.send(DEVICE, HEARTBEAT, &json!({"type": "PONG"}))?,
                Heard::Close if message.source == DEVICE => {
                    return Err(CastError::Broken("it closed the connection".into()));
                }
                Heard::Close => {
                    // The application ended.
                    self.joined = None;
                    return Ok(Heard::Close);
                }
                heard => return Ok(heard),
            }
        }
    }

    /// Sends a request and waits for what answers it, by the request's number.
    fn ask<T>(
        &mut self,
        to: &str,
        namespace: &str,
        question: &Value,
        time: Duration,
        answer: impl Fn(u64, Heard) -> Option<T>,
    ) -> Result<T, CastError> {
        self.request += 1;
        let number = self.request;
        let mut question = question.clone();
        question["requestId"] = json!(number);
        self.within(time);
        self.send(to, namespace, &question)?;
        loop {
            match self.hear()? {
                Heard::Failed { request, failure } if request == number => {
                    return Err(CastError::Refused(failure));
                }
                Heard::Close if to != DEVICE => return Err(CastError::NothingLoaded),
                heard => {
                    if let Some(found) = answer(number, heard) {
                        return Ok(found);
                    }
                }
            }
        }
    }

    fn receiver(&mut self, question: &Value) -> Result<ReceiverStatus, CastError> {
        self.ask(
            DEVICE,
            RECEIVER,
            question,
            ANSWER_TIME,
            |number, heard| match heard {
                Heard::Receiver { request, status } if request == number => Some(status),
                _ => None,
            },
        )
    }

    fn ping(&mut self) -> Result<(), CastError> {
        self.within(ANSWER_TIME);
        self.send(DEVICE, HEARTBEAT, &json!({"type": "PING"}))?;
        // Any answer proves that it is there; this one is short and always given.
        self.receiver(&json!({"type": "GET_STATUS"})).map(drop)
    }

    /// The default media receiver's transport, if it runs; a virtual connection to it is begun.
    fn app(&mut self) -> Result<Option<String>, CastError> {
        let status = self.receiver(&json!({"type": "GET_STATUS"}))?;
        let transport = status.default_app().map(|app| app.transport.clone());
        if let Some(transport) = &transport {
            self.join(transport)?;
        }
        Ok(transport)
    }

    fn join(&mut self, transport: &str) -> Result<(), CastError> {
        if self.joined.as_deref() != Some(transport) {
            self.send(transport, CONNECTION, &json!({"type": "CONNECT"}))?;
            self.joined = Some(transport.to_owned());
        }
        Ok(())
    }

    /// The same, started if need be.
    fn launch(&mut self) -> Result<String, CastError> {
        if let Some(transport) = self.app()? {
            return Ok(transport);
        }
        let launch = json!({"type": "LAUNCH", "appId": DEFAULT_APP});
        // Some devices answer the request first without the application, and tell of it by themselves later.
        let started = self.ask(
            DEVICE,
            RECEIVER,
            &launch,
            LOAD_TIME,
            |_, heard| match heard {
                Heard::Receiver { status, .. } => status.default_app().cloned(),
                _ => None,
            },
        );
        let app = started.map_err(|error| match error {
            CastError::Refused(_) => CastError::NoApp,
            other => other,
        })?;
        self.join(&app.transport)?;
        Ok(app.transport)
    }

    fn media(
        &mut self,
        transport: &str,
        question: &Value,
        time: Duration,
    ) -> Result<Option<MediaStatus>, CastError> {
        self.ask(
            transport,
            MEDIA,
            question,
            time,
            |number, heard| match heard {
                Heard::Media { request, status } if request == number => Some(status),
                _ => None,
            },
        )
    }

    /// A command for what is loaded.
    fn command(&mut self, mut question: Value) -> Result<(), CastError> {
        let transport = self.app()?.ok_or(CastError::NothingLoaded)?;
        let now = self.media(&transport, &json!({"type": "GET_STATUS"}), ANSWER_TIME)?;
        let session = now.ok_or(CastError::NothingLoaded)?.session;
        question["mediaSessionId"] = json!(session);
        self.media(&transport, &question, ANSWER_TIME).map(drop)
    }

    fn obey(&mut self, order: &Order) -> Result<Done, CastError> {
        match order {
            Order::Load(what) => self.load(what)?,
            Order::LoadNext(what) => {
                let item = json!({"media": wire::media(what), "autoplay": true, "preloadTime": 10});
                self.command(json!({"type": "QUEUE_INSERT", "items": [item]}))?;
            }
            Order::Play => self.command(json!({"type": "PLAY"}))?,
            Order::Pause => self.command(json!({"type": "PAUSE"}))?,
            Order::Seek(to) => {
                self.command(json!({"type": "SEEK", "currentTime": to.as_secs_f64()}))?;
            }
            Order::Stop => self.stop()?,
            Order::Status => return self.status().map(Done::Status),
            Order::Receiver => {
                return self
                    .receiver(&json!({"type": "GET_STATUS"}))
                    .map(Done::Receiver);
            }
            Order::SetVolume(volume) => {
                let level = f64::from(volume.as_percent()) / 100.0;
                self.receiver(&json!({"type": "SET_VOLUME", "volume": {"level": level}}))?;
            }
            Order::SetMute(mute) => {
                let muted = *mute == Mute::On;
                self.receiver(&json!({"type": "SET_VOLUME", "volume": {"muted": muted}}))?;
            }
        }
        Ok(Done::Nothing)
    }

    fn load(&mut self, what: &PlayRequest) -> Result<(), CastError> {
        let transport = self.launch()?;
        let question = json!({"type": "LOAD", "autoplay": false, "currentTime": 0, "media": wire::media(what)});
        let loaded = self.media(&transport, &question, LOAD_TIME)?;
        match loaded {
            Some(status) if status.failed => Err(CastError::Refused(Failure::Media)),
            _ => Ok(()),
        }
    }

    /// Ends what plays, and the player, so that the screen shows what it showed before.
    fn stop(&mut self) -> Result<(), CastError> {
        let status = self.receiver(&json!({"type": "GET_STATUS"}))?;
        let Some(app) = status.default_app().cloned() else {
            return Ok(());
        };
        match self.command(json!({"type": "STOP"})) {
            Ok(()) | Err(CastError::NothingLoaded | CastError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        self.joined = None;
        self.receiver(&json!({"type": "STOP", "sessionId": app.session}))
            .map(drop)
    }

    fn status(&mut self) -> Result<PlaybackStatus, CastError> {
        let nothing = PlaybackStatus {
            state: TransportState::NoMedia,
            failed: false,
            position: None,
            duration: None,
            url: None,
        };
        let Some(transport) = self.app()? else {
            return Ok(nothing);
        };
        let asked = self.media(&transport, &json!({"type": "GET_STATUS"}), ANSWER_TIME);
        let status = match asked {
            Ok(status) => status,
            // It ended between the two questions.
            Err(CastError::NothingLoaded) => None,
            Err(error) => return Err(error),
        };
        Ok(status.map_or(nothing, |now| PlaybackStatus {
            state: now.state,
            failed: now.failed,
            position: now.position,
            duration: now.duration,
            url: now.url,
        }))
    }
}

fn tls_config() -> Result<Arc<ClientConfig>, CastError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| CastError::Broken(error.into()))?
        .dangerous()
        // See the folder's documentation: a Cast device's certificate proves nothing but its own key.
        .with_custom_certificate_verifier(Arc::new(NoCertificateVerification))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn broken(error: rust_cast::errors::Error) -> CastError {
    match error {
        rust_cast::errors::Error::Io(source) => match source.kind() {
            io::ErrorKind::InvalidData if is_overrun(&source) => CastError::TooMuch,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => CastError::TimedOut,
            _ => CastError::Broken(source.into()),
        },
        other => CastError::Broken(other.to_string().into()),
    }
}

/// A limit was reached.
#[derive(Debug, thiserror::Error)]
#[error("more than a Cast device has to say")]
struct Overrun;

fn is_overrun(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.downcast_ref::<Overrun>().is_some())
}

fn overrun() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Overrun)
}

/// A socket that gives up at a moment, however slowly bytes trickle in.
struct Timed {
    socket: TcpStream,
    until: Rc<Cell<Instant>>,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.get().saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Some(left))
    }
}

impl Read for Timed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buf)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Follows the frames (four bytes of length, then so many bytes) and ends before one that is too large, or one too
/// many.
pub(super) struct Framed<S> {
    inner: S,
    /// Messages that may still come.
    left: Rc<Cell<u32>>,
    head: [u8; 4],
    head_len: usize,
    body_left: usize,
}

impl<S> Framed<S> {
    pub(super) fn new(inner: S, left: Rc<Cell<u32>>) -> Self {
        Self {
            inner,
            left,
            head: [0; 4],
            head_len: 0,
            body_left: 0,
        }
    }
}

impl<S: Read> Read for Framed<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = if self.body_left > 0 {
            self.body_left
        } else {
            self.head.len() - self.head_len
        };
        let wanted = wanted.min(buf.len());
        let Some(part) = buf.get_mut(..wanted) else {
            return Ok(0);
        };
        let came = self.inner.read(part)?;
        let part = part.get(..came).unwrap_or_default();
        if self.body_left > 0 {
            self.body_left -= came;
            return Ok(came);
        }
        for byte in part {
            self.head[self.head_len] = *byte;
            self.head_len += 1;
        }
        if self.head_len == self.head.len() {
            let length = u32::from_be_bytes(self.head);
            let left = self.left.get().checked_sub(1).ok_or_else(overrun)?;
            if length > MAX_MESSAGE_BYTES {
                return Err(overrun());
            }
            self.left.set(left);
            self.head_len = 0;
            self.body_left = length as usize;
        }
        Ok(came)
    }
}

impl<S: Write> Write for Framed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
