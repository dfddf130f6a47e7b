//! Waiting for something to become true, with a deadline.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

/// The pause between the first two looks; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Looks again and again until `look` finds something, and returns it.
///
/// `what` completes "waited 10 s for ..." in the error.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let looking = async {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    tokio::time::timeout(deadline, looking)
        .await
        .map_err(|_| anyhow!("waited {deadline:?} for {what}"))
}

/// Tries again and again until `attempt` succeeds; the error holds the last failure.
pub async fn until_ok<T, E: Debug>(
    what: &str,
    deadline: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T> {
    let mut last = None;
    until(what, deadline, async || match attempt().await {
        Ok(value) => Some(value),
        Err(error) => {
            last = Some(format!("{error:?}"));
            None
        }
    })
    .await
    .with_context(|| last.unwrap_or_else(|| "no attempt ended".to_owned()))
}
