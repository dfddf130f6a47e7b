//! What a folder of media says, without I/O: names, their order, file types by their first bytes, and the table of
//! mounts. Everything here comes from a stranger's memory card.

use std::cmp::Ordering;
use std::path::PathBuf;

use crate::media::{MAX_OBJECT_ID_BYTES, ObjectId};

/// First bytes of a file that tell what it is.
pub const SNIFF_BYTES: usize = 512;
/// Most mounts read from the table of mounts.
pub const MAX_MOUNTS: usize = 4096;
/// Deepest folder listed, below the volume.
pub const MAX_DEPTH: usize = 24;

/// Endings of files that may hold media. Their first bytes decide what they really are.
const ENDINGS: &[&str] = &[
    "jpg", "jpeg", "jpe", "png", "gif", "webp", "tif", "tiff", "heic", "heif", "hif", "avif",
    "bmp", "cr2", "cr3", "nef", "nrw", "arw", "dng", "pef", "srw", "raf", "rw2", "orf", "mp4",
    "m4v", "mov", "qt", "avi", "mkv", "webm", "mts", "m2ts", "m2t", "ts", "mpg", "mpeg", "mpe",
    "vob", "mod", "tod", "3gp", "3g2", "wmv", "asf", "mxf", "dv", "mp3", "m4a", "m4b", "aac",
    "flac", "ogg", "oga", "opus", "wav", "aif", "aiff", "wma", "amr",
];

/// Folders that a system keeps for itself.
const SYSTEM_FOLDERS: &[&str] = &[
    "system volume information",
    "$recycle.bin",
    "recycler",
    "lost+found",
    "lost.dir",
    "found.000",
];

/// Whether a file's name lets one expect media: a known ending, or none. Hidden files (AppleDouble `._x` too) do not.
pub fn may_be_media(name: &str) -> bool {
    if name.starts_with('.') {
        return false;
    }
    match ending(name) {
        Some(ending) => ENDINGS.contains(&ending.as_str()),
        None => true,
    }
}

/// Whether a folder is for people: not hidden and not a system's own.
pub fn is_for_people(folder: &str) -> bool {
    !folder.starts_with('.') && !SYSTEM_FOLDERS.contains(&folder.to_ascii_lowercase().as_str())
}

/// The lower-case ending of a name, 1 to 5 letters or digits; `None`: it has none.
pub fn ending(name: &str) -> Option<String> {
    let (stem, ending) = name.rsplit_once('.')?;
    let fits = (1..=5).contains(&ending.len()) && ending.bytes().all(|b| b.is_ascii_alphanumeric());
    (fits && !stem.is_empty()).then(|| ending.to_ascii_lowercase())
}

/// A file's name without its ending.
pub fn stem(name: &str) -> &str {
    match ending(name) {
        Some(ending) => &name[..name.len() - ending.len() - 1],
        None => name,
    }
}

/// Natural order: runs of digits by their value, letters without regard to case; a total order.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (x, y) = (next_run(&mut left), next_run(&mut right));
        let order = match (x, y) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(Run::Digits(x)), Some(Run::Digits(y))) => {
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
            (Some(Run::Digits(_)), Some(Run::Letter(y))) => '0'.cmp(&y),
            (Some(Run::Letter(x)), Some(Run::Digits(_))) => x.cmp(&'0'),
            (Some(Run::Letter(x)), Some(Run::Letter(y))) => x.cmp(&y),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

enum Run<'a> {
    /// Without leading zeros.
    Digits(&'a str),
    Letter(char),
}

fn next_run<'a>(rest: &mut &'a str) -> Option<Run<'a>> {
    let first = rest.chars().next()?;
    if first.is_ascii_digit() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        *rest = after;
        Some(Run::Digits(digits.trim_start_matches('0')))
    } else {
        *rest = &rest[first.len_utf8()..];
        Some(Run::Letter(first.to_lowercase().next().unwrap_or(first)))
    }
}

/// A place on a storage: the volume and the path below it, each part a plain name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The volume's id.
    pub volume: String,
    /// Names from the volume's top downwards.
    pub path: Vec<String>,
}

impl Place {
    /// Reads `volume/dir/file`; `None`: not an id of ours.
    pub fn parse(id: &str) -> Option<Self> {
        let (volume, path) = id.split_once('/')?;
        let path: Vec<String> = path
            .split('/')
            .filter(|_| !path.is_empty())
            .map(str::to_owned)
            .collect();
        let sound = is_name(volume)
            && id.len() <= MAX_OBJECT_ID_BYTES
            && path.len() <= MAX_DEPTH
            && path.iter().all(|part| is_name(part));
        sound.then(|| Self {
            volume: volume.to_owned(),
            path,
        })
    }

    /// The place as an object's id; `None` when it is too long.
    pub fn id(&self) -> Option<ObjectId> {
        ObjectId::new(&format!("{}/{}", self.volume, self.path.join("/")))
    }

    /// The path as the kernel takes it, `.` for the top.
    pub fn relative(&self) -> String {
        if self.path.is_empty() {
            ".".to_owned()
        } else {
            self.path.join("/")
        }
    }

    /// A place below this one; `below` is a name or several with `/`.
    #[must_use]
    pub fn join(&self, below: &str) -> Self {
        let mut path = self.path.clone();
        path.extend(below.split('/').map(str::to_owned));
        Self {
            volume: self.volume.clone(),
            path,
        }
    }

    /// Whether it is the DCIM folder of a camera's card (JEITA CP-3461 §3.2.1).
    pub fn is_dcim(&self) -> bool {
        matches!(self.path.as_slice(), [one] if one.eq_ignore_ascii_case("DCIM"))
    }
}

/// Whether a name may stand in a path: not empty, no `.` or `..`, no separator, no control character.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c.is_control())
}

/// What a file is by its first bytes ([`SNIFF_BYTES`] or fewer); `None`: no media. `name` tells only between kinds of
/// raw picture, which look alike.
pub fn sniff(head: &[u8], name: &str) -> Option<&'static str> {
    let at = |offset: usize, bytes: &[u8]| head.get(offset..offset + bytes.len()) == Some(bytes);
    let ending = ending(name).unwrap_or_default();
    Some(match head {
        _ if at(0, &[0xff, 0xd8, 0xff]) => "image/jpeg",
        _ if at(0, b"\x89PNG\r\n\x1a\n") => "image/png",
        _ if at(0, b"GIF87a") || at(0, b"GIF89a") => "image/gif",
        _ if at(0, b"RIFF") && at(8, b"WEBP") => "image/webp",
        _ if at(0, b"RIFF") && at(8, b"WAVE") => "audio/wav",
        _ if at(0, b"RIFF") && at(8, b"AVI ") => "video/x-msvideo",
        _ if at(0, b"BM") && ending == "bmp" => "image/bmp",
        _ if at(4, b"ftyp") => by_brand(head.get(8..12)?, &ending),
        _ if [&b"moov"[..], b"mdat", b"wide", b"skip", b"pnot"]
            .iter()
            .any(|atom| at(4, atom)) =>
        {
            "video/quicktime"
        }
        _ if at(0, b"II*\0") || at(0, b"MM\0*") => match ending.as_str() {
            "cr2" => "image/x-canon-cr2",
            "nef" | "nrw" => "image/x-nikon-nef",
            "arw" => "image/x-sony-arw",
            "dng" => "image/x-adobe-dng",
            "pef" => "image/x-pentax-pef",
            "srw" => "image/x-samsung-srw",
            _ => "image/tiff",
        },
        _ if at(0, b"IIU\0") => "image/x-panasonic-rw2",
        _ if at(0, b"IIRO") || at(0, b"MMOR") => "image/x-olympus-orf",
        _ if at(0, b"FUJIFILMCCD-RAW") => "image/x-fuji-raf",
        _ if at(0, &[0x1a, 0x45, 0xdf, 0xa3]) => {
            let webm = head.iter().take(64).copied().collect::<Vec<u8>>();
            if webm.windows(4).any(|w| w == b"webm") {
                "video/webm"
            } else {
                "video/x-matroska"
            }
        }
        _ if at(0, b"fLaC") => "audio/flac",
        _ if at(0, b"OggS") => {
            if head.windows(6).any(|w| w == b"theora") {
                "video/ogg"
            } else {
                "audio/ogg"
            }
        }
        _ if at(0, b"FORM") && (at(8, b"AIFF") || at(8, b"AIFC")) => "audio/aiff",
        _ if at(0, &[0, 0, 1, 0xba]) || at(0, &[0, 0, 1, 0xb3]) => "video/mpeg",
        _ if (at(0, &[0x47]) && at(188, &[0x47])) || (at(4, &[0x47]) && at(196, &[0x47])) => {
            "video/mp2t"
        }
        _ if at(0, &[0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11]) => match ending.as_str() {
            "wma" => "audio/x-ms-wma",
            _ => "video/x-ms-asf",
        },
        _ if at(0, &[0x06, 0x0e, 0x2b, 0x34, 0x02, 0x05]) => "application/mxf",
        _ if at(0, &[0x1f, 0x07, 0x00]) => "video/x-dv",
        _ if at(0, b"#!AMR") => "audio/amr",
        _ if at(0, b"ID3") || is_mpeg_audio(head) => "audio/mpeg",
        [0xff, 0xf1 | 0xf9, ..] => "audio/aac",
        _ => return None,
    })
}

/// ISO/IEC 14496-12 §4.3: the major brand.
fn by_brand(brand: &[u8], ending: &str) -> &'static str {
    match brand {
        b"qt  " => "video/quicktime",
        b"M4A " | b"M4B " => "audio/mp4",
        b"heic" | b"heix" | b"mif1" | b"heim" | b"heis" => "image/heic",
        b"avif" => "image/avif",
        b"crx " => "image/x-canon-cr3",
        [b'3', b'g', b'p' | b'2' | b'g', _] if ending == "3gp" => "video/3gpp",
        _ => "video/mp4",
    }
}

/// The header of an MPEG-1/2 layer II or III frame (ISO/IEC 11172-3 §2.4.2.3).
fn is_mpeg_audio(head: &[u8]) -> bool {
    matches!(head, [0xff, b, c, ..] if b & 0xe0 == 0xe0
        && matches!(b & 0x06, 0x02 | 0x04)
        && c >> 4 != 0x0f && c & 0x0c != 0x0c)
}

/// One mount of this process (proc(5), `/proc/pid/mountinfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// What: a device node, or a name such as `tmpfs`.
    pub source: String,
    /// The device's number, as `8:17`.
    pub device: String,
}

/// Reads the table of mounts; lines that cannot be read are left out.
pub fn parse_mounts(table: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ');
        let device = fields.nth(2)?;
        let point = fields.nth(1)?;
        let source = right.split(' ').nth(1)?;
        Some(Mount {
            point: PathBuf::from(unescape(point)),
            source: unescape(source),
            device: device.to_owned(),
        })
    };
    table.lines().filter_map(line).take(MAX_MOUNTS).collect()
}

/// Octal escapes of space, tab, line feed and backslash.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let octal = |digits: &[u8]| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        };
        if let (b'\\', Some(byte)) = (first, after.get(..3).and_then(octal)) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_in_names_count_by_their_value() {
        let mut names = ["img_10.jpg", "IMG_9.jpg", "IMG_0009.JPG", "a", "IMG_2.jpg"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(
            names,
            ["a", "IMG_2.jpg", "IMG_0009.JPG", "IMG_9.jpg", "img_10.jpg"]
        );
    }

    #[test]
    fn the_first_bytes_decide_and_not_the_name() {
        let mp4 = b"\0\0\0\x18ftypmp42\0\0\0\0";
        assert_eq!(sniff(mp4, "photo.jpg"), Some("video/mp4"));
        assert_eq!(
            sniff(b"\0\0\0\x18ftypqt  ", "x.mov"),
            Some("video/quicktime")
        );
        assert_eq!(sniff(b"II*\0rest", "x.NEF"), Some("image/x-nikon-nef"));
        assert_eq!(sniff(b"II*\0rest", "x.tif"), Some("image/tiff"));
        assert_eq!(sniff(&[0xff, 0xfb, 0x90, 0x64], "x"), Some("audio/mpeg"));
        // UTF-16 text begins like a frame of MPEG sound.
        assert_eq!(sniff(&[0xff, 0xfe, b'a', 0], "x.mp3"), None);
        assert_eq!(sniff(b"<html>", "photo.jpg"), None);
        assert_eq!(sniff(b"", "photo.jpg"), None);
        let mut ts = vec![0_u8; 400];
        (ts[4], ts[196]) = (0x47, 0x47);
        assert_eq!(sniff(&ts, "00001.MTS"), Some("video/mp2t"));
    }

    #[test]
    fn names_that_lead_out_are_no_places() {
        for bad in [
            "",
            "v",
            "v/../x",
            "v/a/../../etc",
            "v//x",
            "v/./x",
            "../v/x",
            "v/a\nb",
            "/etc/passwd",
        ] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
        let place = Place::parse("v/DCIM/100CANON/IMG_0001.JPG").expect("sound");
        assert_eq!(place.relative(), "DCIM/100CANON/IMG_0001.JPG");
        assert_eq!(Place::parse("v/").expect("top").relative(), ".");
        assert!(Place::parse("v/dcim").expect("sound").is_dcim());
    }

    #[test]
    fn a_table_of_mounts_is_read() {
        let table =
            "36 35 8:17 / /run/mantel/media/My\\040card ro,nosuid - vfat /dev/sdb1 ro\nrubbish\n";
        let mounts = parse_mounts(table);
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].point, PathBuf::from("/run/mantel/media/My card"));
        assert_eq!(
            (mounts[0].source.as_str(), mounts[0].device.as_str()),
            ("/dev/sdb1", "8:17")
        );
    }

    #[test]
    fn hidden_and_system_files_are_left_out() {
        assert!(may_be_media("IMG_1.JPG") && may_be_media("noending"));
        assert!(!may_be_media("._IMG_1.JPG") && !may_be_media("tax.pdf"));
        assert!(is_for_people("DCIM") && !is_for_people("System Volume Information"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(head in proptest::collection::vec(any::<u8>(), 0..600), text in any::<String>()) {
            let _ = sniff(&head, &text);
            let _ = parse_mounts(&text);
            let _ = Place::parse(&text);
            let _ = (ending(&text), stem(&text), may_be_media(&text));
        }

        #[test]
        fn natural_order_is_an_order(a in "[a-cA-C0-3]{0,6}", b in "[a-cA-C0-3]{0,6}", c in "[a-cA-C0-3]{0,6}") {
            prop_assert_eq!(natural(&a, &b), natural(&b, &a).reverse());
            if natural(&a, &b).is_le() && natural(&b, &c).is_le() {
                prop_assert!(natural(&a, &c).is_le());
            }
        }
    }
}
