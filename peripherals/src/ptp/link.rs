//! One open conversation with a device, over USB or TCP: question, data, answer.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::PtpAccess;
use super::wire::{DeviceInfo, MAX_DATASET, Malformed, operation, response};
use crate::media::Cause;
use crate::mtp::UsbLink;
use crate::ptp_ip::IpLink;

/// A device must go on with an answer within this time.
pub const STEP_TIME: Duration = Duration::from_secs(30);

/// Why a device did not answer a question.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It is not there, or the system does not let us.
    #[error("the device cannot be opened")]
    NotThere(#[source] Cause),
    /// Another program has it.
    #[error("another program uses the device")]
    InUse,
    /// It answered with another code than OK.
    #[error("the device refused (PTP {0:#06x})")]
    Refused(u16),
    /// The conversation broke: unplugged, cut, out of step, too slow.
    #[error("the conversation with the device broke")]
    Broken(#[source] Cause),
    /// It sent more than was asked for.
    #[error("the device sent more than was asked for")]
    TooMuch,
    /// A dataset that cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It shows no memory.
    #[error("the device shows no memory")]
    NoStorage,
    /// It was closed meanwhile.
    #[error("the device was closed")]
    Closed,
}

impl LinkError {
    /// [`LinkError::Broken`] by whatever happened.
    pub(crate) fn broken(source: impl Into<Cause>) -> Self {
        Self::Broken(source.into())
    }

    /// Whether question and answer may be out of step after it.
    pub(super) fn breaks_the_link(&self) -> bool {
        match self {
            Self::Refused(code) => *code == response::SESSION_NOT_OPEN,
            Self::Malformed(_) | Self::NoStorage | Self::NotThere(_) | Self::InUse => false,
            Self::Broken(_) | Self::TooMuch | Self::Closed => true,
        }
    }
}

/// What carries questions and answers.
#[derive(Debug)]
enum Link {
    Usb(UsbLink),
    Ip(Box<IpLink>),
}

/// A device with an open session.
#[derive(Debug)]
pub(crate) struct Open {
    link: Link,
    /// What it says of itself.
    pub(crate) info: DeviceInfo,
}

impl Open {
    /// Opens the device and asks what it is.
    pub(super) async fn new(access: &PtpAccess) -> Result<Self, LinkError> {
        let opening = async {
            Ok(match access {
                PtpAccess::Usb(access) => Link::Usb(UsbLink::open(access).await?),
                PtpAccess::Ip(access) => Link::Ip(Box::new(IpLink::open(access).await?)),
            })
        };
        let link = timeout(STEP_TIME, opening)
            .await
            .unwrap_or_else(|late| Err(LinkError::NotThere(late.into())))?;
        let mut open = Self {
            link,
            info: DeviceInfo::default(),
        };
        let bytes = open
            .ask(operation::GET_DEVICE_INFO, &[], MAX_DATASET)
            .await?;
        open.info = DeviceInfo::parse(&bytes)?;
        Ok(open)
    }

    /// Whether a question may be asked: over TCP, an answer that was not read to its end is in the way.
    pub(super) fn is_ready(&self) -> bool {
        match &self.link {
            Link::Usb(_) => true,
            Link::Ip(link) => link.is_ready(),
        }
    }

    /// Asks a question whose answer is small: at most `limit` bytes.
    pub(super) async fn ask(
        &mut self,
        operation: u16,
        parameters: &[u32],
        limit: usize,
    ) -> Result<Vec<u8>, LinkError> {
        self.begin(operation, parameters).await?;
        let mut answer = Vec::new();
        while let Some(piece) = self.next().await? {
            if answer.len() + piece.len() > limit {
                return Err(LinkError::TooMuch);
            }
            answer.extend_from_slice(&piece);
        }
        Ok(answer)
    }

    /// Asks a question; its answer is read by [`Open::next`] to the end.
    pub(super) async fn begin(
        &mut self,
        operation: u16,
        parameters: &[u32],
    ) -> Result<(), LinkError> {
        let asking = async {
            match &mut self.link {
                Link::Usb(link) => link.begin(operation, parameters).await,
                Link::Ip(link) => link.begin(operation, parameters).await,
            }
        };
        timeout(STEP_TIME, asking)
            .await
            .unwrap_or_else(|late| Err(LinkError::broken(late)))
    }

    /// The next piece of the answer's data; `None`: the device said OK.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, LinkError> {
        let reading = async {
            match &mut self.link {
                Link::Usb(link) => link.next().await,
                Link::Ip(link) => link.next().await,
            }
        };
        timeout(STEP_TIME, reading)
            .await
            .unwrap_or_else(|late| Err(LinkError::broken(late)))
    }
}
