//! What hangs on cables, from what the kernel and udev tell: pure. [`Thing`]s and mounts in, sightings out.
//!
//! One physical USB device has one stem, `usb:VID:PID:SERIAL` (or the port where it tells no serial number); each of
//! its functions is a part `stem#function`, and the registry joins parts of one stem into one row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::device::{Access, DeviceClass, DeviceKey, MAX_LABEL_CHARS, clean_label};
use crate::disc::{DiscAccess, Medium};
use crate::mtp::MtpAccess;
use crate::ptp::PtpAccess;
use crate::registry::Sighting;
use crate::storage::wire::Mount;
use crate::storage::{MAX_VOLUMES, StorageAccess, Volume};
use crate::v4l2::V4l2Access;

/// Most things looked at.
pub const MAX_THINGS: usize = 2048;

/// A USB device as its descriptors tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usb {
    /// The port that it is in, as `1-1.2`.
    pub port: String,
    /// idVendor, four hex digits.
    pub vendor: String,
    /// idProduct, four hex digits.
    pub product: String,
    /// iSerialNumber.
    pub serial: Option<String>,
    /// iManufacturer.
    pub maker: Option<String>,
    /// iProduct.
    pub model: Option<String>,
}

/// A device of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thing {
    /// `block`, `usb`, `video4linux`.
    pub subsystem: String,
    /// Its name, as `sdb1`.
    pub name: String,
    /// `disk`, `partition`, `usb_interface` …
    pub kind: String,
    /// Its path in sysfs: the sighting's origin.
    pub path: String,
    /// Its device node.
    pub node: Option<PathBuf>,
    /// Its number, as `8:17`.
    pub number: Option<String>,
    /// Whether the kernel calls it, or the disk that it is part of, removable.
    pub removable: bool,
    /// What udev found out (`ID_FS_UUID` …); empty without udev.
    pub properties: BTreeMap<String, String>,
    /// Attributes in sysfs (`bInterfaceClass` …).
    pub attributes: BTreeMap<String, String>,
    /// The USB device that it belongs to.
    pub usb: Option<Usb>,
}

impl Thing {
    fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(|value| value.trim())
    }

    /// The stable name of the physical device.
    fn stem(&self) -> Option<String> {
        let usb = self.usb.as_ref()?;
        let own = match usb.serial.as_deref().and_then(|s| clean_label(s, 64)) {
            // `#` ends the stem.
            Some(serial) => serial.replace('#', "_"),
            None => format!("port-{}", usb.port),
        };
        Some(format!("usb:{}:{}:{own}", usb.vendor, usb.product))
    }
}

/// What is looked at besides things.
pub struct Setting<'a> {
    /// Mounts right below here are storages.
    pub media_root: &'a Path,
    /// The table of mounts.
    pub mounts: &'a [Mount],
    /// Images of discs that count as drives with a disc.
    pub disc_images: &'a [PathBuf],
    /// What a volume holds, by its folders.
    pub class_of: &'a dyn Fn(&Volume) -> Option<DeviceClass>,
}

/// Everything on cables, as sightings; the same input gives the same output.
pub fn interpret(things: &[Thing], setting: &Setting<'_>) -> Vec<Sighting> {
    let mut found = storages(things, setting);
    for thing in things {
        found.extend(match thing.subsystem.as_str() {
            "usb" => picture_transfer(thing),
            "video4linux" => video(thing),
            "block" if is_drive(thing) => drive(thing),
            _ => None,
        });
    }
    found.extend(
        setting
            .disc_images
            .iter()
            .filter_map(|path| disc_image(path)),
    );
    found
}

fn sighting(thing: &Thing, key: DeviceKey, class: DeviceClass, access: Access) -> Sighting {
    let usb = thing.usb.clone().unwrap_or_default();
    let label = |text: Option<String>| text.and_then(|text| clean_label(&text, MAX_LABEL_CHARS));
    let model = label(usb.model).or_else(|| {
        let text = thing
            .property("ID_MODEL")
            .map(|text| text.replace('_', " "));
        label(text)
    });
    Sighting {
        origin: format!("{}#{key}", thing.path),
        name: model.clone().unwrap_or_else(|| class.label().to_owned()),
        key,
        class,
        maker: label(usb.maker),
        model,
        serial: label(usb.serial),
        mac: None,
        addresses: BTreeSet::new(),
        access,
    }
}

fn key(thing: &Thing, function: &str) -> Option<DeviceKey> {
    let stem = thing.stem().unwrap_or_else(|| {
        let id = thing.property("ID_SERIAL").unwrap_or(&thing.name);
        format!("{}:{}", thing.subsystem, id.replace('#', "_"))
    });
    DeviceKey::new(&format!("{stem}#{function}"))
}

// ---- memory ------------------------------------------------------------------------------------

/// The partitions of one physical device.
#[derive(Default)]
struct Memory<'a> {
    volumes: Vec<Volume>,
    partitions: Vec<&'a Thing>,
}

fn storages(things: &[Thing], setting: &Setting<'_>) -> Vec<Sighting> {
    let mut memories: BTreeMap<String, Memory<'_>> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for thing in things {
        if thing.subsystem != "block" || is_drive(thing) || !carries_files(thing) {
            continue;
        }
        let mount = setting.mounts.iter().find(|mount| {
            thing.number.as_ref() == Some(&mount.device) && is_media(mount, setting.media_root)
        });
        if mount.is_none() && !thing.removable && thing.usb.is_none() {
            continue;
        }
        let disk = thing.name.trim_end_matches(|c: char| c.is_ascii_digit());
        let stem = thing.stem().unwrap_or_else(|| format!("block:{disk}"));
        let memory = memories.entry(stem).or_default();
        memory.partitions.push(thing);
        if let Some(mount) = mount {
            used.insert(mount.point.clone());
            memory.volumes.extend(volume(Some(thing), mount));
        }
    }
    let mut found: Vec<Sighting> = memories
        .into_values()
        .filter_map(|memory| storage(&memory, setting))
        .collect();
    // Mounted there by other means, so that udev knows no device for it.
    let others = setting
        .mounts
        .iter()
        .filter(|mount| is_media(mount, setting.media_root) && !used.contains(&mount.point));
    found.extend(others.filter_map(|mount| bare_mount(mount, setting)));
    found
}

fn is_media(mount: &Mount, media_root: &Path) -> bool {
    mount.point.parent() == Some(media_root)
}

/// A partition or disk with a file system, as far as anyone knows.
fn carries_files(thing: &Thing) -> bool {
    match thing.property("ID_FS_USAGE") {
        Some(usage) => usage == "filesystem",
        None => thing.kind == "partition" && thing.property("ID_PART_ENTRY_TYPE").is_none(),
    }
}

fn volume(thing: Option<&Thing>, mount: &Mount) -> Option<Volume> {
    let folder = mount.point.file_name()?.to_str()?;
    let property = |name| thing.and_then(|thing| thing.property(name));
    let label = property("ID_FS_LABEL_ENC")
        .map(unescape_udev)
        .or_else(|| property("ID_FS_LABEL").map(str::to_owned));
    let id = property("ID_FS_UUID").unwrap_or(folder);
    Some(Volume {
        id: crate::storage::wire::is_name(id).then(|| id.to_owned())?,
        name: label
            .and_then(|label| clean_label(&label, MAX_LABEL_CHARS))
            .or_else(|| clean_label(folder, MAX_LABEL_CHARS))?,
        point: mount.point.clone(),
        device: mount.device.clone(),
    })
}

fn storage(memory: &Memory<'_>, setting: &Setting<'_>) -> Option<Sighting> {
    let first = memory.partitions.first()?;
    let mut volumes = memory.volumes.clone();
    volumes.truncate(MAX_VOLUMES);
    let player = memory
        .partitions
        .iter()
        .any(|thing| thing.property("ID_MEDIA_PLAYER").is_some());
    let class = if player {
        DeviceClass::MusicPlayer
    } else {
        let held = volumes.iter().find_map(|volume| (setting.class_of)(volume));
        held.unwrap_or(DeviceClass::Storage)
    };
    let own_name = match volumes.as_slice() {
        [only] => Some(only.name.clone()),
        _ => None,
    };
    let partitions = memory.partitions.iter();
    let access = Access::Storage(StorageAccess {
        partitions: partitions.map(|thing| thing.name.clone()).collect(),
        volumes,
    });
    let mut found = sighting(first, key(first, "storage")?, class, access);
    let labelled = first.property("ID_FS_LABEL").is_some();
    if let Some(name) = own_name.filter(|_| labelled || found.model.is_none()) {
        found.name = name;
    }
    Some(found)
}

fn bare_mount(mount: &Mount, setting: &Setting<'_>) -> Option<Sighting> {
    let volume = volume(None, mount)?;
    let class = (setting.class_of)(&volume).unwrap_or(DeviceClass::Storage);
    Some(Sighting {
        key: DeviceKey::new(&format!("storage:{}", volume.id))?,
        origin: mount.point.to_string_lossy().into_owned(),
        name: volume.name.clone(),
        class,
        maker: None,
        model: None,
        serial: None,
        mac: None,
        addresses: BTreeSet::new(),
        access: Access::Storage(StorageAccess {
            volumes: vec![volume],
            partitions: Vec::new(),
        }),
    })
}

/// `\x20` and the like, as udev writes what may not stand in a property.
fn unescape_udev(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = after.strip_prefix(b"x").and_then(|hex| {
            let digits = std::str::from_utf8(hex.get(..2)?).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        if let (b'\\', Some(byte)) = (first, escaped) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

// ---- cameras, phones, players by MTP and PTP -------------------------------------------------------

/// An interface of the Still Image class (USB Still Image Capture Device Definition 1.0 §4), or one that udev's own
/// probe found to speak MTP.
fn picture_transfer(thing: &Thing) -> Option<Sighting> {
    let usb = thing.usb.as_ref()?;
    let class = |name, value| thing.attribute(name) == Some(value);
    let still_image = thing.kind == "usb_interface"
        && class("bInterfaceClass", "06")
        && class("bInterfaceSubClass", "01")
        && class("bInterfaceProtocol", "01");
    let says_mtp = thing
        .attribute("interface")
        .is_some_and(|name| name.to_ascii_uppercase().contains("MTP"));
    let vendor_mtp = thing.kind == "usb_interface" && class("bInterfaceClass", "ff") && says_mtp;
    if !still_image && !vendor_mtp {
        return None;
    }
    let class = if thing.property("ID_MEDIA_PLAYER").is_some() {
        DeviceClass::MusicPlayer
    } else if says_mtp {
        DeviceClass::Phone
    } else {
        DeviceClass::Camera
    };
    let access = Access::Ptp(PtpAccess::Usb(MtpAccess {
        vendor: u16::from_str_radix(&usb.vendor, 16).ok()?,
        product: u16::from_str_radix(&usb.product, 16).ok()?,
        serial: usb.serial.clone(),
    }));
    Some(sighting(thing, key(thing, "mtp")?, class, access))
}

// ---- cameras by Video4Linux ------------------------------------------------------------------------

fn video(thing: &Thing) -> Option<Sighting> {
    let captures = match thing.property("ID_V4L_CAPABILITIES") {
        Some(capabilities) => capabilities.contains(":capture:"),
        None => thing.attribute("index") == Some("0"),
    };
    if !captures {
        return None;
    }
    // The driver's name for people (V4L2, VIDIOC_QUERYCAP `card`); the attribute may be one of the kernel's own.
    let name = thing
        .property("ID_V4L_PRODUCT")
        .or_else(|| thing.attribute("name"))
        .and_then(|name| clean_label(name, MAX_LABEL_CHARS))?;
    let link = |folder: &str, property: &str| {
        let id = thing.property(property)?;
        Some(PathBuf::from(folder).join(id))
    };
    let index = thing.attribute("index").unwrap_or("0");
    // udev's own rule of names (60-persistent-v4l.rules).
    let by_path = link("/dev/v4l/by-path", "ID_PATH").map(|path| {
        let mut name = path.into_os_string();
        name.push(format!("-video-index{index}"));
        PathBuf::from(name)
    });
    let node = by_path.or_else(|| thing.node.clone())?;
    let own = match thing.stem() {
        Some(stem) => DeviceKey::new(&format!("{stem}#video{index}"))?,
        None => DeviceKey::new(&format!("v4l2:{}", node.file_name()?.to_str()?))?,
    };
    let access = Access::V4l2(V4l2Access {
        node,
        name: name.clone(),
    });
    let mut found = sighting(thing, own, DeviceClass::Camera, access);
    found.name = name;
    Some(found)
}

// ---- discs -------------------------------------------------------------------------------------

fn is_drive(thing: &Thing) -> bool {
    thing.property("ID_CDROM") == Some("1") || thing.name.starts_with("sr")
}

fn drive(thing: &Thing) -> Option<Sighting> {
    let tracks = |name| {
        let count = thing.property(name)?;
        count.parse::<u32>().ok()
    };
    let audio = tracks("ID_CDROM_MEDIA_TRACK_COUNT_AUDIO").unwrap_or(0);
    let medium = if audio > 0 {
        Medium::Audio
    } else if thing.property("ID_CDROM_MEDIA").is_some() {
        Medium::Data
    } else if thing.properties.contains_key("ID_CDROM") {
        Medium::Empty
    } else {
        // Nobody looked: asking the drive tells.
        Medium::Audio
    };
    let access = Access::Disc(DiscAccess {
        drive: thing.node.clone()?,
        medium,
    });
    let mut found = sighting(thing, key(thing, "disc")?, DeviceClass::Disc, access);
    DeviceClass::Disc.label().clone_into(&mut found.name);
    Some(found)
}

fn disc_image(path: &Path) -> Option<Sighting> {
    Some(Sighting {
        key: DeviceKey::new(&format!("disc:{}", path.display()))?,
        origin: format!("disc:{}", path.display()),
        name: format!(
            "CD image {}",
            clean_label(path.file_stem()?.to_str()?, MAX_LABEL_CHARS)?
        ),
        class: DeviceClass::Disc,
        maker: None,
        model: None,
        serial: None,
        mac: None,
        addresses: BTreeSet::new(),
        access: Access::Disc(DiscAccess {
            drive: path.to_owned(),
            medium: Medium::Audio,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    fn stick() -> Usb {
        Usb {
            port: "1-2".to_owned(),
            vendor: "0781".to_owned(),
            product: "5567".to_owned(),
            serial: Some("4C530".to_owned()),
            maker: Some("SanDisk".to_owned()),
            model: Some("Cruzer Blade".to_owned()),
        }
    }

    fn partition(name: &str, number: &str, usb: Option<Usb>) -> Thing {
        Thing {
            subsystem: "block".to_owned(),
            name: name.to_owned(),
            kind: "partition".to_owned(),
            path: format!("/sys/block/{name}"),
            number: Some(number.to_owned()),
            properties: map(&[
                ("ID_FS_USAGE", "filesystem"),
                ("ID_FS_UUID", &format!("UUID-{name}")),
                ("ID_FS_LABEL", "My_card"),
                ("ID_FS_LABEL_ENC", "My\\x20card"),
            ]),
            usb,
            ..Thing::default()
        }
    }

    fn mount(point: &str, device: &str) -> Mount {
        Mount {
            point: PathBuf::from(point),
            source: "x".to_owned(),
            device: device.to_owned(),
        }
    }

    fn look(things: &[Thing], mounts: &[Mount]) -> Vec<Sighting> {
        interpret(
            things,
            &Setting {
                media_root: Path::new("/run/mantel/media"),
                mounts,
                disc_images: &[],
                class_of: &|_| Some(DeviceClass::MemoryCard),
            },
        )
    }

    #[test]
    fn a_mounted_stick_is_a_source_and_an_inner_disk_is_none() {
        let things = [
            partition("sdb1", "8:17", Some(stick())),
            partition("vda1", "254:1", None),
        ];
        let mounts = [
            mount("/run/mantel/media/sdb1", "8:17"),
            mount("/", "254:1"),
            mount("/run/mantel/media/a/b", "0:99"),
        ];
        let found = look(&things, &mounts);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].key.as_str(), "usb:0781:5567:4C530#storage");
        assert_eq!(
            (found[0].name.as_str(), found[0].class),
            ("My card", DeviceClass::MemoryCard)
        );
        let Access::Storage(access) = &found[0].access else {
            panic!("{found:?}");
        };
        assert_eq!(access.volumes[0].id, "UUID-sdb1");
        assert!(found[0].access.problem().is_none());
    }

    #[test]
    fn partitions_of_one_stick_are_one_row_and_unmounted_it_says_so() {
        let things = [
            partition("sdb1", "8:17", Some(stick())),
            partition("sdb2", "8:18", Some(stick())),
        ];
        let found = look(&things, &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "Cruzer Blade");
        assert!(found[0].access.problem().is_some());
        assert!(found[0].access.capabilities().is_empty());
    }

    #[test]
    fn a_mount_without_a_known_device_is_a_source_too() {
        let found = look(&[], &[mount("/run/mantel/media/card", "0:55")]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].key.as_str(), "storage:card");
    }

    #[test]
    fn a_drive_says_what_lies_in_it() {
        let drive = |properties: &[(&str, &str)]| Thing {
            subsystem: "block".to_owned(),
            name: "sr0".to_owned(),
            kind: "disk".to_owned(),
            path: "/sys/block/sr0".to_owned(),
            node: Some(PathBuf::from("/dev/sr0")),
            properties: map(properties),
            ..Thing::default()
        };
        let medium = |properties: &[(&str, &str)]| match &look(&[drive(properties)], &[])[0].access
        {
            Access::Disc(access) => access.medium,
            other => panic!("{other:?}"),
        };
        assert_eq!(medium(&[("ID_CDROM", "1")]), Medium::Empty);
        let data = [
            ("ID_CDROM", "1"),
            ("ID_CDROM_MEDIA", "1"),
            ("ID_FS_USAGE", "filesystem"),
        ];
        assert_eq!(medium(&data), Medium::Data);
        let audio = [
            ("ID_CDROM", "1"),
            ("ID_CDROM_MEDIA", "1"),
            ("ID_CDROM_MEDIA_TRACK_COUNT_AUDIO", "12"),
        ];
        assert_eq!(medium(&audio), Medium::Audio);
    }

    #[test]
    fn interfaces_of_one_camera_share_a_stem() {
        let interface = |class: &str, name: &str| Thing {
            subsystem: "usb".to_owned(),
            name: "1-2:1.0".to_owned(),
            kind: "usb_interface".to_owned(),
            path: "/sys/usb/1-2:1.0".to_owned(),
            attributes: map(&[
                ("bInterfaceClass", class),
                ("bInterfaceSubClass", "01"),
                ("bInterfaceProtocol", "01"),
                ("interface", name),
            ]),
            usb: Some(stick()),
            ..Thing::default()
        };
        let found = look(&[interface("06", "")], &[]);
        assert_eq!(found[0].key.as_str(), "usb:0781:5567:4C530#mtp");
        assert_eq!(found[0].class, DeviceClass::Camera);
        assert_eq!(
            look(&[interface("06", "MTP")], &[])[0].class,
            DeviceClass::Phone
        );
        assert_eq!(look(&[interface("ff", "MTP")], &[]).len(), 1);
        assert!(look(&[interface("08", "")], &[]).is_empty());
    }

    #[test]
    fn a_webcam_is_one_camera_and_not_its_metadata_too() {
        let video = |index: &str, capabilities: &str| Thing {
            subsystem: "video4linux".to_owned(),
            name: format!("video{index}"),
            path: format!("/sys/video{index}"),
            node: Some(PathBuf::from(format!("/dev/video{index}"))),
            properties: map(&[
                ("ID_V4L_CAPABILITIES", capabilities),
                ("ID_PATH", "pci-0:1"),
            ]),
            attributes: map(&[("index", index), ("name", "HD Webcam\n")]),
            usb: Some(stick()),
            ..Thing::default()
        };
        let found = look(&[video("0", ":capture:"), video("1", ":")], &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "HD Webcam");
        let Access::V4l2(access) = &found[0].access else {
            panic!("{found:?}");
        };
        assert_eq!(
            access.node,
            PathBuf::from("/dev/v4l/by-path/pci-0:1-video-index0")
        );
    }
}
