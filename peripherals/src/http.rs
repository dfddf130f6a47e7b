//! HTTP to a device on the LAN, with a limit on everything: one connection per exchange, literal address, no
//! redirects, no proxies, no cookies, no compression, bounded header, body and time.
//!
//! Built on hyper's connection rather than on a client with a pool: the bounds are the point, and after the last
//! byte of an answer the connection is looked at once more for bytes that the device did not declare.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::url::DeviceUrl;

/// Most header lines in an answer.
pub const MAX_ANSWER_HEADERS: usize = 64;
/// Largest head of an answer, in bytes; also the read buffer of a stream.
pub const MAX_ANSWER_HEAD: usize = 64 * 1024;
/// How long a connection is watched after the declared end of a body for bytes beyond it.
const TAIL_WATCH: Duration = Duration::from_millis(500);
/// A stream must bring [`STALL_BYTES`] in each such span of waiting, or it counts as stalled.
pub const STALL_WINDOW: Duration = Duration::from_secs(30);
/// See [`STALL_WINDOW`].
pub const STALL_BYTES: u64 = 16 * 1024;

/// Why an HTTP exchange with a device failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection could be made.
    #[error("no connection to {to}")]
    Connect {
        /// Address and port tried.
        to: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The whole exchange, or the head of its answer, took too long.
    #[error("no complete answer within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// A body that trickles.
    #[error("less than {STALL_BYTES} bytes came in {} seconds", STALL_WINDOW.as_secs())]
    Stalled,
    /// The answer is no HTTP, or the connection broke.
    #[error("the answer is not valid HTTP or was cut off")]
    Protocol(#[source] hyper::Error),
    /// An answer with a status other than success.
    #[error("the answer was HTTP status {0}")]
    Status(u16),
    /// The device wants to send us elsewhere.
    #[error("it answered with a redirect, which is not followed")]
    Redirect,
    /// The body is larger than allowed.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The connection ended before the declared length.
    #[error("only {received} of {declared} bytes came")]
    Truncated {
        /// Content-Length.
        declared: u64,
        /// Bytes received.
        received: u64,
    },
    /// More bytes came than the declared length.
    #[error("more came than the {declared} bytes declared")]
    Overlong {
        /// Content-Length.
        declared: u64,
    },
}

/// A request to a device.
pub(crate) struct Request<'a> {
    pub method: Method,
    pub url: &'a DeviceUrl,
    pub headers: Vec<(HeaderName, String)>,
    pub body: Bytes,
}

impl<'a> Request<'a> {
    pub(crate) fn get(url: &'a DeviceUrl) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }
}

/// A whole answer, small enough to hold.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Sends `request` and reads the whole answer: at most `limit` bytes of body, in at most `total` time.
/// Any status comes back except redirects.
pub(crate) async fn exchange(
    request: Request<'_>,
    limit: u64,
    total: Duration,
) -> Result<Answer, HttpError> {
    let run = async {
        let mut opened = open_within(request, total).await?;
        if opened.declared.is_some_and(|declared| declared > limit) {
            return Err(HttpError::TooLarge { limit });
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = opened.next().await? {
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(HttpError::TooLarge { limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: opened.status,
            headers: opened.headers,
            body: body.freeze(),
        })
    };
    timeout(total, run)
        .await
        .map_err(|_| HttpError::TimedOut(total))?
}

/// [`exchange`] by GET, success only.
pub(crate) async fn get(url: &DeviceUrl, limit: u64, total: Duration) -> Result<Bytes, HttpError> {
    let answer = exchange(Request::get(url), limit, total).await?;
    if answer.status.is_success() {
        Ok(answer.body)
    } else {
        Err(HttpError::Status(answer.status.as_u16()))
    }
}

/// Sends `request` and waits for the head of the answer, at most `head_time`.
pub(crate) async fn open_within(
    request: Request<'_>,
    head_time: Duration,
) -> Result<Opened, HttpError> {
    timeout(head_time, open(request))
        .await
        .map_err(|_| HttpError::TimedOut(head_time))?
}

type Connection = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

async fn open(request: Request<'_>) -> Result<Opened, HttpError> {
    let stream = TcpStream::connect(request.url.socket())
        .await
        .map_err(|source| HttpError::Connect {
            to: request.url.authority(),
            source,
        })?;
    let (mut sender, connection): (_, Connection) = http1::Builder::new()
        .max_headers(MAX_ANSWER_HEADERS)
        .max_buf_size(MAX_ANSWER_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(HttpError::Protocol)?;
    let mut driver = JoinSet::new();
    driver.spawn(connection.without_shutdown());
    let mut message = hyper::Request::new(Full::new(request.body));
    *message.method_mut() = request.method;
    *message.uri_mut() = request
        .url
        .target()
        .parse()
        .expect("a DeviceUrl's target is percent-encoded, which its tests prove");
    fill_headers(message.headers_mut(), request.url, request.headers);
    let response = sender
        .send_request(message)
        .await
        .map_err(HttpError::Protocol)?;
    if response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED {
        return Err(HttpError::Redirect);
    }
    let (head, body) = response.into_parts();
    let declared = content_length(&head.headers);
    Ok(Opened {
        status: head.status,
        headers: head.headers,
        declared,
        received: 0,
        body,
        driver,
    })
}

fn fill_headers(headers: &mut HeaderMap, url: &DeviceUrl, more: Vec<(HeaderName, String)>) {
    let host = HeaderValue::from_str(&url.authority()).expect("an IP address and port are ASCII");
    headers.insert(header::HOST, host);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(crate::USER_AGENT),
    );
    for (name, value) in more {
        // A value that may not stand in a header came from the device itself (an ETag): leave it out.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// An answer whose head has come and whose body is read piece by piece.
pub(crate) struct Opened {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Content-Length, where one was given.
    pub declared: Option<u64>,
    pub received: u64,
    body: Incoming,
    /// Drives the connection; ends with this value.
    driver: JoinSet<Result<http1::Parts<TokioIo<TcpStream>>, hyper::Error>>,
}

impl Opened {
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    /// The next piece of the body; `None` at its end, if it is as long as declared.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(chunk) = frame.into_data() else {
                        continue;
                    };
                    self.received += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Some(Err(error)) => {
                    return Err(match self.declared {
                        Some(declared) if self.received < declared => HttpError::Truncated {
                            declared,
                            received: self.received,
                        },
                        _ => HttpError::Protocol(error),
                    });
                }
                None => return self.check_tail().await.map(|()| None),
            }
        }
    }

    /// Looks for bytes after the declared end.
    async fn check_tail(&mut self) -> Result<(), HttpError> {
        let Some(declared) = self.declared else {
            return Ok(());
        };
        let watch = async {
            let parts = self.driver.join_next().await?.ok()?.ok()?;
            if !parts.read_buf.is_empty() {
                return Some(1);
            }
            parts.io.into_inner().read(&mut [0; 1]).await.ok()
        };
        match timeout(TAIL_WATCH, watch).await {
            Ok(Some(more)) if more > 0 => Err(HttpError::Overlong { declared }),
            // Closed, still open and silent, or reset: no byte too many was seen.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Judges whether a stream still moves: counts only time spent waiting for the device, not our own.
#[derive(Debug, Default)]
pub(crate) struct StallWatch {
    waited: Duration,
    bytes: u64,
}

impl StallWatch {
    /// The next piece of `opened`, or [`HttpError::Stalled`].
    pub(crate) async fn next(&mut self, opened: &mut Opened) -> Result<Option<Bytes>, HttpError> {
        let left = STALL_WINDOW.saturating_sub(self.waited);
        let start = tokio::time::Instant::now();
        let piece = timeout(left, opened.next())
            .await
            .map_err(|_| HttpError::Stalled)??;
        self.waited += start.elapsed();
        self.bytes += piece.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.bytes >= STALL_BYTES {
            *self = Self::default();
        }
        Ok(piece)
    }
}
