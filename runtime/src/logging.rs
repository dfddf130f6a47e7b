//! Logging: tracing to standard error (the journal), and the recent lines kept in memory for a status page.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// How many lines are kept for a status page.
pub const RECENT_LINES: usize = 500;
/// The longest line kept, bytes; the journal has the whole.
const MAX_LINE_BYTES: usize = 2_000;

/// A line of the recent log.
#[derive(Debug, Clone)]
pub struct Line {
    /// When.
    pub at: jiff::Timestamp,
    /// How grave.
    pub level: Level,
    /// Message and fields.
    pub text: String,
}

/// The recent lines at INFO and above; cheap to clone.
#[derive(Clone, Default)]
pub struct RecentLog(Arc<Mutex<VecDeque<Line>>>);

impl RecentLog {
    /// A copy, newest first.
    pub fn lines(&self) -> Vec<Line> {
        self.0
            .lock()
            .expect("no holder of this lock panics")
            .iter()
            .rev()
            .cloned()
            .collect()
    }
}

impl<S: Subscriber> Layer<S> for RecentLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        if *meta.level() > Level::INFO {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut text = text.0;
        if text.len() > MAX_LINE_BYTES {
            let cut = (0..=MAX_LINE_BYTES)
                .rev()
                .find(|&at| text.is_char_boundary(at))
                .unwrap_or(0);
            text.truncate(cut);
            text.push('…');
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "a log line is stamped where it is made"
        )]
        let line = Line {
            at: jiff::Timestamp::now(),
            level: *meta.level(),
            text,
        };
        let mut lines = self.0.lock().expect("no holder of this lock panics");
        if lines.len() == RECENT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// Installs the process's subscriber. `filter` is an [`EnvFilter`] directive, overridden by `MANTEL_LOG`.
pub fn init(filter: &str) -> RecentLog {
    let recent = RecentLog::default();
    let filter = EnvFilter::try_from_env("MANTEL_LOG").unwrap_or_else(|_| EnvFilter::new(filter));
    let installed = tracing_subscriber::registry()
        .with(filter)
        .with(recent.clone())
        .with(
            fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false),
        )
        .try_init();
    debug_assert!(installed.is_ok(), "logging is initialised once");
    recent
}

/// An error and its sources in one line, outermost first.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
