//! The server's API, typed: one method per endpoint of `mantel_protocol::api`, over TLS pinned to the server's key.
//!
//! Every request carries a fresh log-in signed by the device key. A call that may be repeated is, after a short jittered
//! wait, when there was no answer; what the server refuses is not repeated. A box with a wrong clock logs in by the
//! `Date` of the server's own answers.

use super::claim::authority;
use super::identity::Identity;
use super::store::Enrolment;
use jiff::{SignedDuration, Timestamp};
use mantel_protocol::api::{
    AccountAnswer, EnrolRequest, Enrolled, GrantAnswer, GrantRequest, HomeEntry, LicenseAnswer,
    LicenseRequest, OrderEntry, OrderRequest, PresenceAnswer, PresenceReport, Problem, ProblemCode,
    ProblemReport, PublishRequest, ReceiptRequest, RestrictionsAnswer, SeedOffer, SendTask,
    ServerCard, TimeAnswer, TitleEntry, UpdateAnswer, UpdateOutcome, UpdateQuestion,
};
use mantel_protocol::ids::{DeliveryId, OrderId, TitleId};
use mantel_protocol::key::ServerKey;
use mantel_protocol::token::{DeviceLogin, TokenError};
use mantel_protocol::update::Version;
use mantel_runtime::clock::Clock;
use mantel_runtime::tls::{Pin, pinned_client};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a request may take, answer included.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// The same for a piece of an update: 1 MiB also comes over a slow line.
const PIECE_LIMIT: Duration = Duration::from_mins(5);
/// How often a call that may be repeated is made.
const TRIES: u32 = 3;
/// The wait before the second try; the third waits twice as long. Each is jittered to between half and whole.
const RETRY_BASE: Duration = Duration::from_millis(300);
/// The largest answer read, bytes: a catalog with posters.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// The largest refusal read where few bytes are expected.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// Why a call failed; Display is for a person.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no server yet.
    #[error("this gateway is not enrolled with a server yet; enter the claim link first")]
    NotEnrolled,
    /// No answer.
    #[error("the server does not answer; what is here stays here, and it is tried again by itself")]
    Unreachable(#[source] reqwest::Error),
    /// An answer that is none.
    #[error("the server gave an answer that this gateway does not understand; update both")]
    Answer,
    /// The server says no, and why.
    #[error("{}", in_words(.0))]
    Problem(Problem),
    /// A token in the answer does not verify.
    #[error("the server's answer is not signed by the server that this gateway trusts")]
    Token(#[source] TokenError),
    /// The keys do not make a TLS client.
    #[error("this gateway's TLS could not be set up")]
    Setup,
}

fn in_words(problem: &Problem) -> String {
    match problem.next.as_str() {
        "" => problem.detail.clone(),
        next => {
            let mut letters = next.chars();
            let first = letters.next().map(char::to_uppercase).into_iter().flatten();
            let next: String = first.chain(letters).collect();
            format!("{}. {next}", problem.detail.trim_end_matches('.'))
        }
    }
}

impl ApiError {
    /// Whether the same call may succeed later without anybody doing anything.
    pub fn passes(&self) -> bool {
        match self {
            Self::NotEnrolled
            | Self::Unreachable(_)
            | Self::Answer
            | Self::Token(_)
            | Self::Setup => true,
            Self::Problem(problem) => matches!(
                problem.code,
                ProblemCode::Internal
                    | ProblemCode::TooMany
                    | ProblemCode::BadToken
                    | ProblemCode::Unreachable
            ),
        }
    }

    /// The server's code, where it answered.
    pub fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            _ => None,
        }
    }
}

/// 128 random bits, hex: a nonce or an idempotency key.
pub fn random_hex() -> String {
    data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>())
}

/// A random part of a wait: between half and whole, so that many gateways do not call at once.
pub fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + 0.5 * rand::random::<f64>())
}

/// Whether a call may be made again when no answer came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It changes nothing twice.
    Yes,
    /// It might.
    No,
}

/// The API's client; cheap to clone.
#[derive(Clone)]
pub struct ApiClient {
    http: ServerClient,
    identity: Arc<Identity>,
    server: ServerKey,
}

/// Calls without a log-in.
#[derive(Clone)]
pub(super) struct ServerClient {
    http: reqwest::Client,
    base: String,
    clock: Clock,
    /// The server's clock as its last answer showed it, and when that was.
    seen: Arc<Mutex<Option<(Timestamp, Duration)>>>,
}

/// A client for the server at `host`, pinned.
pub(super) fn server_client(
    host: &str,
    port: u16,
    pin: Pin,
    clock: Clock,
) -> Result<ServerClient, ApiError> {
    let mut tls = pinned_client(pin).map_err(|_| ApiError::Setup)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .timeout(REQUEST_LIMIT)
        .user_agent(concat!("mantel-gateway/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(ApiError::Unreachable)?;
    let base = format!("https://{}", authority(host, port));
    Ok(ServerClient {
        http,
        base,
        clock,
        seen: Arc::default(),
    })
}

impl ServerClient {
    async fn once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&[u8]>,
        login: Option<&str>,
    ) -> Result<Vec<u8>, ApiError> {
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.base));
        if let Some(login) = login {
            request = request.bearer_auth(login);
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_vec());
        }
        self.answer(request, MAX_ANSWER_BYTES).await
    }

    async fn answer(
        &self,
        request: reqwest::RequestBuilder,
        most_bytes: usize,
    ) -> Result<Vec<u8>, ApiError> {
        let mut answer = request.send().await.map_err(ApiError::Unreachable)?;
        self.note_date(&answer);
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(ApiError::Unreachable)? {
            if bytes.len() + piece.len() > most_bytes {
                return Err(ApiError::Answer);
            }
            bytes.extend_from_slice(&piece);
        }
        if status.is_success() {
            Ok(bytes)
        } else {
            Err(refusal(status, &bytes))
        }
    }

    /// Notes the server's `Date` (RFC 9110 §6.6.1): the connection is pinned, so it is the server's word.
    fn note_date(&self, answer: &reqwest::Response) {
        let date = answer
            .headers()
            .get("date")
            .and_then(|value| value.to_str().ok());
        if let Some(date) = date.and_then(|text| jiff::fmt::rfc2822::parse(text).ok()) {
            let now = self.clock.monotonic();
            *self.seen.lock().expect("no holder of this lock panics") =
                Some((date.timestamp(), now));
        }
    }

    /// The time to write into a log-in.
    fn login_time(&self) -> Timestamp {
        let seen = *self.seen.lock().expect("no holder of this lock panics");
        let Some((date, at)) = seen else {
            return self.clock.now();
        };
        let since = self.clock.monotonic().saturating_sub(at);
        let since = SignedDuration::try_from(since).unwrap_or(SignedDuration::ZERO);
        date.saturating_add(since).unwrap_or(date)
    }

    /// Who the server is, and what its clock says.
    pub(super) async fn server_card_and_clock(&self) -> Result<(ServerCard, Timestamp), ApiError> {
        let bytes = self.once(&Method::GET, "/v1/server", None, None).await?;
        Ok((parse(&bytes)?, self.login_time()))
    }

    /// Enrols. Not repeated: the code is used up by the first.
    pub(super) async fn enrol(&self, request: &EnrolRequest) -> Result<Enrolled, ApiError> {
        let body = serde_json::to_vec(request).expect("requests are plain data");
        parse(
            &self
                .once(&Method::POST, "/v1/enrol", Some(&body), None)
                .await?,
        )
    }
}

fn refusal(status: StatusCode, bytes: &[u8]) -> ApiError {
    if let Ok(problem) = serde_json::from_slice::<Problem>(bytes) {
        return ApiError::Problem(problem);
    }
    let code = match status.as_u16() {
        401 => ProblemCode::BadToken,
        403 => ProblemCode::Forbidden,
        404 => ProblemCode::NotFound,
        409 => ProblemCode::Conflict,
        429 => ProblemCode::TooMany,
        500.. => ProblemCode::Internal,
        _ => ProblemCode::BadRequest,
    };
    let detail = format!("the server refused the request (HTTP {})", status.as_u16());
    ApiError::Problem(Problem {
        code,
        status: status.as_u16(),
        detail,
        next: String::new(),
    })
}

fn parse<A: DeserializeOwned>(bytes: &[u8]) -> Result<A, ApiError> {
    serde_json::from_slice(bytes).map_err(|_| ApiError::Answer)
}

/// The answer of a call that answers nothing.
struct Nothing;

impl<'de> serde::Deserialize<'de> for Nothing {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl ApiClient {
    pub(super) fn new(
        enrolment: &Enrolment,
        identity: Arc<Identity>,
        clock: Clock,
    ) -> Result<Self, ApiError> {
        let http = server_client(&enrolment.host, enrolment.api_port, enrolment.pin, clock)?;
        Ok(Self {
            http,
            identity,
            server: enrolment.server.key,
        })
    }

    /// A log-in for the broker, by the best clock at hand.
    pub(super) fn login(&self) -> String {
        DeviceLogin::sign(&self.identity.device, self.server, self.http.login_time())
    }

    async fn raw(
        &self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        again: Again,
    ) -> Result<Vec<u8>, ApiError> {
        let mut tries = 0;
        let mut clock_mended = false;
        loop {
            tries += 1;
            let error = match self
                .http
                .once(&method, path, body, Some(&self.login()))
                .await
            {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            // The log-in was made by a wrong clock; the refusal showed the right one.
            if error.code() == Some(ProblemCode::BadToken) && !clock_mended {
                clock_mended = true;
                continue;
            }
            let lost = matches!(error, ApiError::Unreachable(_))
                || error.code() == Some(ProblemCode::Internal);
            if again == Again::No || !lost || tries >= TRIES {
                return Err(error);
            }
            tokio::time::sleep(jittered(RETRY_BASE * tries)).await;
        }
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        again: Again,
    ) -> Result<A, ApiError> {
        parse_or_nothing(&self.raw(method, path, None, again).await?)
    }

    async fn send<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        again: Again,
    ) -> Result<A, ApiError> {
        let body = serde_json::to_vec(body).expect("requests are plain data");
        parse_or_nothing(&self.raw(method, path, Some(&body), again).await?)
    }

    /// `GET /v1/server`.
    pub async fn server_card(&self) -> Result<ServerCard, ApiError> {
        self.call(Method::GET, "/v1/server", Again::Yes).await
    }

    /// `GET /v1/time`.
    pub async fn time(&self, nonce: &str) -> Result<TimeAnswer, ApiError> {
        // Not repeated here: an answer must be as fresh as its question.
        self.call(Method::GET, &format!("/v1/time?nonce={nonce}"), Again::No)
            .await
    }

    /// `PUT /v1/presence`.
    pub async fn put_presence(&self, report: &PresenceReport) -> Result<PresenceAnswer, ApiError> {
        self.send(Method::PUT, "/v1/presence", report, Again::Yes)
            .await
    }

    /// `GET /v1/homes`.
    pub async fn homes(&self) -> Result<Vec<HomeEntry>, ApiError> {
        self.call(Method::GET, "/v1/homes", Again::Yes).await
    }

    /// `GET /v1/directory` (F5, F6).
    pub async fn look_up(&self, address: &str) -> Result<Vec<HomeEntry>, ApiError> {
        let escaped: String = address
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect();
        self.call(
            Method::GET,
            &format!("/v1/directory?address={escaped}"),
            Again::Yes,
        )
        .await
    }

    /// `GET /v1/restrictions` (F17).
    pub async fn restrictions(&self) -> Result<RestrictionsAnswer, ApiError> {
        self.call(Method::GET, "/v1/restrictions", Again::Yes).await
    }

    /// `GET /v1/account`.
    pub async fn account(&self) -> Result<AccountAnswer, ApiError> {
        self.call(Method::GET, "/v1/account", Again::Yes).await
    }

    /// `POST /v1/titles`; publishing again replaces the offer.
    pub async fn publish(&self, request: &PublishRequest) -> Result<TitleEntry, ApiError> {
        self.send(Method::POST, "/v1/titles", request, Again::Yes)
            .await
    }

    /// `DELETE /v1/titles/{title}`.
    pub async fn withdraw(&self, title: TitleId) -> Result<(), ApiError> {
        self.call::<Nothing>(Method::DELETE, &format!("/v1/titles/{title}"), Again::Yes)
            .await
            .map(drop)
    }

    /// `GET /v1/titles` (F20).
    pub async fn titles(&self) -> Result<Vec<TitleEntry>, ApiError> {
        self.call(Method::GET, "/v1/titles", Again::Yes).await
    }

    /// `POST /v1/orders`; its idempotency key makes repeating safe (F12).
    pub async fn order(&self, request: &OrderRequest) -> Result<OrderEntry, ApiError> {
        self.send(Method::POST, "/v1/orders", request, Again::Yes)
            .await
    }

    /// `GET /v1/orders`.
    pub async fn orders(&self) -> Result<Vec<OrderEntry>, ApiError> {
        self.call(Method::GET, "/v1/orders", Again::Yes).await
    }

    /// `DELETE /v1/orders/{order}`.
    pub async fn cancel(&self, order: OrderId) -> Result<OrderEntry, ApiError> {
        self.call(Method::DELETE, &format!("/v1/orders/{order}"), Again::Yes)
            .await
    }

    /// `POST /v1/deliveries/{delivery}/grant` (F61); a newer grant ends the older, so repeating is safe.
    pub async fn grant(
        &self,
        delivery: DeliveryId,
        request: &GrantRequest,
    ) -> Result<GrantAnswer, ApiError> {
        self.send(
            Method::POST,
            &format!("/v1/deliveries/{delivery}/grant"),
            request,
            Again::Yes,
        )
        .await
    }

    /// `POST /v1/deliveries/{delivery}/relay`: asks the sender to the relay (F8).
    pub async fn relay(&self, delivery: DeliveryId) -> Result<(), ApiError> {
        let path = format!("/v1/deliveries/{delivery}/relay");
        self.call::<Nothing>(Method::POST, &path, Again::Yes)
            .await
            .map(drop)
    }

    /// `POST /v1/deliveries/{delivery}/problem`.
    pub async fn problem(
        &self,
        delivery: DeliveryId,
        report: &ProblemReport,
    ) -> Result<(), ApiError> {
        let path = format!("/v1/deliveries/{delivery}/problem");
        self.send::<Nothing>(Method::POST, &path, report, Again::Yes)
            .await
            .map(drop)
    }

    /// `GET /v1/deliveries`: what this home is to send.
    pub async fn deliveries(&self) -> Result<Vec<SendTask>, ApiError> {
        self.call(Method::GET, "/v1/deliveries", Again::Yes).await
    }

    /// `POST /v1/receipts` (F67); the same receipts again get the same answer.
    pub async fn receipts(&self, request: &ReceiptRequest) -> Result<OrderEntry, ApiError> {
        self.send(Method::POST, "/v1/receipts", request, Again::Yes)
            .await
    }

    /// `POST /v1/licenses` (F25); the same device may redeem its pass again.
    pub async fn license(&self, request: &LicenseRequest) -> Result<LicenseAnswer, ApiError> {
        self.send(Method::POST, "/v1/licenses", request, Again::Yes)
            .await
    }

    /// `POST /v1/updates`: what there is that is newer.
    pub async fn ask_update(&self, question: UpdateQuestion) -> Result<UpdateAnswer, ApiError> {
        self.send(Method::POST, "/v1/updates", &question, Again::Yes)
            .await
    }

    /// `GET /v1/updates/{version}/bundle`: `count` bytes of the bundle. Not repeated here: the caller goes on where it
    /// was.
    pub async fn bundle_piece(
        &self,
        version: Version,
        start: u64,
        count: u64,
    ) -> Result<Vec<u8>, ApiError> {
        let path = format!("/v1/updates/{version}/bundle?start={start}&count={count}");
        let request = self
            .http
            .http
            .get(format!("{}{path}", self.http.base))
            .bearer_auth(self.login())
            .timeout(PIECE_LIMIT);
        // A refusal is longer than a piece may be at a bundle's end.
        let most = (count as usize).max(MAX_REFUSAL_BYTES);
        let bytes = self.http.answer(request, most).await?;
        if bytes.len() as u64 != count {
            return Err(ApiError::Answer);
        }
        Ok(bytes)
    }

    /// `POST /v1/updates/{version}/seeds`: homes that give the bundle.
    pub async fn update_seeds(&self, version: Version) -> Result<Vec<SeedOffer>, ApiError> {
        let path = format!("/v1/updates/{version}/seeds");
        self.call(Method::POST, &path, Again::Yes).await
    }

    /// `POST /v1/updates/{version}/outcome`; the last word counts, so repeating is safe.
    pub async fn update_outcome(
        &self,
        version: Version,
        outcome: &UpdateOutcome,
    ) -> Result<(), ApiError> {
        let path = format!("/v1/updates/{version}/outcome");
        self.send::<Nothing>(Method::POST, &path, outcome, Again::Yes)
            .await
            .map(drop)
    }
}

/// An empty body (204) reads as JSON's null.
fn parse_or_nothing<A: DeserializeOwned>(bytes: &[u8]) -> Result<A, ApiError> {
    parse(if bytes.is_empty() { b"null" } else { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_and_what_next() {
        let problem = Problem {
            code: ProblemCode::InsufficientFunds,
            status: 402,
            detail: "the account has 1.00 EUR; the title costs 2.50 EUR".into(),
            next: "Nothing was charged; ask the operator for credit.".into(),
        };
        let body = serde_json::to_vec(&problem).expect("plain data");
        let error = refusal(StatusCode::PAYMENT_REQUIRED, &body);
        assert_eq!(error.code(), Some(ProblemCode::InsufficientFunds));
        assert!(!error.passes());
        assert!(
            error
                .to_string()
                .ends_with("2.50 EUR. Nothing was charged; ask the operator for credit.")
        );
        let bare = refusal(StatusCode::BAD_GATEWAY, b"<html>");
        assert!(bare.passes() && bare.code() == Some(ProblemCode::Internal));
    }
}
