//! A file on its way: in pieces that are asked for one by one where the device can, so that others may ask in between,
//! else as a whole.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::OwnedMutexGuard;

use super::wire::operation;
use super::{LinkError, PtpSource, State, close_if_broken};
use crate::media::{AssetBody, FetchError};

/// Bytes asked for at once.
pub const PIECE: u32 = 1 << 20;

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// GetPartialObject64: any offset.
    Long,
    /// GetPartialObject: below 4 GiB.
    Short,
    /// GetObject: from the beginning to the end.
    Whole,
}

impl Way {
    /// The best that a device with these operations can.
    pub(super) fn best(operations: &BTreeSet<u16>, size: Option<u64>) -> Self {
        let Some(size) = size else {
            return Self::Whole;
        };
        if operations.contains(&operation::GET_PARTIAL_OBJECT_64) {
            Self::Long
        } else if operations.contains(&operation::GET_PARTIAL_OBJECT) && u32::try_from(size).is_ok()
        {
            Self::Short
        } else {
            Self::Whole
        }
    }
}

/// A file being read.
pub(super) struct Body {
    pub(super) source: PtpSource,
    pub(super) handle: u32,
    pub(super) way: Way,
    pub(super) at: u64,
    /// As the device told it; `None`: it cannot say so large a number.
    pub(super) size: Option<u64>,
    pub(super) limit: u64,
    /// The device, while it sends the file as a whole.
    pub(super) held: Option<OwnedMutexGuard<State>>,
}

impl Body {
    pub(super) fn into_body(self) -> AssetBody {
        AssetBody::new(stream::try_unfold(self, |mut body| async move {
            let piece = body.next().await?;
            Ok(piece.map(|piece| (piece, body)))
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let piece = match self.way {
            Way::Whole => self.next_of_whole().await?,
            Way::Long | Way::Short => self.next_piece().await?,
        };
        let Some(piece) = piece else {
            return match self.size {
                Some(size) if size != self.at => Err(self.wrong(self.at)),
                _ => Ok(None),
            };
        };
        self.at += piece.len() as u64;
        if self.size.is_some_and(|size| self.at > size) {
            return Err(self.wrong(self.at));
        }
        if self.at > self.limit {
            return Err(FetchError::TooLarge {
                device: self.source.name().to_owned(),
                limit: self.limit,
            });
        }
        Ok(Some(piece))
    }

    /// Asks for the next piece. A short one is allowed, an empty one is the end, whatever size was told.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, FetchError> {
        let left = self.size.unwrap_or_default().saturating_sub(self.at);
        let want = u32::try_from(left).unwrap_or(u32::MAX).min(PIECE);
        if want == 0 {
            return Ok(None);
        }
        let asking = async {
            let mut state = self.source.open().await?;
            let open = state.open.as_mut().ok_or(LinkError::Closed)?;
            let low = self.at as u32;
            let high = (self.at >> 32) as u32;
            let asked = if self.way == Way::Long {
                let question = [self.handle, low, high, want];
                open.ask(operation::GET_PARTIAL_OBJECT_64, &question, want as usize)
                    .await
            } else {
                let question = [self.handle, low, want];
                open.ask(operation::GET_PARTIAL_OBJECT, &question, want as usize)
                    .await
            };
            close_if_broken(&mut state, &asked);
            asked
        };
        match asking.await {
            Ok(bytes) if bytes.is_empty() => Ok(None),
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(LinkError::TooMuch) => Err(self.wrong(self.at + u64::from(want) + 1)),
            Err(error) => Err(self.source.fetch_error(error)),
        }
    }

    async fn next_of_whole(&mut self) -> Result<Option<Bytes>, FetchError> {
        let reading = async {
            if self.held.is_none() {
                let mut state = self.source.open().await?;
                let open = state.open.as_mut().ok_or(LinkError::Closed)?;
                let begun = open.begin(operation::GET_OBJECT, &[self.handle]).await;
                close_if_broken(&mut state, &begun);
                begun?;
                self.held = Some(state);
            }
            let state = self.held.as_mut().ok_or(LinkError::Closed)?;
            let open = state.open.as_mut().ok_or(LinkError::Closed)?;
            let piece = open.next().await;
            close_if_broken(state, &piece);
            piece
        };
        let piece = reading.await;
        if !matches!(piece, Ok(Some(_))) {
            self.held = None;
        }
        piece.map_err(|error| self.source.fetch_error(error))
    }

    fn wrong(&self, received: u64) -> FetchError {
        FetchError::WrongSize {
            device: self.source.name().to_owned(),
            declared: self.size.unwrap_or_default(),
            received,
        }
    }
}
