//! The shell of both daemons: what a long-running process needs before it does anything of its own.
//!
//! - [`clock`]: the one source of time, real or simulated.
//! - [`tasks`]: the task tree; every task has a parent, a span and an end. [`lifecycle`]: signals, systemd, ordered stop.
//! - [`config`]: one TOML tree, unknown keys are errors. [`logging`]: tracing, and the recent lines for a status page.
//! - [`db`]: SQLite with one writer thread and group commit. [`files`]: atomic writes and secret files.
//! - [`tls`]: TLS 1.3 by device key (raw public keys) and by pinned certificate. [`http`]: serving a router.
//!
//! Deliberately absent: anything that knows what a title, a home or an order is.

pub mod clock;
pub mod config;
pub mod db;
pub mod files;
pub mod http;
pub mod lifecycle;
pub mod logging;
pub mod tasks;
pub mod tls;
