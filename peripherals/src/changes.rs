//! Being told that something on a device changed, in words that no protocol owns.
//!
//! A change is a hint to ask again, not the truth: what it says is merged with what was not read yet, so that a device
//! that talks fast costs no memory and a hint is never older than the last thing the device said.

use std::collections::BTreeSet;
use std::future::Future;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::media::ObjectId;

/// Most changed containers remembered; past that anything may have changed.
pub const MAX_CONTAINERS: usize = 256;
/// How long [`Changes::end`] waits for the device to be told.
const END_TIME: Duration = Duration::from_secs(3);

/// Something that changed: ask the device for it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What is played, or where: [`Renderer::status`](crate::Renderer::status).
    Playing,
    /// Volume or mute.
    Loudness,
    /// What a source has.
    Media(MediaChange),
}

/// What changed of a source's media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaChange {
    /// The device does not say what.
    Anything,
    /// Children of these containers; at most [`MAX_CONTAINERS`].
    Inside(BTreeSet<ObjectId>),
}

impl MediaChange {
    /// Both changes as one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Inside(mut all), Self::Inside(more)) => {
                all.extend(more);
                if all.len() > MAX_CONTAINERS {
                    Self::Anything
                } else {
                    Self::Inside(all)
                }
            }
            (Self::Anything, _) | (_, Self::Anything) => Self::Anything,
        }
    }
}

#[derive(Debug, Default)]
struct Pending {
    playing: bool,
    loudness: bool,
    media: Option<MediaChange>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    told: Notify,
}

impl Shared {
    fn with<T>(&self, change: impl FnOnce(&mut Pending) -> T) -> T {
        change(&mut self.pending.lock().expect("no holder of this lock panics"))
    }
}

/// The adapter's end: says what changed.
#[derive(Debug)]
pub(crate) struct Teller(Arc<Shared>);

impl Teller {
    /// Merges `change` into what was not read yet.
    pub(crate) fn tell(&self, change: Change) {
        self.0.with(|pending| match change {
            Change::Playing => pending.playing = true,
            Change::Loudness => pending.loudness = true,
            Change::Media(change) => {
                pending.media = Some(match pending.media.take() {
                    Some(before) => before.and(change),
                    None => change,
                });
            }
        });
        self.0.told.notify_one();
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.with(|pending| pending.ended = true);
        self.0.told.notify_one();
    }
}

/// What a device tells of itself from now on. Dropping it stops listening at once; [`Changes::end`] also tells the
/// device, where its protocol has a word for that.
#[derive(Debug)]
pub struct Changes {
    shared: Arc<Shared>,
    stop: CancellationToken,
    driver: JoinSet<()>,
}

impl Changes {
    /// Runs `driver` until the changes are dropped or its token is cancelled.
    pub(crate) fn by<F>(driver: impl FnOnce(Teller, CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::<Shared>::default();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(driver(Teller(Arc::clone(&shared)), stop.clone()));
        Self {
            shared,
            stop,
            driver: tasks,
        }
    }

    /// For a player that tells nothing: says every `pause` that anything may have changed.
    pub fn every(pause: Duration) -> Self {
        Self::by(move |teller, stop| async move {
            while timeout(pause, stop.cancelled()).await.is_err() {
                teller.tell(Change::Playing);
                teller.tell(Change::Loudness);
            }
        })
    }

    /// The next change; waits for one. `None`: this device tells nothing more. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let found = self.shared.with(|pending| {
                if mem::take(&mut pending.playing) {
                    Some(Some(Change::Playing))
                } else if mem::take(&mut pending.loudness) {
                    Some(Some(Change::Loudness))
                } else if let Some(media) = pending.media.take() {
                    Some(Some(Change::Media(media)))
                } else {
                    pending.ended.then_some(None)
                }
            });
            match found {
                Some(change) => return change,
                None => self.shared.told.notified().await,
            }
        }
    }

    /// Ends it and tells the device so, for at most three seconds.
    pub async fn end(mut self) {
        self.stop.cancel();
        // A driver that does not end in time is ended by the drop; the device forgets us by itself.
        let _ = timeout(END_TIME, self.driver.join_next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(ids: &[&str]) -> MediaChange {
        MediaChange::Inside(ids.iter().filter_map(|id| ObjectId::new(id)).collect())
    }

    #[tokio::test]
    async fn what_was_not_read_is_merged_and_read_once() {
        let mut changes = Changes::by(|teller, stop| async move {
            teller.tell(Change::Media(inside(&["1"])));
            for _ in 0..1000 {
                teller.tell(Change::Playing);
            }
            teller.tell(Change::Media(inside(&["2"])));
            stop.cancelled().await;
        });
        assert_eq!(changes.next().await, Some(Change::Playing));
        assert_eq!(
            changes.next().await,
            Some(Change::Media(inside(&["1", "2"])))
        );
        changes.end().await;
    }

    #[tokio::test]
    async fn the_end_of_the_driver_is_the_end_of_the_changes() {
        let mut changes = Changes::by(|teller, _| async move { teller.tell(Change::Loudness) });
        assert_eq!(changes.next().await, Some(Change::Loudness));
        assert_eq!(changes.next().await, None);
    }

    #[test]
    fn too_many_containers_mean_anything() {
        let many = |from: usize| {
            MediaChange::Inside(
                (from..from + 200)
                    .filter_map(|n| ObjectId::new(&n.to_string()))
                    .collect(),
            )
        };
        assert_eq!(many(0).and(many(200)), MediaChange::Anything);
        assert_eq!(many(0).and(many(0)), many(0));
    }
}
