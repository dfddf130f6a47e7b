//! Calls to UPnP devices: fetching descriptions and invoking actions, each bounded in size and time.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderName};
use hyper::{Method, StatusCode};

use super::wire::{
    self, Description, DescriptionError, Fault, Service, ServiceKind, SoapAnswer, parse_description,
};
use super::{RendererAccess, ServerAccess};
use crate::device::{Access, DeviceClass};
use crate::http::{self, HttpError, Request};
use crate::url::DeviceUrl;
use crate::xml::XmlError;

/// Largest device or service description, in bytes.
pub const MAX_DESCRIPTION_BYTES: u64 = 1024 * 1024;
/// Time for fetching one description.
pub const DESCRIPTION_TIME: Duration = Duration::from_secs(10);
/// Largest answer to an action, in bytes: a page of a listing.
pub const MAX_ANSWER_BYTES: u64 = 2 * 1024 * 1024;
/// Time for one action. A NAS may have to wake its disk for a listing.
pub const CALL_TIME: Duration = Duration::from_secs(20);
/// Volume range assumed when a renderer does not tell.
const USUAL_VOLUME_MAX: u16 = 100;

/// A device that was described, with the ways to reach it.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// What it says about itself.
    pub description: Description,
    /// How to list and fetch from it.
    pub server: Option<ServerAccess>,
    /// How to play on it.
    pub renderer: Option<RendererAccess>,
}

impl Described {
    /// The access that a registry row keeps.
    pub fn access(&self) -> Access {
        match (self.server.clone(), self.renderer.clone()) {
            (Some(server), Some(renderer)) => Access::UpnpBoth(server, renderer),
            (Some(server), None) => Access::UpnpServer(server),
            (None, Some(renderer)) => Access::UpnpRenderer(renderer),
            (None, None) => Access::None,
        }
    }

    /// What the device is, by what it offers and what it calls itself.
    pub fn class(&self) -> DeviceClass {
        let formats = self
            .renderer
            .as_ref()
            .map(|renderer| renderer.formats.as_slice());
        super::classify::class_of(&self.description, formats)
    }
}

/// Why a device could not be described.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// It could not be fetched.
    #[error("the description could not be fetched")]
    Fetch(#[from] HttpError),
    /// It could not be used.
    #[error("the description cannot be used")]
    Unusable(#[from] DescriptionError),
}

impl DescribeError {
    /// The problem in plain words, for the device's row.
    pub fn problem(&self, address: IpAddr) -> String {
        let what = match self {
            Self::Fetch(HttpError::TooLarge { .. }) => "sent a description larger than 1 MiB",
            Self::Fetch(HttpError::Connect { .. }) => {
                return format!(
                    "The device at {address} announces itself but accepts no connection. \
                     Restart it, or check its firewall."
                );
            }
            Self::Fetch(HttpError::TimedOut(_) | HttpError::Stalled) => {
                "did not send its description in time"
            }
            Self::Fetch(HttpError::Redirect) => "tried to send us elsewhere for its description",
            Self::Fetch(HttpError::Status(_)) => "announces a description that it does not have",
            Self::Fetch(
                HttpError::Protocol(_) | HttpError::Truncated { .. } | HttpError::Overlong { .. },
            ) => "sent a broken answer when asked for its description",
            Self::Unusable(DescriptionError::Xml(XmlError::Malformed(_))) => {
                "sent a description that is not well-formed"
            }
            Self::Unusable(DescriptionError::Xml(XmlError::TooMuch { .. })) => {
                "sent a description that is too complicated to be genuine"
            }
            Self::Unusable(DescriptionError::Missing(_)) => {
                "sent a description without a device in it"
            }
        };
        format!("The device at {address} {what}; it was ignored. Restart it or update it.")
    }
}

/// Fetches and reads the description at `location`, and for a renderer its formats and volume range.
pub async fn describe(location: &DeviceUrl) -> Result<Described, DescribeError> {
    let bytes = http::get(location, MAX_DESCRIPTION_BYTES, DESCRIPTION_TIME).await?;
    let description = parse_description(&bytes, location)?;
    let address = location.host();
    let server = description
        .service(ServiceKind::ContentDirectory)
        .map(|service| ServerAccess {
            content_directory: service.clone(),
            all_in: description.model.as_deref().and_then(super::quirks::all_in),
        });
    let renderer = match description.service(ServiceKind::AvTransport) {
        Some(av_transport) => Some(RendererAccess {
            address,
            av_transport: av_transport.clone(),
            rendering_control: description.service(ServiceKind::RenderingControl).cloned(),
            volume_max: volume_max(&description).await,
            formats: formats(&description).await,
        }),
        None => None,
    };
    Ok(Described {
        description,
        server,
        renderer,
    })
}

/// The renderer's volume range; the usual one when it does not tell, which is no reason to refuse it.
async fn volume_max(description: &Description) -> u16 {
    let scpd = description
        .service(ServiceKind::RenderingControl)
        .and_then(|s| s.scpd.as_ref());
    let Some(scpd) = scpd else {
        return USUAL_VOLUME_MAX;
    };
    let bytes = http::get(scpd, MAX_DESCRIPTION_BYTES, DESCRIPTION_TIME).await;
    bytes
        .ok()
        .and_then(|bytes| wire::parse_volume_max(&bytes))
        .unwrap_or(USUAL_VOLUME_MAX)
}

/// What the renderer says it plays; empty when it does not tell.
async fn formats(description: &Description) -> Vec<String> {
    let Some(service) = description.service(ServiceKind::ConnectionManager) else {
        return Vec::new();
    };
    let answer = call(service, "GetProtocolInfo", &[]).await;
    let told = answer.and_then(|answer| answer.text("Sink").map(wire::parse_formats));
    let mut formats = told.unwrap_or_default();
    if !formats.is_empty() {
        let model = description.model.as_deref().unwrap_or_default();
        formats.extend(super::quirks::also_plays(model).map(str::to_owned));
        formats.sort();
        formats.dedup();
    }
    formats
}

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The device did not answer, or not with usable HTTP.
    #[error("the call did not get through")]
    Http(#[from] HttpError),
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Unreadable(#[from] DescriptionError),
    /// The answer lacks something.
    #[error("the answer lacks {0}")]
    Missing(&'static str),
    /// The device refused.
    #[error("{}", fault_words(.0))]
    Fault(Fault),
}

impl CallError {
    /// Whether the device did not answer at all, rather than badly.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Http(HttpError::Connect { .. } | HttpError::TimedOut(_) | HttpError::Stalled)
        )
    }

    /// The UPnP error code, if the device refused with one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Fault(fault) if fault.code != 0 => Some(fault.code),
            _ => None,
        }
    }
}

fn fault_words(fault: &Fault) -> String {
    match (fault.code, fault.text.as_str()) {
        (0, "") => "it gave no reason".to_owned(),
        (0, text) => format!("it says \"{text}\""),
        (code, "") => format!("UPnP error {code}"),
        (code, text) => format!("it says \"{text}\" (UPnP error {code})"),
    }
}

/// Output arguments of an action that was done.
#[derive(Debug)]
pub(crate) struct Arguments(Vec<(String, String)>);

impl Arguments {
    /// One argument, which the action must have.
    pub(crate) fn text(&self, name: &'static str) -> Result<&str, CallError> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.trim())
            .ok_or(CallError::Missing(name))
    }
}

/// Sends `action` to `service`; the answer as it came, whatever its status.
pub(crate) async fn ask(
    service: &Service,
    action: &str,
    arguments: &[(&str, &str)],
) -> Result<http::Answer, HttpError> {
    let envelope = wire::soap_request(&service.service_type, action, arguments);
    let request = Request {
        method: Method::POST,
        url: &service.control,
        headers: vec![
            (
                header::CONTENT_TYPE,
                "text/xml; charset=\"utf-8\"".to_owned(),
            ),
            (
                HeaderName::from_static("soapaction"),
                format!("\"{}#{action}\"", service.service_type),
            ),
        ],
        body: Bytes::from(envelope),
    };
    http::exchange(request, MAX_ANSWER_BYTES, CALL_TIME).await
}

/// Invokes `action` of `service`.
pub(crate) async fn call(
    service: &Service,
    action: &str,
    arguments: &[(&str, &str)],
) -> Result<Arguments, CallError> {
    let answer = ask(service, action, arguments).await?;
    // A fault comes with status 500; some devices send it with 200, and some errors carry no body at all.
    let status = answer.status;
    if !status.is_success() && status != StatusCode::INTERNAL_SERVER_ERROR {
        return Err(HttpError::Status(status.as_u16()).into());
    }
    match wire::parse_soap_answer(&answer.body, action) {
        Ok(SoapAnswer::Done(arguments)) => Ok(Arguments(arguments)),
        Ok(SoapAnswer::Fault(fault)) => Err(CallError::Fault(fault)),
        Err(_) if !status.is_success() => Err(HttpError::Status(status.as_u16()).into()),
        Err(error) => Err(error.into()),
    }
}
