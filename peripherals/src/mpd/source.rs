//! A jukebox's library as a source of media: folders, stored playlists, albums. Listed, never fetched.

use mpd_client::protocol::Command;

use super::Jukebox;
use super::session::{MpdError, command};
use super::wire::{self, MAX_TEXT_CHARS, Row, Rows, Song};
use crate::device::clean_label;
use crate::media::{
    Container, Entry, FetchError, Item, ListError, Location, MAX_PAGE, MediaKind, ObjectId, Page,
    PageRequest, Resource,
};

/// What an object id stands for. As text: `dir:PATH`, `song:PATH`, `list:NAME`, `albums`, `album:ARTIST<TAB>ALBUM`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Object<'a> {
    /// The top: folders, and the way to the albums.
    Root,
    /// A folder.
    Folder(&'a str),
    /// A song of the library.
    Song(&'a str),
    /// A stored playlist.
    Playlist(&'a str),
    /// All albums.
    Albums,
    /// One album.
    Album {
        /// The album's artist; may be empty.
        artist: &'a str,
        /// Its name.
        album: &'a str,
    },
}

impl<'a> Object<'a> {
    pub(super) fn of(id: &'a ObjectId) -> Option<Self> {
        match id.as_str().split_once(':') {
            Some(("dir", path)) => Some(Self::Folder(path)),
            Some(("song", path)) => Some(Self::Song(path)),
            Some(("list", name)) => Some(Self::Playlist(name)),
            Some(("album", names)) => names
                .split_once('\t')
                .map(|(artist, album)| Self::Album { artist, album }),
            _ if *id == ObjectId::root() => Some(Self::Root),
            _ if id.as_str() == "albums" => Some(Self::Albums),
            _ => None,
        }
    }

    /// The command that lists it. `None`: a song.
    pub(super) fn listing(&self) -> Result<Option<Command>, MpdError> {
        Ok(Some(match self {
            Self::Root => command("lsinfo", &[])?,
            Self::Folder(path) => command("lsinfo", &[path])?,
            Self::Playlist(name) => command("listplaylistinfo", &[name])?,
            Self::Albums => command("list", &["album", "group", "albumartist"])?,
            Self::Album { .. } => command("find", &[&self.filter()])?,
            Self::Song(_) => return Ok(None),
        }))
    }

    /// The filter that finds an album's songs (MPD protocol, "Filters").
    pub(super) fn filter(&self) -> String {
        let quote = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
        match self {
            Self::Album { artist, album } => format!(
                r#"((albumartist == "{}") AND (album == "{}"))"#,
                quote(artist),
                quote(album)
            ),
            _ => String::new(),
        }
    }
}

impl Jukebox {
    /// One page of a folder, a playlist, the albums or an album. MPD answers whole folders: a page is cut from it.
    pub async fn list(&self, container: &ObjectId, page: PageRequest) -> Result<Page, ListError> {
        let object = Object::of(container).ok_or_else(|| self.not_found())?;
        let listing = object.listing().map_err(|error| self.list_error(error))?;
        let listing = listing.ok_or_else(|| self.not_found())?;
        let asked = async { self.link().await?.ask([listing]).await };
        let [frame] = asked.await.map_err(|error| self.list_error(error))?;
        let fields = wire::fields(&frame);
        let (entries, refused) = if object == Object::Albums {
            albums(fields)
        } else {
            let found = wire::rows(fields);
            let (mut entries, refused) = entries(found);
            if object == Object::Root {
                entries.insert(0, Entry::Container(all_albums()));
            }
            (entries, refused)
        };
        Ok(cut(entries, page, refused))
    }

    /// One song again by its id.
    pub async fn item(&self, id: &ObjectId) -> Result<Item, ListError> {
        let Some(Object::Song(path)) = Object::of(id) else {
            return Err(self.not_found());
        };
        let asked = async {
            let question = command("lsinfo", &[path])?;
            self.link().await?.ask([question]).await
        };
        let [frame] = asked.await.map_err(|error| self.list_error(error))?;
        wire::rows(wire::fields(&frame))
            .songs()
            .into_iter()
            .find(|song| song.file == path)
            .and_then(item)
            .ok_or_else(|| self.not_found())
    }

    /// Refuses: the MPD protocol transfers no files.
    pub fn fetch(&self) -> FetchError {
        FetchError::NotGiven {
            device: self.name.clone(),
        }
    }

    fn not_found(&self) -> ListError {
        ListError::NotFound {
            device: self.name.clone(),
        }
    }

    fn list_error(&self, error: MpdError) -> ListError {
        let device = self.name.clone();
        match error.code() {
            Some(50) => ListError::NotFound { device },
            _ if matches!(error, MpdError::Argument) => ListError::NotFound { device },
            _ if error.is_unreachable() => ListError::Unreachable {
                device,
                source: error.into(),
            },
            _ if matches!(error, MpdError::Password) => ListError::Password { device },
            _ => ListError::BadAnswer {
                device,
                source: error.into(),
            },
        }
    }
}

fn all_albums() -> Container {
    Container {
        id: ObjectId("albums".to_owned()),
        title: "Albums".to_owned(),
        child_count: None,
    }
}

fn container(id: &str, title: &str) -> Option<Entry> {
    Some(Entry::Container(Container {
        id: ObjectId::new(id)?,
        title: clean_label(title, MAX_TEXT_CHARS)?,
        child_count: None,
    }))
}

/// Folders and playlists first, then songs, as MPD orders them.
fn entries(found: Rows) -> (Vec<Entry>, u32) {
    let (mut containers, mut songs, mut refused) = (Vec::new(), Vec::new(), found.refused);
    for row in found.rows {
        let (entry, to) = match row {
            Row::Folder(path) => {
                let name = path.rsplit('/').next().unwrap_or_default();
                (container(&format!("dir:{path}"), name), &mut containers)
            }
            Row::Playlist(name) => (container(&format!("list:{name}"), &name), &mut containers),
            Row::Song(song) => (item(song).map(Entry::Item), &mut songs),
        };
        refused = refused.saturating_add(u32::from(entry.is_none()));
        to.extend(entry);
    }
    containers.append(&mut songs);
    (containers, refused)
}

fn albums<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> (Vec<Entry>, u32) {
    let (found, mut refused) = wire::albums(fields);
    let mut entries = Vec::with_capacity(found.len());
    for (artist, album) in found {
        let title = if artist.is_empty() {
            album.clone()
        } else {
            format!("{album} · {artist}")
        };
        let entry = container(&format!("album:{artist}\t{album}"), &title);
        refused = refused.saturating_add(u32::from(entry.is_none()));
        entries.extend(entry);
    }
    (entries, refused)
}

fn item(song: Song) -> Option<Item> {
    let id = ObjectId::new(&format!("song:{}", song.file))?;
    let mime = mime_of(&song.file);
    Some(Item {
        original_id: None,
        title: song.shown(),
        class: "object.item.audioItem.musicTrack".to_owned(),
        kind: MediaKind::Audio,
        date: song.date.as_deref().and_then(date),
        artist: song.artist,
        album: song.album,
        resources: vec![Resource {
            location: Location::Object(id.clone()),
            mime: mime.to_owned(),
            protocol_info: String::new(),
            size_bytes: None,
            duration: song.duration,
            resolution: None,
            converted: false,
        }],
        id,
    })
}

fn mime_of(file: &str) -> &'static str {
    let ending = file.rsplit('.').next().unwrap_or_default();
    match ending.to_ascii_lowercase().as_str() {
        "mp3" => "audio/mpeg",
        "flac" => "audio/flac",
        "ogg" | "oga" | "opus" => "audio/ogg",
        "m4a" | "mp4" | "aac" => "audio/mp4",
        "wav" => "audio/wav",
        _ => "application/octet-stream",
    }
}

/// `2001`, `2001-05`, `2001-05-06` and what follows them.
fn date(text: &str) -> Option<jiff::civil::DateTime> {
    let mut parts = text.get(..10).unwrap_or(text).split('-');
    let year: i16 = parts.next()?.parse().ok()?;
    let mut part = || parts.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    let (month, day) = (part(), part());
    jiff::civil::Date::new(year, month, day)
        .ok()
        .map(|date| date.to_datetime(jiff::civil::Time::midnight()))
}

fn cut(entries: Vec<Entry>, page: PageRequest, refused: u32) -> Page {
    let total = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let end = page.start.saturating_add(page.count.min(MAX_PAGE));
    let wanted = entries
        .into_iter()
        .skip(page.start as usize)
        .take(end.saturating_sub(page.start) as usize);
    Page {
        entries: wanted.collect(),
        total,
        next: (end < total && end > page.start).then_some(end),
        refused: if page.start == 0 { refused } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_for_one_thing_each() {
        for text in [
            "dir:a/b: c",
            "song:x.mp3",
            "list:Party",
            "albums",
            "album:Ann\tTones",
            "0",
        ] {
            let id = ObjectId::new(text).expect("short");
            assert!(Object::of(&id).is_some(), "{text}");
        }
        for text in ["", "5", "album:no tab", "file:///etc/passwd"] {
            let id = ObjectId(text.to_owned());
            assert_eq!(Object::of(&id), None, "{text}");
        }
    }

    #[test]
    fn an_album_with_quotes_is_asked_for_by_its_name() {
        let object = Object::Album {
            artist: "A\\",
            album: r#"The "Best""#,
        };
        assert_eq!(
            object.filter(),
            r#"((albumartist == "A\\") AND (album == "The \"Best\""))"#
        );
    }

    #[test]
    fn dates_are_read_as_far_as_they_go() {
        let day = |text| date(text).map(|date| date.date().to_string());
        assert_eq!(day("2001").as_deref(), Some("2001-01-01"));
        assert_eq!(day("2001-05-06T10:00:00Z").as_deref(), Some("2001-05-06"));
        assert_eq!(day("once"), None);
        assert_eq!(day("2001-99"), None);
    }

    #[test]
    fn pages_are_cut_without_loss() {
        let many: Vec<Entry> = (0..450)
            .filter_map(|n| container(&format!("dir:{n}"), &format!("{n}")))
            .collect();
        let (mut start, mut seen) = (0, 0);
        loop {
            let page = cut(many.clone(), PageRequest { start, count: 1000 }, 0);
            seen += page.entries.len();
            assert_eq!(page.total, 450);
            match page.next {
                Some(next) => start = next,
                None => break,
            }
        }
        assert_eq!(seen, 450);
    }
}
