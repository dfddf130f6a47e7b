//! Asking an ONVIF camera: each question bounded in size and time, nothing followed off the camera's own address.

use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest as hash};
use aws_lc_rs::rand;
use bytes::Bytes;
use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode};
use jiff::Timestamp;

use super::OnvifAccess;
use super::digest::authorization;
use super::wire::{self, AnswerError, Information, NONCE_BYTES, Profile, Question, UsernameToken};
use crate::http::{self, HttpError, Request};
use crate::live::{LiveError, LiveStream, Login, MAX_STILL_BYTES, Still};
use crate::picture;
use crate::rtsp::{RtspAccess, RtspCamera, RtspUrl, Transport};
use crate::url::{DeviceUrl, UrlRefused};

/// Largest answer to a question, in bytes.
pub const MAX_ANSWER_BYTES: u64 = 512 * 1024;
/// Time for one question.
pub const CALL_TIME: Duration = Duration::from_secs(10);
/// Time for a snapshot: some cameras take it when asked.
pub const SNAPSHOT_TIME: Duration = Duration::from_secs(20);

/// Why a question got no useful answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The exchange failed.
    #[error("it could not be asked")]
    Http(#[from] HttpError),
    /// The answer was of no use.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// It wants to send us elsewhere.
    #[error("it names an address that is not its own")]
    Elsewhere(#[from] UrlRefused),
    /// The snapshot is no picture.
    #[error("its snapshot is no picture")]
    NoPicture,
}

/// An ONVIF camera; holds no connection.
#[derive(Clone, Debug)]
pub struct OnvifCamera {
    name: String,
    access: OnvifAccess,
    login: Option<Login>,
}

/// What was learnt of a camera before its stream or snapshot is asked for.
struct Known {
    /// What the camera's clock is ahead of ours.
    skew: jiff::SignedDuration,
    media: DeviceUrl,
    profile: String,
}

impl OnvifCamera {
    /// A camera by its name for people, the way to reach it, and the household's log-in to it.
    pub fn new(name: String, access: OnvifAccess, login: Option<Login>) -> Self {
        Self {
            name,
            access,
            login,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Maker, model, serial number, firmware.
    pub async fn information(&self) -> Result<Information, LiveError> {
        let skew = self.skew().await;
        let service = &self.access.service;
        let asked = self.ask(service, skew, Question::Information).await;
        asked
            .and_then(|bytes| Ok(wire::parse_information(&bytes)?))
            .map_err(|error| self.failed(error))
    }

    /// Its snapshot; the first picture of its stream where it has none.
    pub async fn still(&self) -> Result<Still, LiveError> {
        let known = self.known().await.map_err(|error| self.failed(error))?;
        match self.snapshot(&known).await {
            Ok(still) => Ok(still),
            Err(AskError::Answer(AnswerError::LogIn)) => Err(self.log_in()),
            Err(error @ AskError::Http(HttpError::Connect { .. } | HttpError::TimedOut(_))) => {
                Err(self.failed(error))
            }
            Err(error) => {
                tracing::debug!(%error, camera = self.name, "no snapshot; its stream is tried");
                self.stream(&known).await?.still().await
            }
        }
    }

    /// Picture and sound as they happen, by RTSP.
    pub async fn live(&self) -> Result<LiveStream, LiveError> {
        let known = self.known().await.map_err(|error| self.failed(error))?;
        self.stream(&known).await?.live().await
    }

    async fn snapshot(&self, known: &Known) -> Result<Still, AskError> {
        let question = Question::SnapshotUri(&known.profile);
        let bytes = self.ask(&known.media, known.skew, question).await?;
        let uri = wire::parse_uri(&bytes, question)?;
        let url = DeviceUrl::parse(&uri, self.access.service.host())?;
        let limit = MAX_STILL_BYTES as u64;
        let picture = self
            .exchange(|| Request::get(&url), limit, SNAPSHOT_TIME)
            .await?;
        if picture.starts_with(&[0xff, 0xd8, 0xff]) {
            return Ok(Still {
                mime: picture::JPEG.to_owned(),
                bytes: picture,
            });
        }
        Err(AskError::NoPicture)
    }

    async fn stream(&self, known: &Known) -> Result<RtspCamera, LiveError> {
        let question = Question::StreamUri(&known.profile);
        let find = async {
            let bytes = self.ask(&known.media, known.skew, question).await?;
            let uri = wire::parse_uri(&bytes, question)?;
            Ok(RtspUrl::parse(&uri, self.access.service.host())?)
        };
        let url = find.await.map_err(|error| self.failed(error))?;
        let access = RtspAccess {
            url,
            transport: Transport::Interleaved,
        };
        Ok(RtspCamera::new(
            self.name.clone(),
            access,
            self.login.clone(),
        ))
    }

    async fn known(&self) -> Result<Known, AskError> {
        let skew = self.skew().await;
        let media = self.media_service(skew).await?;
        let bytes = self.ask(&media, skew, Question::Profiles).await?;
        let profiles = wire::parse_profiles(&bytes)?;
        Ok(Known {
            skew,
            media,
            profile: best(&profiles).to_owned(),
        })
    }

    async fn media_service(&self, skew: jiff::SignedDuration) -> Result<DeviceUrl, AskError> {
        let service = &self.access.service;
        let told = match self.ask(service, skew, Question::Capabilities).await {
            Ok(bytes) => wire::parse_capabilities(&bytes),
            Err(AskError::Answer(error)) => Err(error),
            Err(other) => return Err(other),
        };
        let told = match told {
            Ok(told) => told,
            Err(AnswerError::LogIn) => return Err(AnswerError::LogIn.into()),
            Err(_) => {
                let bytes = self.ask(service, skew, Question::Services).await?;
                wire::parse_services(&bytes)?
            }
        };
        Ok(DeviceUrl::parse(&told, service.host())?)
    }

    /// What the camera's clock is ahead of ours; 0 where it does not tell. A digest made by another clock is refused.
    async fn skew(&self) -> jiff::SignedDuration {
        let envelope = Bytes::from(Question::Time.envelope(None));
        let request = || soap(&self.access.service, Question::Time, envelope.clone());
        let told = http::exchange(request(), MAX_ANSWER_BYTES, CALL_TIME).await;
        let told = told
            .ok()
            .and_then(|answer| wire::parse_time(&answer.body).ok());
        told.map(|time| time.duration_since(Timestamp::now()))
            .unwrap_or_default()
    }

    async fn ask(
        &self,
        service: &DeviceUrl,
        skew: jiff::SignedDuration,
        question: Question<'_>,
    ) -> Result<Bytes, AskError> {
        let token = self.login.as_ref().map(|login| {
            let mut nonce = [0; NONCE_BYTES];
            rand::fill(&mut nonce).expect("the operating system gives random bytes");
            let now = Timestamp::now()
                .checked_add(skew)
                .unwrap_or_else(|_| Timestamp::now());
            let sha1 = |bytes: &[u8]| hash(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec();
            UsernameToken::new(login, nonce, now, sha1)
        });
        let envelope = Bytes::from(question.envelope(token.as_ref()));
        let request = || soap(service, question, envelope.clone());
        self.exchange(request, MAX_ANSWER_BYTES, CALL_TIME).await
    }

    /// Sends a request; when it is challenged, once more with a digest.
    async fn exchange<'a>(
        &self,
        request: impl Fn() -> Request<'a>,
        limit: u64,
        time: Duration,
    ) -> Result<Bytes, AskError> {
        let mut answer = http::exchange(request(), limit, time).await?;
        if answer.status == StatusCode::UNAUTHORIZED
            && let Some(login) = &self.login
        {
            let mut again = request();
            let (method, target) = (again.method.as_str(), again.url.target());
            let reply = challenges(&answer.headers)
                .find_map(|challenge| authorization(challenge, login, method, target))
                .ok_or(AnswerError::LogIn)?;
            again.headers.push((header::AUTHORIZATION, reply));
            answer = http::exchange(again, limit, time).await?;
        }
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(AnswerError::LogIn.into()),
            // A SOAP fault comes with 400 or 500 and tells more than the status (SOAP 1.2 Part 2 §7.5.2.2).
            status if status.is_success() => Ok(answer.body),
            _ if request().method == Method::POST && !answer.body.is_empty() => Ok(answer.body),
            status => Err(HttpError::Status(status.as_u16()).into()),
        }
    }

    fn log_in(&self) -> LiveError {
        LiveError::LogIn {
            device: self.name.clone(),
        }
    }

    fn failed(&self, error: AskError) -> LiveError {
        let device = self.name.clone();
        match error {
            AskError::Answer(AnswerError::LogIn) => self.log_in(),
            AskError::Http(
                HttpError::Connect { .. } | HttpError::TimedOut(_) | HttpError::Stalled,
            ) => LiveError::Unreachable {
                device,
                source: error.into(),
            },
            error => LiveError::BadStream {
                device,
                source: error.into(),
            },
        }
    }
}

fn soap<'a>(url: &'a DeviceUrl, question: Question<'_>, body: Bytes) -> Request<'a> {
    let kind = format!(
        "application/soap+xml; charset=utf-8; action=\"{}\"",
        question.action()
    );
    Request {
        method: Method::POST,
        url,
        headers: vec![(header::CONTENT_TYPE, kind)],
        body,
    }
}

fn challenges(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
}

/// The first profile with pictures, which cameras make their best; else the first.
fn best(profiles: &[Profile]) -> &str {
    let pictures = profiles.iter().find(|profile| profile.encoding.is_some());
    pictures
        .or(profiles.first())
        .map_or("", |profile| &profile.token)
}
