//! Homes and a server together: real programs, a real browser, real packets.
//!
//! What is where:
//! - [`lab`]: the laboratory. Network namespaces for homes and the internet between them, real
//!   programs as peripherals, a packet recorder, a browser, a search for plain media.
//! - [`actors`]: the people of a story at the pages of gateways and server, and the whole site.
//! - [`media`]: the test media that `./mantel media` assembled (their licences: `MEDIA.md`).
//! - `src/bin/`: the programs built on the laboratory (the demonstration, the benchmarks).
//! - `tests/`: the end-to-end tests; `tests/lab.rs` tests the laboratory itself.
//!
//! The laboratory runs Mantel's programs as they are built ([`lab::program`]); it shares no code
//! with them, so a test sees what a household would see.
#![allow(
    clippy::disallowed_methods,
    reason = "the laboratory watches real programs in real time; there is no clock to inject"
)]

pub mod actors;
pub mod lab;
pub mod media;
