//! Things on cables: asks udev what there is, and again whenever something is plugged in, pulled out, mounted or let
//! go (F2). The registry makes events of what differs.
//!
//! A storm of events costs one look per [`SETTLE_TIME`]. Without udev or its socket (a container, a test) a line in
//! the log says so and the rest works: what is there is then looked at every [`LOOK_AGAIN`].

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::cable::{MAX_THINGS, Setting, Thing, Usb, interpret};
use crate::registry::{Input, Sighting};
use crate::storage::wire::parse_mounts;

/// After the first event of a storm this long is waited for the others.
pub const SETTLE_TIME: Duration = Duration::from_millis(150);
/// Without news, everything is looked at again after so long.
pub const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// The same where udev's socket cannot be had.
pub const LOOK_AGAIN_UNTOLD: Duration = Duration::from_secs(3);
/// A look must end within this time; a device that hangs the kernel holds up only this.
const LOOK_TIME: Duration = Duration::from_mins(1);
/// Where the service manager mounts media (`systemd/99-mantel-media.rules`).
pub const MEDIA_ROOT: &str = "/run/mantel/media";
/// This process's mounts.
const MOUNTS: &str = "/proc/self/mountinfo";
/// There while udev runs.
const UDEV: &str = "/run/udev/control";
/// Subsystems of interest.
const SUBSYSTEMS: [&str; 3] = ["block", "usb", "video4linux"];
/// Attributes of interest.
const ATTRIBUTES: [&str; 6] = [
    "bInterfaceClass",
    "bInterfaceSubClass",
    "bInterfaceProtocol",
    "interface",
    "index",
    "name",
];

/// What is looked for on cables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotplugConfig {
    /// Mounts right below this folder are storages.
    pub media_root: PathBuf,
    /// Images of audio discs (`.cue`) that count as drives with a disc in them.
    pub disc_images: Vec<PathBuf>,
}

impl Default for HotplugConfig {
    fn default() -> Self {
        Self {
            media_root: PathBuf::from(MEDIA_ROOT),
            disc_images: Vec::new(),
        }
    }
}

/// Watches until cancelled.
pub(crate) async fn run(
    config: HotplugConfig,
    inputs: mpsc::Sender<Input>,
    cancel: CancellationToken,
) {
    let mut watch = Watch::open();
    let mut told = BTreeSet::new();
    loop {
        let look = look(config.clone());
        let Some(seen) = cancel.run_until_cancelled(look).await else {
            return;
        };
        if let Some(seen) = seen {
            for input in news(&mut told, seen) {
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
        }
        let news = async {
            watch.news().await;
            sleep(SETTLE_TIME).await;
            watch.drain();
        };
        if cancel.run_until_cancelled(news).await.is_none() {
            return;
        }
    }
}

/// What to tell: origins that are gone, then everything that is there, so that it counts as heard of.
fn news(told: &mut BTreeSet<String>, seen: Vec<Sighting>) -> Vec<Input> {
    let now: BTreeSet<String> = seen.iter().map(|found| found.origin.clone()).collect();
    let lost = told.difference(&now).map(|origin| Input::Lost {
        origin: origin.clone(),
    });
    let mut inputs: Vec<Input> = lost.collect();
    inputs.extend(seen.into_iter().map(|found| Input::Seen(Box::new(found))));
    *told = now;
    inputs
}

/// One look at everything; `None`: it could not be had now.
async fn look(config: HotplugConfig) -> Option<Vec<Sighting>> {
    let looking = tokio::task::spawn_blocking(move || {
        // A table that cannot be read is an empty one: then nothing is mounted for us.
        let mounts = parse_mounts(&std::fs::read_to_string(MOUNTS).unwrap_or_default());
        let things = things().unwrap_or_else(|error| {
            tracing::debug!(%error, "no list of devices on cables");
            Vec::new()
        });
        interpret(
            &things,
            &Setting {
                media_root: &config.media_root,
                mounts: &mounts,
                disc_images: &config.disc_images,
                class_of: &crate::storage::Volume::class,
            },
        )
    });
    match timeout(LOOK_TIME, looking).await {
        Ok(Ok(seen)) => Some(seen),
        Ok(Err(error)) => {
            tracing::error!(%error, "looking at devices on cables failed");
            None
        }
        Err(_) => {
            tracing::warn!("a device on a cable does not answer; what is plugged in is not known");
            None
        }
    }
}

/// What udev and the kernel list now.
fn things() -> io::Result<Vec<Thing>> {
    let mut list = udev::Enumerator::new()?;
    for subsystem in SUBSYSTEMS {
        list.match_subsystem(subsystem)?;
    }
    let mut things: Vec<Thing> = list
        .scan_devices()?
        .take(MAX_THINGS)
        .filter_map(|device| thing(&device))
        .collect();
    things.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(things)
}

fn thing(device: &udev::Device) -> Option<Thing> {
    let text = |value: Option<&std::ffi::OsStr>| value.map(|v| v.to_string_lossy().into_owned());
    let kind = text(device.devtype()).unwrap_or_default();
    let attributes = ATTRIBUTES.iter().filter_map(|name| {
        let value = text(device.attribute_value(name))?;
        Some(((*name).to_owned(), value))
    });
    let properties = device.properties().map(|property| {
        let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
        (text(property.name()), text(property.value()))
    });
    let disk = device
        .parent_with_subsystem_devtype("block", "disk")
        .ok()
        .flatten();
    let removable = |device: &udev::Device| {
        device
            .attribute_value("removable")
            .is_some_and(|v| v == "1")
    };
    Some(Thing {
        subsystem: text(device.subsystem())?,
        name: device.sysname().to_string_lossy().into_owned(),
        path: device.syspath().to_string_lossy().into_owned(),
        node: device.devnode().map(Path::to_owned),
        number: device.devnum().map(|number| {
            format!(
                "{}:{}",
                rustix::fs::major(number),
                rustix::fs::minor(number)
            )
        }),
        removable: removable(device) || disk.as_ref().is_some_and(removable),
        properties: properties.collect(),
        attributes: attributes.collect(),
        usb: usb(device),
        kind,
    })
}

/// The USB device above; hubs are none of ours.
fn usb(device: &udev::Device) -> Option<Usb> {
    let above = device
        .parent_with_subsystem_devtype("usb", "usb_device")
        .ok()
        .flatten()?;
    let text = |name: &str| {
        let value = above
            .attribute_value(name)?
            .to_string_lossy()
            .trim()
            .to_owned();
        (!value.is_empty()).then_some(value)
    };
    Some(Usb {
        port: above.sysname().to_string_lossy().into_owned(),
        vendor: text("idVendor")?,
        product: text("idProduct")?,
        serial: text("serial"),
        maker: text("manufacturer"),
        model: text("product"),
    })
}

/// The places that tell of news.
struct Watch {
    devices: Option<AsyncFd<udev::MonitorSocket>>,
    mounts: Option<AsyncFd<File>>,
}

impl Watch {
    fn open() -> Self {
        let devices = monitor().map_err(|error| {
            tracing::warn!(%error, "the system does not tell when something is plugged in; it is looked for every few seconds");
        });
        let mounts = File::open(MOUNTS)
            .and_then(|file| watched(file, Interest::PRIORITY))
            .map_err(|error| tracing::warn!(%error, "the system does not tell when a memory card is mounted"));
        Self {
            devices: devices.ok(),
            mounts: mounts.ok(),
        }
    }

    /// Waits for news, or until it is time to look again anyway.
    async fn news(&mut self) {
        let told = self.devices.is_some() && self.mounts.is_some();
        let patience = if told { LOOK_AGAIN } else { LOOK_AGAIN_UNTOLD };
        tokio::select! {
            () = readable(self.devices.as_mut()) => {}
            () = mounted(self.mounts.as_mut()) => {}
            () = sleep(patience) => {}
        }
    }

    /// Takes what is waiting: one look answers it all.
    fn drain(&mut self) {
        if let Some(devices) = &self.devices {
            devices.get_ref().iter().for_each(drop);
        }
    }
}

async fn readable(devices: Option<&mut AsyncFd<udev::MonitorSocket>>) {
    let Some(devices) = devices else {
        return std::future::pending().await;
    };
    match devices.readable_mut().await {
        Ok(mut ready) => {
            ready.get_inner().iter().for_each(drop);
            ready.clear_ready();
        }
        Err(_) => std::future::pending().await,
    }
}

async fn mounted(mounts: Option<&mut AsyncFd<File>>) {
    let Some(mounts) = mounts else {
        return std::future::pending().await;
    };
    match mounts.ready_mut(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}

/// udev's events where it runs: they come when it has looked at the device; else the kernel's own.
fn monitor() -> io::Result<AsyncFd<udev::MonitorSocket>> {
    let mut builder = if Path::new(UDEV).exists() {
        udev::MonitorBuilder::new()?
    } else {
        udev::MonitorBuilder::new_kernel()?
    };
    for subsystem in SUBSYSTEMS {
        builder = builder.match_subsystem(subsystem)?;
    }
    watched(builder.listen()?, Interest::READABLE)
}

#[allow(
    deprecated,
    reason = "its successor is unsafe; both owners here keep their descriptor open until they are dropped"
)]
fn watched<T: AsRawFd>(source: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(source, interest)
}
