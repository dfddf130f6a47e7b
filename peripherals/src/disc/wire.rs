//! What the programs for audio CDs print, and the disc's stable key: pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::{Encoding, Specification};

use crate::device::{MAX_LABEL_CHARS, clean_label};

/// Sectors per second of sound (IEC 60908).
pub const SECTORS_PER_SECOND: u64 = 75;
/// Bytes of sound in a sector: 588 samples, two channels, 16 bits.
pub const SECTOR_BYTES: u64 = 2352;
/// Most tracks of a disc.
pub const MAX_TRACKS: usize = 99;
/// Most sectors of a disc: 100 minutes, more than any can hold.
pub const MAX_SECTORS: u32 = 450_000;
/// Sectors before the first of the table of contents.
const LEAD_IN: u32 = 150;

/// One audio track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track {
    /// Its number on the disc, 1 to 99.
    pub number: u8,
    /// Its first sector.
    pub begin: u32,
    /// Its length in sectors.
    pub sectors: u32,
}

impl Track {
    /// How long it plays.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(u64::from(self.sectors) * 1000 / SECTORS_PER_SECOND)
    }

    /// Bytes of sound.
    pub fn bytes(&self) -> u64 {
        u64::from(self.sectors) * SECTOR_BYTES
    }
}

/// The audio tracks of a disc, in order, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toc {
    tracks: Vec<Track>,
}

impl Toc {
    /// Reads what `cd-paranoia -Q` prints; `None`: there are no audio tracks, or they overlap.
    pub fn parse(text: &str) -> Option<Self> {
        let tracks: Vec<Track> = text.lines().filter_map(track).collect();
        let ordered = tracks.windows(2).all(|pair| {
            pair[0].number < pair[1].number && pair[0].begin + pair[0].sectors <= pair[1].begin
        });
        let sound = !tracks.is_empty() && tracks.len() <= MAX_TRACKS && ordered;
        sound.then_some(Self { tracks })
    }

    /// The tracks.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// The MusicBrainz disc id: 28 characters, from the table of contents alone. The same pressing has the same id.
    pub fn disc_id(&self) -> String {
        let (first, last) = (self.tracks[0], self.tracks[self.tracks.len() - 1]);
        let mut offsets = [0_u32; MAX_TRACKS + 1];
        offsets[0] = last.begin + last.sectors + LEAD_IN;
        for track in &self.tracks {
            offsets[usize::from(track.number)] = track.begin + LEAD_IN;
        }
        let mut text = format!("{:02X}{:02X}", first.number, last.number);
        for offset in offsets {
            write!(text, "{offset:08X}").expect("a string takes what is written");
        }
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        base64().encode(hash.as_ref())
    }
}

/// Base64 with the letters that MusicBrainz puts in place of `+/=`.
fn base64() -> Encoding {
    let mut letters = Specification::new();
    letters
        .symbols
        .push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._");
    letters.padding = Some('-');
    letters.encoding().expect("64 different letters")
}

/// `  1.    16503 [03:40.03]        0 [00:00.00]    no   no  2`
fn track(line: &str) -> Option<Track> {
    let mut words = line.split_whitespace();
    let number = words.next()?.strip_suffix('.')?.parse().ok()?;
    let sectors = words.next()?.parse().ok()?;
    let begin = words.nth(1)?.parse().ok()?;
    let fits = (1..=MAX_TRACKS as u8).contains(&number)
        && (1..=MAX_SECTORS).contains(&sectors)
        && begin <= MAX_SECTORS;
    fits.then_some(Track {
        number,
        begin,
        sectors,
    })
}

/// CD-TEXT (IEC 61866) of a disc or a track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// TITLE.
    pub title: Option<String>,
    /// PERFORMER.
    pub performer: Option<String>,
}

/// CD-TEXT by track; 0 is the disc.
pub type CdText = BTreeMap<u8, Words>;

/// Reads what `cd-info` prints; the first language counts.
pub fn parse_cd_text(text: &str) -> CdText {
    let mut words = CdText::new();
    let mut at = None;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("Language 1 ") {
            break;
        }
        if let Some(of) = line.strip_prefix("CD-TEXT for ") {
            at = match of.trim_end_matches(':').trim() {
                "Disc" => Some(0),
                track => track
                    .strip_prefix("Track")
                    .and_then(|number| number.trim().parse::<u8>().ok())
                    .filter(|number| (1..=MAX_TRACKS as u8).contains(number)),
            };
            continue;
        }
        let (Some(at), Some((name, value))) = (at, line.split_once(": ")) else {
            continue;
        };
        let value = clean_label(value, MAX_LABEL_CHARS);
        let entry = words.entry(at).or_default();
        match name {
            "TITLE" => entry.title = value,
            "PERFORMER" => entry.performer = value,
            _ => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUERY: &str = "
Table of contents (audio tracks only):
track        length               begin        copy pre ch
===========================================================
  1.      375 [00:05.00]        0 [00:00.00]    no   no  2
  2.      375 [00:05.00]      375 [00:05.00]    no   no  2
TOTAL     750 [00:10.00]    (audio only)
";

    #[test]
    fn a_table_of_contents_is_read() {
        let toc = Toc::parse(QUERY).expect("two tracks");
        assert_eq!(toc.tracks().len(), 2);
        assert_eq!(toc.tracks()[1].begin, 375);
        assert_eq!(toc.tracks()[1].duration(), Duration::from_secs(5));
        assert_eq!(toc.tracks()[1].bytes(), 882_000);
        assert_eq!(
            Toc::parse("004: Unable to read table of contents header\n"),
            None
        );
        let overlapping = QUERY.replace(
            "      375 [00:05.00]    no   no  2\nTOTAL",
            "      100 [00:01.25]    no   no  2\nTOTAL",
        );
        assert_eq!(Toc::parse(&overlapping), None);
    }

    #[test]
    fn the_disc_id_is_that_of_musicbrainz() {
        // The example of MusicBrainz's own description of the disc id: six tracks, lead-out at 95462.
        let begins = [150, 15363, 32314, 46592, 63414, 80489, 95462];
        let tracks = begins.windows(2).zip(1_u8..).map(|(pair, number)| Track {
            number,
            begin: pair[0] - LEAD_IN,
            sectors: pair[1] - pair[0],
        });
        let toc = Toc {
            tracks: tracks.collect(),
        };
        assert_eq!(toc.disc_id(), "49HHV7Eb8UKF3aQiNmu1GR8vKTY-");
    }

    #[test]
    fn names_come_from_cd_text() {
        let text = "Language 0 'English':\nCD-TEXT for Disc:\n\tTITLE: Songs\n\tPERFORMER: The Testers\n\
                    CD-TEXT for Track  2:\n\tTITLE: A: b\nLanguage 1 'German':\nCD-TEXT for Disc:\n\tTITLE: Lieder\n";
        let words = parse_cd_text(text);
        assert_eq!(words[&0].title.as_deref(), Some("Songs"));
        assert_eq!(words[&0].performer.as_deref(), Some("The Testers"));
        assert_eq!(words[&2].title.as_deref(), Some("A: b"));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), numbers in proptest::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 0..120)) {
            let _ = Toc::parse(&text);
            let _ = parse_cd_text(&text);
            let lines: Vec<String> = numbers.iter().map(|(n, a, b)| format!("{n}. {a} [x] {b} [x]")).collect();
            let table = lines.join("\n");
            if let Some(toc) = Toc::parse(&table) {
                prop_assert_eq!(toc.disc_id().len(), 28);
            }
        }
    }
}
