//! The laboratory: homes, the internet between them, and the programs that live there.
//!
//! ```text
//!   home "a"  10.213.x.0/24                the internet  198.18.s.0/24                home "b"
//!   gw .2   cam .10  ...      router ─┐    ┌──────── bridge ────────┐    ┌─ router    gw .2  tv .10
//!     └───────┴──── LAN bridge ───────┴────┤ isolated      isolated ├────┴── LAN bridge ──┴─────┘
//!                                          └───────── server ───────┘
//!   The laboratory itself (a test) has a leg, .254, on each LAN and on the internet: it speaks HTTP
//!   to gateways and the server without being inside a namespace. It forwards nothing.
//! ```
//! A home reaches the server and nobody else; [`Net::join_homes`] lets homes reach one another.
//! Where namespaces cannot be had, [`Net`] falls back to loopback addresses: everything still
//! runs, but nothing is kept apart and there is no multicast (see [`Mode`]).
//!
//! Everything is removed when its owner is dropped, upon SIGINT and SIGTERM, and, should a run be
//! killed, by the next one. Names begin with `mt<pid>x<n>`.

mod agent;
mod browser;
mod cpu;
mod disk;
mod guard;
mod guest;
mod http;
mod lan;
mod net;
mod peers;
mod peers_camera;
mod peers_juke;
mod peers_upnp;
mod process;
mod scan;
mod screen;
mod wait;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

pub use browser::Browser;
pub use cpu::{CpuTime, cpu_time};
pub use disk::{built, new_disk, run, text};
pub use guard::is_running;
pub use guest::{Guest, GuestBuilder};
pub use http::{Page, Session, form_body};
pub use net::{Home, Mode, Net, NetBuilder, Place};
pub use peers::{Capture, CaptureSummary, MediaServer, Renderer};
pub use peers_camera::{onvif_service, rtsp_camera, snapshots};
pub use peers_juke::{Avahi, CastPlaying, CastState, CastTv, Mpd};
pub use peers_upnp::{Gerbera, Rygel};
pub use process::{Proc, ProcBuilder};
pub use scan::{Hit, NEEDLE_LEN, Needle, contains_any, needles};
pub use screen::{Picture, qr_code};
pub use wait::{until, until_ok};

/// Where a program of this workspace was built, such as `mantel-server`.
///
/// It lies beside the running program: `target/debug` for tests, `target/release` for benchmarks.
pub fn program(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("finding the running program")?;
    let folders = this.ancestors().skip(1).take(2);
    for folder in folders {
        let candidate = folder.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!(
        "{name} is not built (looked beside {}); run cargo build --workspace first",
        this.display()
    )
}
