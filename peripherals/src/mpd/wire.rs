//! MPD's answers into types; pure. An answer is a list of `key: value` lines, as crate mpd_client hands it on
//! (MPD protocol, "Responses"). Keys that are not known here are left out.

use std::time::Duration;

use mpd_client::protocol::response::Frame;

use crate::device::clean_label;
use crate::media::TransportState;

/// Longest title, artist, album … kept, in characters.
pub const MAX_TEXT_CHARS: usize = 300;
/// Longest song path or URL kept, in bytes.
pub const MAX_FILE_BYTES: usize = 4096;
/// Longest name kept of an album or of its artist, in bytes; they are repeated in each row of a listing.
pub const MAX_NAME_BYTES: usize = 512;
/// Most songs, folders … taken from one answer.
pub const MAX_ENTRIES: usize = 20_000;
/// Most outputs shown.
pub const MAX_OUTPUTS: usize = 32;
/// The longest time believed of a song or a position.
const MAX_SECONDS: f64 = 30.0 * 86_400.0;
/// What a title of ours has in its URL. See [`Back`].
pub const MARK: &str = "mantel-back=";

/// Whether MPD stops after the current song.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    /// It goes on with the next one.
    Off,
    /// Always.
    On,
    /// This once; MPD then turns it off by itself.
    Once,
}

/// The answer to `status`.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// What it does.
    pub state: TransportState,
    /// 0 to 100; `None`: no output that has a volume.
    pub volume: Option<u8>,
    /// Whether it stops after this song.
    pub single: Single,
    /// Whether it begins again at the end.
    pub repeat: bool,
    /// Position in the queue and id of the current song.
    pub song: Option<(u32, u64)>,
    /// How many songs are in the queue.
    pub length: u32,
    /// Position in the song.
    pub elapsed: Option<Duration>,
    /// Length of the song.
    pub duration: Option<Duration>,
    /// What it could not do last, in its words.
    pub error: Option<String>,
}

/// A song in the library or the queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Song {
    /// Path within the library, or a URL.
    pub file: String,
    /// Id in the queue.
    pub id: Option<u64>,
    /// Position in the queue.
    pub position: Option<u32>,
    /// Title, or a station's name.
    pub title: Option<String>,
    /// Artist.
    pub artist: Option<String>,
    /// Album.
    pub album: Option<String>,
    /// Release date as MPD has it: `2001`, `2001-05`, `2001-05-06`.
    pub date: Option<String>,
    /// Playing time.
    pub duration: Option<Duration>,
}

impl Song {
    /// Its title, else the last part of its path.
    pub fn shown(&self) -> String {
        let last = self.file.rsplit('/').next().unwrap_or_default();
        self.title
            .clone()
            .or_else(|| clean_label(last, MAX_TEXT_CHARS))
            .unwrap_or_else(|| "Untitled".to_owned())
    }
}

/// A line of a folder.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A folder, by its path.
    Folder(String),
    /// A stored playlist, by its name.
    Playlist(String),
    /// A song.
    Song(Song),
}

/// What a listing brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The lines.
    pub rows: Vec<Row>,
    /// Lines left out: too long, or too many.
    pub refused: u32,
}

/// The lines of `frame`, for the functions here.
pub fn fields(frame: &Frame) -> impl Iterator<Item = (&str, &str)> {
    frame.fields()
}

/// Reads `status`. `None` when it has no state.
pub fn status<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Status> {
    let (mut position, mut id, mut state) = (None, None, None);
    let mut status = Status {
        state: TransportState::Other,
        volume: None,
        single: Single::Off,
        repeat: false,
        song: None,
        length: 0,
        elapsed: None,
        duration: None,
        error: None,
    };
    for (key, value) in fields {
        match key {
            "state" => {
                state = Some(match value {
                    "play" => TransportState::Playing,
                    "pause" => TransportState::Paused,
                    "stop" => TransportState::Stopped,
                    _ => TransportState::Other,
                });
            }
            // Older ones say -1 where there is none.
            "volume" => status.volume = value.parse().ok().filter(|percent| *percent <= 100),
            "single" => {
                status.single = match value {
                    "1" => Single::On,
                    "oneshot" => Single::Once,
                    _ => Single::Off,
                }
            }
            "repeat" => status.repeat = value == "1",
            "song" => position = value.parse().ok(),
            "songid" => id = value.parse().ok(),
            "playlistlength" => status.length = value.parse().unwrap_or(0),
            "elapsed" => status.elapsed = seconds(value),
            "duration" => status.duration = seconds(value),
            "error" => status.error = clean_label(value, MAX_TEXT_CHARS),
            _ => {}
        }
    }
    status.song = position.zip(id);
    status.state = state?;
    Some(status)
}

/// Reads songs and folders: `lsinfo`, `listplaylistinfo`, `find`, `currentsong`, `playlistinfo` …
pub fn rows<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Rows {
    let mut found = Rows::default();
    let mut song: Option<Song> = None;
    for (key, value) in fields {
        match key {
            "file" | "directory" | "playlist" => {
                found.take(song.take().map(Row::Song));
                if value.is_empty() || value.len() > MAX_FILE_BYTES {
                    found.refused = found.refused.saturating_add(1);
                    continue;
                }
                let value = value.to_owned();
                match key {
                    "file" => {
                        song = Some(Song {
                            file: value,
                            ..Song::default()
                        });
                    }
                    "directory" => found.take(Some(Row::Folder(value))),
                    _ => found.take(Some(Row::Playlist(value))),
                }
            }
            _ => {
                if let Some(song) = &mut song {
                    detail(song, key, value);
                }
            }
        }
    }
    found.take(song.map(Row::Song));
    found
}

impl Rows {
    fn take(&mut self, row: Option<Row>) {
        if self.rows.len() < MAX_ENTRIES {
            self.rows.extend(row);
        } else if row.is_some() {
            self.refused = self.refused.saturating_add(1);
        }
    }

    /// Its songs alone.
    pub fn songs(self) -> Vec<Song> {
        let song = |row| match row {
            Row::Song(song) => Some(song),
            Row::Folder(_) | Row::Playlist(_) => None,
        };
        self.rows.into_iter().filter_map(song).collect()
    }
}

fn detail(song: &mut Song, key: &str, value: &str) {
    // The first of several artists is kept.
    let text = |old: &mut Option<String>| {
        if old.is_none() {
            *old = clean_label(value, MAX_TEXT_CHARS);
        }
    };
    match key {
        "Id" => song.id = value.parse().ok(),
        "Pos" => song.position = value.parse().ok(),
        "Title" | "Name" => text(&mut song.title),
        "Artist" => text(&mut song.artist),
        "Album" => text(&mut song.album),
        "Date" => text(&mut song.date),
        "duration" => song.duration = seconds(value),
        // Protocol before 0.20.
        "Time" if song.duration.is_none() => song.duration = seconds(value),
        _ => {}
    }
}

/// Reads `list album group albumartist`: pairs of artist and album, and how many were left out.
pub fn albums<'a>(
    fields: impl Iterator<Item = (&'a str, &'a str)>,
) -> (Vec<(String, String)>, u32) {
    let (mut found, mut refused, mut artist) = (Vec::new(), 0_u32, String::new());
    for (key, value) in fields {
        match key {
            "AlbumArtist" => value.clone_into(&mut artist),
            "Album" if value.is_empty() => {}
            "Album"
                if found.len() < MAX_ENTRIES && artist.len().max(value.len()) <= MAX_NAME_BYTES =>
            {
                found.push((artist.clone(), value.to_owned()));
            }
            "Album" => refused = refused.saturating_add(1),
            _ => {}
        }
    }
    (found, refused)
}

/// Reads `outputs`: number, name, on.
pub fn outputs<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(u32, String, bool)> {
    let mut found: Vec<(u32, String, bool)> = Vec::new();
    for (key, value) in fields {
        match (key, found.last_mut()) {
            ("outputid", _) => {
                if let (Ok(id), true) = (value.parse(), found.len() < MAX_OUTPUTS) {
                    found.push((id, format!("Output {value}"), false));
                }
            }
            ("outputname", Some(output)) => {
                if let Some(name) = clean_label(value, MAX_TEXT_CHARS) {
                    output.1 = name;
                }
            }
            ("outputenabled", Some(output)) => output.2 = value == "1",
            _ => {}
        }
    }
    found
}

/// Seconds with a fraction. `None`: no number, negative, or longer than a month.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    (0.0..=MAX_SECONDS)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
}

/// What went on before a title of ours: it stands in the title's URL as `mantel-back=SONG.MILLISECONDS.STATE.MODES`, MODES being 1 for single and 2 for repeat, added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Back {
    /// The song's id in the queue; `None`: there was none.
    pub song: Option<u64>,
    /// Where it was.
    pub elapsed: Duration,
    /// What MPD did.
    pub state: TransportState,
    /// Whether it always stopped after each song.
    pub single: bool,
    /// Whether it began again at the end.
    pub repeat: bool,
}

impl Back {
    /// What goes on now.
    pub fn of(status: &Status) -> Self {
        Self {
            song: status.song.map(|(_, id)| id),
            elapsed: status.elapsed.unwrap_or_default(),
            state: status.state,
            single: status.single == Single::On,
            repeat: status.repeat,
        }
    }

    /// `url` with it.
    pub fn mark(&self, url: &str) -> String {
        let gap = if url.contains('?') { '&' } else { '?' };
        let state = match self.state {
            TransportState::Playing => "play",
            TransportState::Paused => "pause",
            _ => "stop",
        };
        format!(
            "{url}{gap}{MARK}{}.{}.{state}.{}",
            self.song
                .map_or_else(|| "-".to_owned(), |id| id.to_string()),
            self.elapsed.as_millis(),
            u8::from(self.single) + 2 * u8::from(self.repeat),
        )
    }

    /// The URL without it, and what it says. `None`: not a title of ours.
    pub fn read(file: &str) -> Option<(&str, Self)> {
        let (url, mark) = file.rsplit_once(MARK)?;
        let url = url.strip_suffix(['?', '&'])?;
        let mut parts = mark.split('.');
        let song = parts.next().and_then(|text| text.parse().ok());
        let elapsed: u64 = parts.next()?.parse().ok()?;
        let state = match parts.next()? {
            "play" => TransportState::Playing,
            "pause" => TransportState::Paused,
            _ => TransportState::Stopped,
        };
        let modes: u8 = parts.next()?.parse().ok()?;
        let back = Self {
            song,
            elapsed: Duration::from_millis(elapsed).min(Duration::from_secs_f64(MAX_SECONDS)),
            state,
            single: modes & 1 != 0,
            repeat: modes & 2 != 0,
        };
        Some((url, back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LSINFO: &str = include_str!("../../testdata/mpd/lsinfo.txt");
    const STATUS: &str = include_str!("../../testdata/mpd/status-title.txt");
    const OUTPUTS: &str = include_str!("../../testdata/mpd/outputs.txt");

    fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
        text.lines().filter_map(|line| line.split_once(": "))
    }

    #[test]
    fn a_folder_of_mpd_0_23_is_read() {
        let found = rows(lines(LSINFO));
        assert_eq!(found.refused, 0);
        assert_eq!(found.rows.len(), 4);
        assert_eq!(found.rows.last(), Some(&Row::Folder("Albums".to_owned())));
        let songs = found.songs();
        assert_eq!(songs[0].shown(), "Tone 1");
        assert_eq!(songs[0].artist.as_deref(), Some("Ann"));
        assert_eq!(songs[0].duration, Some(Duration::from_secs(20)));
        assert_eq!(songs[0].date.as_deref(), Some("2001"));
    }

    #[test]
    fn a_status_of_mpd_0_23_is_read() {
        let status = status(lines(STATUS)).expect("a status");
        assert_eq!(status.state, TransportState::Playing);
        assert_eq!(status.song, Some((1, 9)));
        assert_eq!(status.single, Single::Once);
        assert_eq!(status.elapsed, Some(Duration::from_millis(2075)));
        assert_eq!(status.volume, Some(100));
    }

    #[test]
    fn outputs_are_read() {
        let found = outputs(lines(OUTPUTS));
        assert_eq!(found, [(0, "Null".to_owned(), true)]);
    }

    #[test]
    fn nothing_is_believed_too_easily() {
        let text = "state: play\nvolume: -1\nelapsed: 1e300\nduration: nan\nsong: 99999999999\nsongid: 1\n";
        let status = status(lines(text)).expect("a status");
        assert_eq!(
            (status.volume, status.elapsed, status.duration, status.song),
            (None, None, None, None)
        );
        assert_eq!(super::status(lines("volume: 3\n")), None);
    }

    #[test]
    fn a_name_that_would_be_repeated_in_each_row_is_short() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        let text = format!(
            "AlbumArtist: {long}\nAlbum: a\nAlbum: b\nAlbumArtist: Ann\nAlbum: {long}\nAlbum: c\n"
        );
        let (found, refused) = albums(lines(&text));
        assert_eq!(found, [("Ann".to_owned(), "c".to_owned())]);
        assert_eq!(refused, 3);
    }

    proptest! {
        #[test]
        fn the_way_back_is_read_as_written(id in proptest::option::of(any::<u64>()), ms in 0_u64..86_400_000, single in any::<bool>(), repeat in any::<bool>()) {
            let back = Back { song: id, elapsed: Duration::from_millis(ms), state: TransportState::Paused, single, repeat };
            for url in ["http://10.0.0.1:8080/media/abc.mp3", "http://10.0.0.1/a?b=c"] {
                let marked = back.mark(url);
                prop_assert_eq!(Back::read(&marked), Some((url, back)));
            }
        }

        #[test]
        fn arbitrary_answers_never_panic(pairs in proptest::collection::vec((
            prop_oneof![Just("file"), Just("directory"), Just("state"), Just("outputid"), Just("outputname"), Just("Album"),
                Just("AlbumArtist"), Just("duration"), Just("elapsed"), Just("Id")], any::<String>()), 0..40)) {
            let fields = || pairs.iter().map(|(k, v)| (*k, v.as_str()));
            let _ = (status(fields()), rows(fields()), albums(fields()), outputs(fields()));
            for (_, value) in fields() {
                let _ = Back::read(value);
            }
        }
    }
}
