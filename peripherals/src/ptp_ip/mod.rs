//! Cameras on the LAN by PTP/IP (ISO 15740 over TCP, CIPA DC-X005-2005): found by DNS-SD (`_ptp._tcp`), listed and
//! fetched by `ptp`. [`wire`] is pure; `session` talks.
//!
//! How far it is tested: no Debian package brings a camera that speaks PTP/IP, so the tests have a responder of their
//! own, written from the standards (`ptp/tests.rs`). By hand it was also tried with `vcam` (petabyt/vcam, a virtual
//! Canon EOS 1300D, built from source with one crash of its own mended): listed, and pictures read whole. No real
//! camera has been seen yet. `examples/ptp_ip.rs` tries one.

mod session;
pub mod wire;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::device::Access;
use crate::discovery::mdns::reachable;
use crate::ptp::PtpAccess;

pub(crate) use session::IpLink;

/// The TCP port of PTP/IP.
pub const PORT: u16 = 15740;
/// How gateways name themselves to cameras. A camera that pairs remembers it.
const GUID: [u8; 16] = *b"mantel-gateway-1";
/// The name that a camera shows.
const NAME: &str = "Mantel";

/// Where a camera is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PtpIpAccess {
    /// Address and port.
    pub address: SocketAddr,
}

/// The way to a camera that announced itself by DNS-SD; `None`: it is another service, or its addresses cannot be
/// reached.
pub(crate) fn access(service: &str, port: u16, addresses: &BTreeSet<IpAddr>) -> Option<Access> {
    let address = reachable(addresses)?;
    (service == "_ptp._tcp").then(|| {
        Access::Ptp(PtpAccess::Ip(PtpIpAccess {
            address: SocketAddr::new(address, port),
        }))
    })
}
