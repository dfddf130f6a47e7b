//! Keeps what rights forbid now off the lists (F26, F27): looks at every title from another home whenever the library
//! changes, at the moment when a license ends, and from time to time. Playing is judged again at each request, so a list
//! that is a moment late shows a title and plays nothing.

use super::Inner;
use crate::rights::Standing;
use jiff::Timestamp;
use mantel_runtime::logging::chain;
use std::sync::Arc;
use std::time::Duration;

/// How often all are judged, whatever happens: plays are used up by other players too.
const AGAIN: Duration = Duration::from_secs(10);
/// With more titles than this from other homes, they are judged less often.
const MANY: usize = 200;
/// The pause then.
const AGAIN_MANY: Duration = Duration::from_mins(2);
/// Changes of the library that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(200);

/// Judges until the gateway stops.
pub async fn run(inner: Arc<Inner>) {
    let mut changes = inner.library.changes();
    loop {
        changes.borrow_and_update();
        let pause = judge(&inner).await;
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(SETTLE).await;
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Judges all; how long until the next license ends, or until it is time to look again.
async fn judge(inner: &Inner) -> Duration {
    let titles = match inner.library.foreign_on_shelf().await {
        Ok(titles) => titles,
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "titles from other homes were not judged"
            );
            return AGAIN;
        }
    };
    let again = if titles.len() > MANY {
        AGAIN_MANY
    } else {
        AGAIN
    };
    let now = inner.rights.now();
    let mut first_end: Option<Timestamp> = None;
    let mut changes = Vec::new();
    for (title, listed) in titles {
        let standing = match inner.rights.standing(title).await {
            Ok(standing) => standing,
            Err(error) => {
                tracing::debug!(%title, error = chain(&error), "a title's license was not judged");
                Standing::Needs
            }
        };
        let may = match standing {
            Standing::Own | Standing::Shared => true,
            Standing::Ended(_) | Standing::Needs => false,
            Standing::Licensed {
                start_by,
                until,
                plays_left,
            } => {
                let end = [start_by, until].into_iter().flatten().min();
                first_end = [first_end, end].into_iter().flatten().min();
                plays_left != Some(0) || until.is_some()
            }
        };
        if may != listed {
            changes.push((title, may));
        }
    }
    if let Err(error) = inner.library.set_listed(changes).await {
        tracing::warn!(
            error = chain(&error),
            "the lists for players were not brought up to date"
        );
    }
    let until_end = first_end.and_then(|end| Duration::try_from(end.duration_since(now)).ok());
    // A moment later, so that the license has ended by then.
    until_end.map_or(again, |end| again.min(end + Duration::from_millis(50)))
}
