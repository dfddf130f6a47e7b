//! Reading a mounted volume: every path is opened beneath the volume's top, without following links, within one file
//! system (openat2(2)); only folders and regular files are ever opened. All of it blocks.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use super::Volume;
use super::wire::{self, Place, SNIFF_BYTES};

/// Most names kept of one folder; what is beyond is left out and counted.
pub const MAX_FOLDER_NAMES: usize = 100_000;
/// Most directory records looked at in one folder, those left out included.
pub const MAX_FOLDER_RECORDS: usize = 400_000;

/// One name of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Relative to the folder; `100CANON/IMG_0001.JPG` where subfolders were joined.
    pub(super) path: String,
    pub(super) folder: bool,
}

/// The names of a folder, sorted.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) names: Vec<Name>,
    pub(super) refused: u32,
}

/// A regular file: its facts, and what its first bytes say.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) modified: i64,
    pub(super) mime: Option<&'static str>,
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV
}

/// Opens the volume's top; fails with `NotConnected` when another file system is there now, or none: a stick that was
/// pulled out has not lost a file.
fn open_top(volume: &Volume) -> io::Result<OwnedFd> {
    let top = rustix::fs::open(
        &volume.point,
        OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let unmounted = || {
        io::Error::new(
            io::ErrorKind::NotConnected,
            "the volume is not mounted any more",
        )
    };
    let top = match top {
        Err(rustix::io::Errno::NOENT) => return Err(unmounted()),
        other => other?,
    };
    let device = rustix::fs::fstat(&top)?.st_dev;
    let number = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    if number == volume.device {
        Ok(top)
    } else {
        Err(unmounted())
    }
}

fn open_folder(top: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(
        top,
        path,
        flags,
        Mode::empty(),
        beneath(),
    )?)
}

/// Opens a regular file; pipes, devices and sockets are recognised before they are opened.
fn open_file(top: &OwnedFd, path: &str) -> io::Result<(File, Stat)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let looked_at = rustix::fs::openat2(top, path, flags, Mode::empty(), beneath())?;
    regular(&rustix::fs::fstat(&looked_at)?)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(
        top,
        path,
        flags | OFlags::NOFOLLOW,
        Mode::empty(),
        beneath(),
    )?;
    let stat = rustix::fs::fstat(&file)?;
    regular(&stat)?;
    Ok((File::from(file), stat))
}

fn regular(stat: &Stat) -> io::Result<()> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "this is no regular file",
        ))
    }
}

/// The names of a folder that may be media, and its subfolders, in natural order. The subfolders of DCIM are joined
/// into one listing: a camera begins a new one every so often, for itself and not for people.
pub(super) fn names(volume: &Volume, place: &Place) -> io::Result<Names> {
    let top = open_top(volume)?;
    let mut found = Names::default();
    let folder = open_folder(&top, &place.relative())?;
    read_names(&folder, "", &mut found)?;
    if place.is_dcim() {
        let (folders, files): (Vec<Name>, Vec<Name>) =
            found.names.drain(..).partition(|name| name.folder);
        found.names = files;
        for inner in folders {
            let path = format!("{}/{}", place.relative(), inner.path);
            let read = open_folder(&top, &path)
                .and_then(|folder| read_names(&folder, &inner.path, &mut found));
            if read.is_err() {
                found.refused = found.refused.saturating_add(1);
            }
        }
    }
    found
        .names
        .sort_by(|a, b| (b.folder.cmp(&a.folder)).then_with(|| wire::natural(&a.path, &b.path)));
    Ok(found)
}

fn read_names(folder: &OwnedFd, prefix: &str, into: &mut Names) -> io::Result<()> {
    for record in Dir::read_from(folder)?.take(MAX_FOLDER_RECORDS) {
        let record = record?;
        let Ok(name) = record.file_name().to_str() else {
            into.refused = into.refused.saturating_add(1);
            continue;
        };
        if name == "." || name == ".." {
            continue;
        }
        let kind = match record.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        let is_folder = kind == FileType::Directory;
        let wanted = match kind {
            FileType::Directory => wire::is_for_people(name),
            FileType::RegularFile => wire::may_be_media(name),
            _ => {
                // Links, pipes, devices: never media.
                into.refused = into.refused.saturating_add(1);
                continue;
            }
        };
        if !wanted {
            continue;
        }
        if !wire::is_name(name) || into.names.len() >= MAX_FOLDER_NAMES {
            into.refused = into.refused.saturating_add(1);
            continue;
        }
        let path = if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}/{name}")
        };
        into.names.push(Name {
            path,
            folder: is_folder,
        });
    }
    Ok(())
}

/// Looks at files of one volume; `None` for one that cannot be read.
pub(super) fn look(volume: &Volume, places: &[Place]) -> io::Result<Vec<Option<Found>>> {
    let top = open_top(volume)?;
    Ok(places.iter().map(|place| look_at(&top, place)).collect())
}

fn look_at(top: &OwnedFd, place: &Place) -> Option<Found> {
    let (file, stat) = open_file(top, &place.relative()).ok()?;
    let mut head = Vec::with_capacity(SNIFF_BYTES);
    file.take(SNIFF_BYTES as u64).read_to_end(&mut head).ok()?;
    let name = place.path.last().map_or("", String::as_str);
    Some(Found {
        size: u64::try_from(stat.st_size).ok()?,
        modified: stat.st_mtime,
        mime: wire::sniff(&head, name),
    })
}

/// Opens a file for reading: the file, its size, and what changes when it changes.
pub(super) fn open(volume: &Volume, place: &Place) -> io::Result<(File, u64, String)> {
    let top = open_top(volume)?;
    let (file, stat) = open_file(&top, &place.relative())?;
    let size = u64::try_from(stat.st_size).map_err(io::Error::other)?;
    let validator = format!("{}-{}-{}", stat.st_ino, size, stat.st_mtime);
    Ok((file, size, validator))
}

/// What a volume holds, by the folders at its top.
pub(super) fn holds(volume: &Volume) -> io::Result<Vec<String>> {
    let top = open_top(volume)?;
    let folder = open_folder(&top, ".")?;
    let mut names = Names::default();
    read_names(&folder, "", &mut names)?;
    let folders = names.names.into_iter().filter(|name| name.folder);
    Ok(folders.map(|name| name.path.to_ascii_lowercase()).collect())
}
