//! The task tree: every task has a parent, a span and an end (STYLE §6.5). A [`Tasks`] is one node; its children stop
//! when it stops.

use std::future::Future;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, info_span, warn};

/// A node of the task tree; cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::root()
    }
}

impl Tasks {
    /// The root of a process's tree.
    pub fn root() -> Self {
        Self {
            tracker: TaskTracker::new(),
            token: CancellationToken::new(),
        }
    }

    /// A node below: it stops with its parent, or alone by [`Tasks::cancel`]. The root waits for its tasks too.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            tracker: self.tracker.clone(),
            token: self.token.child_token(),
        }
    }

    /// Runs a task until it ends by itself or the node is cancelled: then it is dropped at its next await. A task with
    /// something to finish watches [`Tasks::token`] itself, through [`Tasks::spawn_graceful`].
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.spawn_graceful(name, async move {
            let _ = token.run_until_cancelled(task).await;
        })
    }

    /// Runs a task that ends itself soon after the node's token is cancelled.
    #[allow(
        clippy::disallowed_methods,
        reason = "the task tree is where tasks are spawned"
    )]
    pub fn spawn_graceful<F>(&self, name: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let span = info_span!(parent: Span::current(), "task", name);
        tokio::spawn(self.tracker.track_future(task.instrument(span)))
    }

    /// Cancelled when this node stops.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Stops this node and those below; does not wait.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Stops the whole tree and waits until every task ended, at most `patience`.
    pub async fn shut_down(&self, patience: Duration) {
        self.token.cancel();
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait())
            .await
            .is_err()
        {
            warn!(
                tasks = self.tracker.len(),
                "tasks still running at shutdown were abandoned"
            );
        }
    }
}
