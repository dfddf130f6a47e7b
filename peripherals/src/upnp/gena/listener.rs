//! Where one device sends its notifications: a listener on this machine's address towards it, which takes nothing but
//! NOTIFY from that device for a subscription that exists (UPnP Device Architecture 2.0 §4.3).

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::wire;

/// Largest body of a notification, in bytes. The initial one of a renderer with all metadata has 20 KB.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// Most header lines of a notification.
const MAX_HEADERS: usize = 32;
/// Largest head of a notification, in bytes; also what is read ahead.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Connections of one device at the same time; more are closed unread.
const MAX_CONNECTIONS: usize = 4;
/// How long one notification may take.
const NOTICE_TIME: Duration = Duration::from_secs(10);
/// Notifications taken at once, and per second in the long run (AVTransport:1 §2.3.1 allows 5 per second and service).
/// More are closed unread; the gap in their sequence then leads to a new subscription.
pub const BURST: u32 = 60;
/// See [`BURST`].
pub const PER_SECOND: u32 = 20;
/// Notifications waiting to be looked at.
const QUEUE: usize = 32;

/// What a subscription expects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing: there is no subscription.
    #[default]
    Nothing,
    /// The answer with the name is under way; the first notification may overtake it.
    Unnamed,
    /// Notifications of this name.
    Named(String),
}

/// A notification of a subscription.
#[derive(Debug)]
pub(super) struct Notice {
    /// Which subscription, by the callback it was sent to.
    pub(super) index: usize,
    pub(super) sid: String,
    pub(super) number: u32,
    pub(super) properties: Vec<(String, String)>,
}

type Table = Arc<Mutex<Vec<Expected>>>;

/// The listener for one device.
#[derive(Debug)]
pub(super) struct Listener {
    at: SocketAddr,
    table: Table,
    notices: mpsc::Receiver<Notice>,
    /// Dropped with the listener, and with it every connection.
    _tasks: JoinSet<()>,
}

impl Listener {
    /// Listens for `device` with room for `subscriptions`.
    pub(super) async fn open(device: IpAddr, subscriptions: usize) -> io::Result<Self> {
        let own = towards(device)?;
        let socket = TcpListener::bind((own, 0)).await?;
        let at = socket.local_addr()?;
        let table: Table = Arc::new(Mutex::new(vec![Expected::Nothing; subscriptions]));
        let (tell, notices) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept_all(socket, device, Arc::clone(&table), tell));
        Ok(Self {
            at,
            table,
            notices,
            _tasks: tasks,
        })
    }

    /// The callback of a subscription.
    pub(super) fn callback(&self, index: usize) -> String {
        format!("<http://{}/event/{index}>", self.at)
    }

    /// What the subscription expects from now on.
    pub(super) fn expect(&self, index: usize, expected: Expected) {
        self.table.lock().expect("no holder of this lock panics")[index] = expected;
    }

    /// The next notification. `None` never happens while the listener lives.
    pub(super) async fn next(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }
}

/// This machine's address as `device` sees it: the source of a route there. No packet is sent.
fn towards(device: IpAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = if device.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect((device, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// How many notifications may still come now.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self {
            left: f64::from(BURST),
            at: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let more = (now - self.at).as_secs_f64() * f64::from(PER_SECOND);
        self.left = (self.left + more).min(f64::from(BURST));
        self.at = now;
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

async fn accept_all(socket: TcpListener, device: IpAddr, table: Table, tell: mpsc::Sender<Notice>) {
    let mut allowance = Allowance::new(Instant::now());
    let mut connections: JoinSet<()> = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: never spin on it.
                tracing::debug!(%error, "a notification could not be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let ours = from.ip().to_canonical() == device;
        if !ours || connections.len() >= MAX_CONNECTIONS || !allowance.take(Instant::now()) {
            tracing::debug!(%from, ours, "a notification was closed unread");
            continue;
        }
        let (table, tell) = (Arc::clone(&table), tell.clone());
        connections.spawn(async move {
            // Late, broken or hostile: the connection is closed, and a gap in the sequence says the rest.
            let _ = timeout(NOTICE_TIME, serve(stream, &table, &tell)).await;
        });
    }
}

async fn serve(stream: TcpStream, table: &Table, tell: &mpsc::Sender<Notice>) {
    let answer = service_fn(async |request| {
        let status = take(request, table, tell).await;
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = status;
        Ok::<_, std::convert::Infallible>(response)
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a notification broke off");
    }
}

/// Judges one request (§4.3.2 for the statuses).
async fn take(
    request: Request<Incoming>,
    table: &Table,
    tell: &mpsc::Sender<Notice>,
) -> StatusCode {
    if request.method().as_str() != "NOTIFY" {
        return StatusCode::METHOD_NOT_ALLOWED;
    }
    let header = |name: &str| request.headers().get(name)?.to_str().ok().map(str::trim);
    let index = request.uri().path().strip_prefix("/event/");
    let Some(index) = index.and_then(|index| index.parse::<usize>().ok()) else {
        return StatusCode::NOT_FOUND;
    };
    if header("NT") != Some("upnp:event") || header("NTS") != Some("upnp:propchange") {
        return StatusCode::PRECONDITION_FAILED;
    }
    let sid = header("SID").unwrap_or_default().to_owned();
    let known = match table
        .lock()
        .expect("no holder of this lock panics")
        .get(index)
    {
        Some(Expected::Named(name)) => *name == sid,
        Some(Expected::Unnamed) => wire::parse_granted(Some(&sid), None).is_some(),
        Some(Expected::Nothing) | None => false,
    };
    let (true, Some(number)) = (known, header("SEQ").and_then(|text| text.parse().ok())) else {
        return StatusCode::PRECONDITION_FAILED;
    };
    if request.body().size_hint().lower() > MAX_BODY_BYTES as u64 {
        return StatusCode::PAYLOAD_TOO_LARGE;
    }
    let Ok(body) = Limited::new(request.into_body(), MAX_BODY_BYTES)
        .collect()
        .await
    else {
        return StatusCode::PAYLOAD_TOO_LARGE;
    };
    let Ok(properties) = wire::parse_properties(&body.to_bytes()) else {
        return StatusCode::BAD_REQUEST;
    };
    let notice = Notice {
        index,
        sid,
        number,
        properties,
    };
    // A full queue loses it; the next one shows the gap.
    match tell.try_send(notice) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
