//! Network cameras that speak ONVIF (F2, F63): found by WS-Discovery, asked at their device service.

use crate::url::DeviceUrl;

/// How a camera is reached (ONVIF Core Specification §5, §7.3): found by WS-Discovery, nothing asked of it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnvifAccess {
    /// Its device service: the first of its XAddrs that is on the address that it spoke from.
    pub service: DeviceUrl,
}
