//! Start and ordered stop of a daemon: signals, systemd's readiness, watchdog.

use crate::tasks::Tasks;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// How long requests and tasks may take to finish after the first signal.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Tells systemd that the daemon serves, and keeps its watchdog fed for as long as the runtime makes progress.
pub fn notify_ready(tasks: &Tasks) {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(%error, "systemd was not told that the daemon is ready");
    }
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    tasks.spawn("watchdog", async move {
        let mut every = tokio::time::interval(limit / 3);
        loop {
            every.tick().await;
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    });
}

/// Waits for SIGTERM or SIGINT, then stops the tree. A second signal exits at once.
pub async fn run_until_signal(tasks: &Tasks) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = tasks.token().cancelled() => {}
    }
    info!("stopping");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tokio::select! {
        () = tasks.shut_down(STOP_PATIENCE) => {}
        _ = terminate.recv() => warn!("second signal: exiting at once"),
        _ = interrupt.recv() => warn!("second signal: exiting at once"),
    }
    Ok(())
}
