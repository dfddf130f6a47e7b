//! Peripherals of the home: what is on the LAN and on cables, as devices with capabilities (F2, F5, F63).
//!
//! # A guided tour
//!
//! 1. [`Discovery::start`](discovery::Discovery::start) listens and searches (mDNS/DNS-SD, SSDP) and owns the one
//!    [`Registry`](registry::Registry). It hands out a `watch` snapshot: one [`Device`] per physical device, each with
//!    a [`DeviceClass`], [`Capability`] set, state, and a `problem` in plain words when the device misbehaves.
//! 2. A device with [`Capability::ListMedia`] gives a [`MediaSource`]: list a page, walk everything, fetch an asset as
//!    a bounded stream with byte ranges.
//! 3. A device with [`Capability::Render`] gives a [`Renderer`]: play, pause, seek, stop, volume, position.
//!
//! ```no_run
//! # async fn tour(cancel: tokio_util::sync::CancellationToken) -> anyhow::Result<()> {
//! use mantel_peripherals::discovery::{Discovery, DiscoveryConfig};
//!
//! let (mut devices, discovery) = Discovery::start(DiscoveryConfig::default(), cancel);
//! devices.changed().await?;
//! let snapshot = devices.borrow().clone();
//! for device in snapshot.iter() {
//!     if let Some(source) = device.media_source() {
//!         let mut walk = source.walk(Default::default());
//!         while let Some(item) = walk.next().await? {
//!             tracing::info!(title = %item.title, kind = ?item.kind, "found");
//!         }
//!     }
//! }
//! discovery.finished().await;
//! # Ok(())
//! # }
//! ```
//!
//! # N adapters, one registry
//!
//! `discovery/` turns announcements into sightings; `registry` decides what they mean, without I/O; each protocol
//! folder (`upnp/`, later others) has pure `wire` code and a `session` that does the I/O. [`MediaSource`],
//! [`Renderer`] and [`Access`] are closed enums: a new adapter adds a variant and the compiler shows every place.
//!
//! # Hostile devices
//!
//! Every byte from a device is bounded before it is looked at: datagrams, headers, bodies, time, XML depth and nodes,
//! pages, items, devices. No URL is followed off the device's own address ([`url`]). What goes wrong becomes
//! [`Device::problem`] or an error in plain words, never a crash.

pub mod alsa;
pub mod capture;
pub mod cast;
pub mod changes;
pub mod decode;
pub mod device;
pub mod disc;
pub mod discovery;
pub mod flac;
pub mod http;
pub mod live;
pub mod media;
pub mod mpd;
pub mod mtp;
pub mod neighbours;
pub mod onvif;
pub mod picture;
pub mod ptp;
pub mod ptp_ip;
pub mod recorder;
pub mod registry;
pub mod rtsp;
pub mod storage;
pub mod upnp;
pub mod url;
pub mod v4l2;
pub mod walk;
pub mod xml;

#[cfg(test)]
mod hostile;

pub use changes::{Change, Changes, MediaChange};
pub use device::{
    Access, Capability, Device, DeviceClass, DeviceKey, DeviceState, MacAddress, Part,
};
pub use live::{Camera, Login};
pub use media::{MediaSource, Renderer};
pub use recorder::Recorder;
pub use walk::{Walk, WalkSummary};

/// How this gateway names itself to devices (UPnP Device Architecture 2.0 §1.3.2: OS, UPnP version, product).
pub const USER_AGENT: &str = concat!("Linux/1 UPnP/2.0 Mantel/", env!("CARGO_PKG_VERSION"));
