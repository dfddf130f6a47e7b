//! The data of PTP (ISO 15740:2013 §5; MTP 1.1 §5): little-endian numbers, counted strings and arrays. Pure; the same
//! over USB and TCP.

use std::collections::BTreeSet;

use jiff::civil::{DateTime, date};

/// Most entries of an array that is read: handles of one folder, operations.
pub const MAX_ARRAY: usize = 100_000;
/// Largest dataset about one thing: a device's or an object's description.
pub const MAX_DATASET: usize = 64 * 1024;

/// Operations (ISO 15740 §10; MTP 1.1 appendix D; Android's extensions).
pub mod operation {
    /// GetDeviceInfo.
    pub const GET_DEVICE_INFO: u16 = 0x1001;
    /// OpenSession.
    pub const OPEN_SESSION: u16 = 0x1002;
    /// CloseSession.
    pub const CLOSE_SESSION: u16 = 0x1003;
    /// GetStorageIDs.
    pub const GET_STORAGE_IDS: u16 = 0x1004;
    /// GetStorageInfo.
    pub const GET_STORAGE_INFO: u16 = 0x1005;
    /// GetObjectHandles.
    pub const GET_OBJECT_HANDLES: u16 = 0x1007;
    /// GetObjectInfo.
    pub const GET_OBJECT_INFO: u16 = 0x1008;
    /// GetObject.
    pub const GET_OBJECT: u16 = 0x1009;
    /// GetPartialObject.
    pub const GET_PARTIAL_OBJECT: u16 = 0x101b;
    /// GetObjectPropValue (MTP).
    pub const GET_OBJECT_PROP_VALUE: u16 = 0x9803;
    /// GetPartialObject64 (Android).
    pub const GET_PARTIAL_OBJECT_64: u16 = 0x95c1;
}

/// Answers (ISO 15740 §11).
pub mod response {
    /// OK.
    pub const OK: u16 = 0x2001;
    /// Session Not Open.
    pub const SESSION_NOT_OPEN: u16 = 0x2003;
    /// Invalid StorageID.
    pub const INVALID_STORAGE: u16 = 0x2008;
    /// Invalid ObjectHandle.
    pub const INVALID_OBJECT: u16 = 0x2009;
    /// Invalid ParentObject.
    pub const INVALID_PARENT: u16 = 0x201a;
    /// Store Not Available: no card in it, or the phone is locked.
    pub const STORE_NOT_AVAILABLE: u16 = 0x2013;
    /// Device Busy.
    pub const BUSY: u16 = 0x2019;
    /// Access Denied.
    pub const ACCESS_DENIED: u16 = 0x200f;
    /// Session Already Open.
    pub const SESSION_ALREADY_OPEN: u16 = 0x201e;
}

/// The object property "Object Size" (MTP 1.1 appendix B).
pub const OBJECT_SIZE: u16 = 0xdc04;
/// "All objects at the top" as a parent, and "size does not fit" as a size.
pub const ALL_ONES: u32 = 0xffff_ffff;
/// An association: a folder.
pub const ASSOCIATION: u16 = 0x3001;

/// The bytes are no such dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device's description ends too early or holds too much")]
pub struct Malformed;

/// Reads a dataset from its beginning.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    /// UINT8.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.take().map(u8::from_le_bytes)
    }

    /// UINT16.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_le_bytes)
    }

    /// UINT32.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    /// UINT64.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }

    /// A string: a count of UTF-16 units, the final null included (§5.3.3); unpaired halves become replacement
    /// characters.
    pub fn string(&mut self) -> Result<String, Malformed> {
        let count = self.u8()?;
        let mut units = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            units.push(self.u16()?);
        }
        let end = units.iter().position(|unit| *unit == 0);
        Ok(String::from_utf16_lossy(
            &units[..end.unwrap_or(units.len())],
        ))
    }

    fn array<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        if count > MAX_ARRAY {
            return Err(Malformed);
        }
        // The count is a stranger's word: room is made as entries come.
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(one(self)?);
        }
        Ok(entries)
    }

    /// An array of UINT16.
    pub fn u16_array(&mut self) -> Result<Vec<u16>, Malformed> {
        self.array(Self::u16)
    }

    /// An array of UINT32.
    pub fn u32_array(&mut self) -> Result<Vec<u32>, Malformed> {
        self.array(Self::u32)
    }
}

/// What a device says of itself (§5.5.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Operations that it knows.
    pub operations: BTreeSet<u16>,
    /// Maker.
    pub maker: String,
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
}

impl DeviceInfo {
    /// Reads a DeviceInfo dataset.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let (_standard, _vendor, _version) = (from.u16()?, from.u32()?, from.u16()?);
        let _extensions = from.string()?;
        let _mode = from.u16()?;
        let operations = from.u16_array()?.into_iter().collect();
        for _ in 0..4 {
            // Events, properties, formats to capture, formats to show.
            from.u16_array()?;
        }
        let (maker, model) = (from.string()?, from.string()?);
        // Some cameras end here.
        let _version = from.string().unwrap_or_default();
        Ok(Self {
            operations,
            maker,
            model,
            serial: from.string().unwrap_or_default(),
        })
    }
}

/// What a device says of a storage (§5.6.1): its description and label.
pub fn storage_name(bytes: &[u8]) -> Result<String, Malformed> {
    let mut from = Reader::new(bytes);
    let (_kind, _system, _access) = (from.u16()?, from.u16()?, from.u16()?);
    let (_capacity, _free, _images) = (from.u64()?, from.u64()?, from.u32()?);
    let (description, label) = (from.string()?, from.string().unwrap_or_default());
    Ok(if label.trim().is_empty() {
        description
    } else {
        label
    })
}

/// What a device says of an object (§5.5.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its storage.
    pub storage: u32,
    /// Its format; [`ASSOCIATION`] is a folder.
    pub format: u16,
    /// Its size; [`ALL_ONES`]: it does not fit here.
    pub size: u32,
    /// Width and height in pixels; 0: not told.
    pub pixels: (u32, u32),
    /// The folder that it is in; 0: none.
    pub parent: u32,
    /// Its file name.
    pub name: String,
    /// When it was taken, else changed; in the device's local time.
    pub date: Option<DateTime>,
}

impl ObjectInfo {
    /// Reads an ObjectInfo dataset.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let storage = from.u32()?;
        let (format, _protection) = (from.u16()?, from.u16()?);
        let size = from.u32()?;
        let (_thumb_format, _thumb_size) = (from.u16()?, from.u32()?);
        let (_thumb_width, _thumb_height) = (from.u32()?, from.u32()?);
        let pixels = (from.u32()?, from.u32()?);
        let _depth = from.u32()?;
        let parent = from.u32()?;
        let (_association, _description, _sequence) = (from.u16()?, from.u32()?, from.u32()?);
        let name = from.string()?;
        // Some devices leave out what they have nothing to say about.
        let taken = from.string().ok().and_then(|text| parse_date(&text));
        let changed = from.string().ok().and_then(|text| parse_date(&text));
        Ok(Self {
            storage,
            format,
            size,
            pixels,
            parent,
            name,
            date: taken.or(changed),
        })
    }

    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        self.format == ASSOCIATION
    }
}

/// `20260704T123059`, with tenths and zone or without (§5.3.5.1).
pub fn parse_date(text: &str) -> Option<DateTime> {
    let number = |range: std::ops::Range<usize>| -> Option<i16> {
        let digits = text.get(range)?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok())?
    };
    if text.as_bytes().get(8) != Some(&b'T') {
        return None;
    }
    let small = |range| number(range).and_then(|n| i8::try_from(n).ok());
    let day = jiff::civil::Date::new(number(0..4)?, small(4..6)?, small(6..8)?).ok()?;
    let time = jiff::civil::Time::new(small(9..11)?, small(11..13)?, small(13..15)?, 0).ok()?;
    let taken = day.to_datetime(time);
    // Cameras whose clock was never set say 1970 or 1980.
    (taken > date(1981, 1, 1).at(0, 0, 0, 0)).then_some(taken)
}

/// The MIME type of an object by its format code (§6.3; MTP 1.1 appendix A) or its name; `None`: no media.
pub fn mime(format: u16, name: &str) -> Option<&'static str> {
    let by_format = match format {
        0x3801 | 0x3808 => "image/jpeg",
        0x3804 => "image/bmp",
        0x3807 => "image/gif",
        0x380b => "image/png",
        0x3007 => "audio/aiff",
        0x3008 => "audio/wav",
        0x3009 => "audio/mpeg",
        0xb903 => "audio/aac",
        0xb906 => "audio/flac",
        0x300b | 0xb982 => "video/mp4",
        0x300d => "video/quicktime",
        0xb984 => "video/3gpp",
        _ => "",
    };
    let by_name = by_name(name);
    // The ending tells raw pictures and containers apart, for which cameras use one code.
    by_name.or_else(|| (!by_format.is_empty()).then_some(by_format))
}

fn by_name(name: &str) -> Option<&'static str> {
    Some(match crate::storage::wire::ending(name)?.as_str() {
        "jpg" | "jpeg" | "jpe" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "heic" | "heif" | "hif" => "image/heic",
        "avif" => "image/avif",
        "cr2" => "image/x-canon-cr2",
        "cr3" => "image/x-canon-cr3",
        "nef" | "nrw" => "image/x-nikon-nef",
        "arw" => "image/x-sony-arw",
        "dng" => "image/x-adobe-dng",
        "raf" => "image/x-fuji-raf",
        "rw2" => "image/x-panasonic-rw2",
        "orf" => "image/x-olympus-orf",
        "pef" => "image/x-pentax-pef",
        "mp4" | "m4v" => "video/mp4",
        "mov" | "qt" => "video/quicktime",
        "avi" => "video/x-msvideo",
        "mts" | "m2ts" | "m2t" | "ts" => "video/mp2t",
        "mpg" | "mpeg" | "mod" | "vob" => "video/mpeg",
        "3gp" | "3g2" => "video/3gpp",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "wmv" | "asf" => "video/x-ms-asf",
        "mp3" => "audio/mpeg",
        "m4a" | "m4b" => "audio/mp4",
        "aac" => "audio/aac",
        "flac" => "audio/flac",
        "ogg" | "oga" | "opus" => "audio/ogg",
        "wav" => "audio/wav",
        "aif" | "aiff" => "audio/aiff",
        "wma" => "audio/x-ms-wma",
        "amr" => "audio/amr",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(text: &str) -> Vec<u8> {
        let mut units: Vec<u16> = text.encode_utf16().collect();
        units.push(0);
        let mut bytes = vec![units.len() as u8];
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes
    }

    #[test]
    fn an_object_is_read() {
        let mut bytes = 0x0001_0001_u32.to_le_bytes().to_vec();
        bytes.extend([0x01, 0x38, 0, 0]);
        bytes.extend(5_000_000_u32.to_le_bytes());
        bytes.extend([0; 14]);
        bytes.extend(6000_u32.to_le_bytes());
        bytes.extend(4000_u32.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend([0; 10]);
        bytes.extend(string("IMG_0001.JPG"));
        bytes.extend(string("20260704T123059.0"));
        let info = ObjectInfo::parse(&bytes).expect("whole");
        assert_eq!(
            (info.storage, info.parent, info.size),
            (0x0001_0001, 7, 5_000_000)
        );
        assert_eq!(
            (info.name.as_str(), info.pixels),
            ("IMG_0001.JPG", (6000, 4000))
        );
        assert_eq!(info.date, Some(date(2026, 7, 4).at(12, 30, 59, 0)));
        assert_eq!(mime(info.format, &info.name), Some("image/jpeg"));
        assert_eq!(ObjectInfo::parse(&bytes[..40]), Err(Malformed));
    }

    #[test]
    fn an_array_that_claims_too_much_is_refused() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.extend([0; 64]);
        assert_eq!(Reader::new(&bytes).u32_array(), Err(Malformed));
        bytes[..4].copy_from_slice(&90_000_u32.to_le_bytes());
        assert_eq!(Reader::new(&bytes).u32_array(), Err(Malformed));
    }

    #[test]
    fn dates_that_are_none_are_left_out() {
        for bad in [
            "",
            "19800101T000000",
            "20261304T000000",
            "2026-07-04T12:00",
            "20260704 123059",
        ] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
        assert!(parse_date("20260704T123059+0200").is_some());
    }

    #[test]
    fn the_name_tells_raw_pictures_apart_and_the_code_helps_where_it_has_no_ending() {
        assert_eq!(mime(0x3800, "DSC_1.NEF"), Some("image/x-nikon-nef"));
        assert_eq!(mime(0x3801, "photo"), Some("image/jpeg"));
        assert_eq!(mime(0x3000, "notes.txt"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in any::<String>()) {
            let _ = DeviceInfo::parse(&bytes);
            let _ = ObjectInfo::parse(&bytes);
            let _ = storage_name(&bytes);
            let _ = Reader::new(&bytes).u32_array();
            let _ = parse_date(&text);
            let _ = mime(0, &text);
        }
    }
}
