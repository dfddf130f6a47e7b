//! PTP and MTP over USB (USB Still Image Capture Device Definition 1.0), by crate mtp-rs: it opens the device, frames
//! questions and answers and drains what was not read. Listing and fetching are in `ptp`, and bounded there: this link
//! gives answers piece by piece, so that no device can fill the memory.
//!
//! The gateway's user must be allowed to open the device (`systemd/99-mantel-media.rules`).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mtp_rs::ptp::{OperationCode, PtpDevice, PtpError, PtpSession, ReceiveStream};

use crate::ptp::LinkError;

/// Which USB device is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MtpAccess {
    /// idVendor.
    pub vendor: u16,
    /// idProduct.
    pub product: u16,
    /// iSerialNumber; `None`: the first device of this vendor and product.
    pub serial: Option<String>,
}

/// An open device with a session.
pub(crate) struct UsbLink {
    session: Arc<PtpSession>,
    answer: Option<ReceiveStream>,
}

impl fmt::Debug for UsbLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsbLink")
            .field("busy", &self.answer.is_some())
            .finish_non_exhaustive()
    }
}

impl UsbLink {
    /// Opens the device and a session.
    pub(crate) async fn open(access: &MtpAccess) -> Result<Self, LinkError> {
        let wanted = access.clone();
        // Looking through all USB devices blocks.
        let listed = tokio::task::spawn_blocking(PtpDevice::list_devices).await;
        let listed = listed
            .map_err(|error| LinkError::NotThere(error.into()))?
            .map_err(not_there)?;
        let found = listed.into_iter().find(|device| {
            device.vendor_id == wanted.vendor
                && device.product_id == wanted.product
                && (wanted.serial.is_none() || device.serial_number == wanted.serial)
        });
        let location = found
            .ok_or_else(|| LinkError::NotThere("it is not plugged in".into()))?
            .location_id;
        let device = PtpDevice::open_by_location(location)
            .await
            .map_err(not_there)?;
        let session = device.open_session().await.map_err(not_there)?;
        Ok(Self {
            session: Arc::new(session),
            answer: None,
        })
    }

    /// Asks a question. What is left of an earlier answer is thrown away.
    pub(crate) async fn begin(
        &mut self,
        operation: u16,
        parameters: &[u32],
    ) -> Result<(), LinkError> {
        if let Some(mut earlier) = self.answer.take() {
            earlier
                .cancel(mtp_rs::DEFAULT_CANCEL_TIMEOUT)
                .await
                .map_err(broken)?;
        }
        let operation = OperationCode::from(operation);
        let answer = self
            .session
            .execute_with_receive_stream(operation, parameters)
            .await
            .map_err(broken)?;
        self.answer = Some(answer);
        Ok(())
    }

    /// The next piece of the answer; `None`: the device said OK.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, LinkError> {
        let Some(answer) = &mut self.answer else {
            return Ok(None);
        };
        match answer.next_chunk().await {
            Some(Ok(piece)) => Ok(Some(piece)),
            Some(Err(error)) => {
                self.answer = None;
                Err(broken(error))
            }
            None => {
                self.answer = None;
                Ok(None)
            }
        }
    }
}

fn broken(error: PtpError) -> LinkError {
    match error {
        PtpError::Protocol { code, .. } => LinkError::Refused(code.into()),
        error => LinkError::broken(error),
    }
}

/// Why it could not be opened, sorted by the crate's own neutral errors.
fn not_there(error: PtpError) -> LinkError {
    match mtp_rs::Error::from(error) {
        mtp_rs::Error::ExclusiveAccess => LinkError::InUse,
        error => LinkError::NotThere(error.into()),
    }
}
