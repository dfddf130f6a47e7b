//! Things on cables: what of them is looked for, and "safe to remove".
//!
//! The gateway may not mount or unmount. A memory card is mounted by the service manager
//! (`systemd/99-mantel-media.rules`); to have it let go, the gateway leaves an empty file named like the partition in a
//! folder that `mantel-media-eject.path` watches.

use super::{Devices, DevicesError};
use mantel_peripherals::discovery::HotplugConfig;
use mantel_peripherals::discovery::hotplug::MEDIA_ROOT;
use mantel_peripherals::{Access, Device};
use serde::Deserialize;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long is waited until a memory card is let go.
const EJECT_PATIENCE: Duration = Duration::from_secs(20);

/// What is looked for on cables: memory cards, cameras, drives.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CablesConfig {
    /// Whether it is looked for at all.
    pub enabled: bool,
    /// The mount service puts memory cards and sticks below this folder; only mounts right below it are used.
    pub media_root: PathBuf,
    /// A file put here asks the mount service to let a partition go.
    pub eject_dir: PathBuf,
    /// Images of audio CDs (`.cue`) that count as drives with a disc in them.
    pub disc_images: Vec<PathBuf>,
}

impl Default for CablesConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            media_root: PathBuf::from(MEDIA_ROOT),
            eject_dir: PathBuf::from("/run/mantel/eject"),
            disc_images: Vec::new(),
        }
    }
}

impl CablesConfig {
    /// What discovery is told.
    pub(super) fn hotplug(&self) -> Option<HotplugConfig> {
        self.enabled.then(|| HotplugConfig {
            media_root: self.media_root.clone(),
            disc_images: self.disc_images.clone(),
        })
    }
}

/// The partitions of a device that are mounted and can be let go, by the kernel's names.
pub(super) fn mounted_partitions(device: &Device) -> Vec<String> {
    let mounted = device.parts.iter().filter_map(|part| match &part.access {
        Access::Storage(access) if !access.volumes.is_empty() => Some(&access.partitions),
        _ => None,
    });
    let plain = |name: &&String| {
        !name.is_empty() && name.len() < 32 && name.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    mounted.flatten().filter(plain).cloned().collect()
}

impl Devices {
    /// Has a memory card, stick or player let go, so that it may be unplugged; an import from it is stopped. Returns
    /// when it is let go.
    pub async fn eject(&self, id: &str) -> Result<(), DevicesError> {
        let device = self.device(id)?;
        let name = self.name_of(&device);
        let partitions = mounted_partitions(&device);
        if partitions.is_empty() {
            return Err(DevicesError::NotMounted { name });
        }
        self.cancel_import(id);
        for partition in &partitions {
            let request = self.inner.eject_dir.join(partition);
            match tokio::fs::write(&request, b"").await {
                Ok(()) => {}
                Err(source) if source.kind() == io::ErrorKind::NotFound => {
                    return Err(DevicesError::NoMountService { name });
                }
                Err(source) => return Err(DevicesError::EjectRequest { name, source }),
            }
        }
        let mut seen = self.inner.seen.clone();
        let let_go = seen.wait_for(|devices| {
            let mut same = devices.iter().filter(|other| other.is(&device.id));
            same.all(|device| mounted_partitions(device).is_empty())
        });
        match tokio::time::timeout(EJECT_PATIENCE, let_go).await {
            Ok(_) => Ok(()),
            Err(_) => Err(DevicesError::StillMounted { name }),
        }
    }
}
