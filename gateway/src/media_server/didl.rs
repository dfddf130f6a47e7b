//! Writes DIDL-Lite (ContentDirectory:1 §2.8) straight into an answer, where it stands escaped: markup is written with
//! `&lt;` and `&gt;`, and a text is escaped twice.

use super::object::{Container, home_of};
use super::search::{ALBUM_CLASS, ARTIST_CLASS, class_of};
use crate::library::shelf::{Shelf, ShelfRow};
use crate::playback::{Passes, dlna_flags};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::Write as _;

/// Which properties a player asked for (ContentDirectory:1 §2.5.7). Required ones are always written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    res: bool,
    creator: bool,
    artist: bool,
    album: bool,
    track: bool,
    date: bool,
    picture: bool,
    child_count: bool,
    searchable: bool,
    size: bool,
    duration: bool,
    resolution: bool,
}

impl Filter {
    /// Reads a Filter argument.
    pub fn parse(text: &str) -> Self {
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        let all = names.contains(&"*");
        let has = |name: &str| all || names.contains(&name);
        let part = |name: &str| {
            all || names
                .iter()
                .any(|n| n.strip_prefix("res").unwrap_or(n) == name)
        };
        Self {
            res: all
                || names
                    .iter()
                    .any(|name| *name == "res" || name.starts_with("res@")),
            creator: has("dc:creator"),
            artist: has("upnp:artist"),
            album: has("upnp:album"),
            track: has("upnp:originalTrackNumber"),
            date: has("dc:date"),
            picture: has("upnp:albumArtURI"),
            child_count: has("@childCount") || has("container@childCount"),
            searchable: has("@searchable") || has("container@searchable"),
            size: part("@size"),
            duration: part("@duration"),
            resolution: part("@resolution"),
        }
    }
}

/// An answer being written.
pub struct Didl {
    /// What is written so far.
    pub out: String,
    /// Objects written.
    pub objects: u32,
    filter: Filter,
    passes: Passes,
    /// `http://<address>:<port>`.
    base: String,
    /// The container that is listed; none: titles stand under their own ids.
    within: Option<String>,
}

const OPEN: &str = "&lt;DIDL-Lite xmlns=\"urn:schemas-upnp-org:metadata-1-0/DIDL-Lite/\" \
    xmlns:dc=\"http://purl.org/dc/elements/1.1/\" xmlns:upnp=\"urn:schemas-upnp-org:metadata-1-0/upnp/\" \
    xmlns:dlna=\"urn:schemas-dlna-org:metadata-1-0/\"&gt;";

impl Didl {
    /// Goes on with an answer that is open up to here; titles are listed as children of `within`.
    pub fn new(
        out: String,
        filter: Filter,
        passes: Passes,
        base: String,
        within: Option<Container>,
    ) -> Self {
        let own = |container: &Container| matches!(container, Container::List(Shelf::Kind(_)));
        Self {
            out,
            objects: 0,
            filter,
            passes,
            base,
            within: within.filter(|c| !own(c)).map(|c| c.to_string()),
        }
    }

    /// Begins the listing.
    pub fn open(&mut self) {
        self.out.push_str(OPEN);
    }

    /// Ends the listing.
    pub fn close(&mut self) {
        self.out.push_str("&lt;/DIDL-Lite&gt;");
    }

    /// Writes a container; `by`: who an album is by.
    pub fn container(
        &mut self,
        container: Container,
        name: &str,
        by: Option<&str>,
        children: Option<u32>,
    ) {
        let parent = container
            .parent()
            .map_or_else(|| "-1".to_owned(), |parent| parent.to_string());
        let out = &mut self.out;
        write!(
            out,
            "&lt;container id=\"{container}\" parentID=\"{parent}\" restricted=\"1\""
        )
        .expect("a String takes all");
        if self.filter.searchable {
            out.push_str(" searchable=\"1\"");
        }
        if let (Some(count), true) = (children, self.filter.child_count) {
            write!(out, " childCount=\"{count}\"").expect("a String takes all");
        }
        out.push_str("&gt;&lt;dc:title&gt;");
        push_text(out, name);
        out.push_str("&lt;/dc:title&gt;&lt;upnp:class&gt;");
        out.push_str(match container {
            Container::List(Shelf::Artist(_)) => ARTIST_CLASS,
            Container::List(Shelf::Album(_)) => ALBUM_CLASS,
            _ => "object.container.storageFolder",
        });
        out.push_str("&lt;/upnp:class&gt;");
        if let Some(by) = by {
            if self.filter.artist {
                element(out, "upnp:artist", by);
            }
            if self.filter.creator {
                element(out, "dc:creator", by);
            }
        }
        out.push_str("&lt;/container&gt;");
        self.objects += 1;
    }

    /// Writes a title.
    pub fn item(&mut self, row: &ShelfRow<'_>) {
        let out = &mut self.out;
        out.push_str("&lt;item id=\"");
        if let Some(within) = &self.within {
            out.push_str(within);
            out.push('/');
        }
        write!(out, "i{}\" parentID=\"", row.slot).expect("a String takes all");
        match &self.within {
            Some(within) => {
                write!(out, "{within}\" refID=\"i{}", row.slot).expect("a String takes all");
            }
            None => write!(out, "{}", home_of(row.kind)).expect("a String takes all"),
        }
        out.push_str("\" restricted=\"1\"&gt;&lt;dc:title&gt;");
        push_text(out, row.name);
        out.push_str("&lt;/dc:title&gt;&lt;upnp:class&gt;");
        out.push_str(class_of(row.kind));
        out.push_str("&lt;/upnp:class&gt;");
        if let Some(artist) = row.artist {
            if self.filter.creator {
                element(out, "dc:creator", artist);
            }
            if self.filter.artist {
                element(out, "upnp:artist", artist);
            }
        }
        if let (Some(album), true) = (row.album, self.filter.album) {
            element(out, "upnp:album", album);
        }
        if let (Some(track), true) = (row.track, self.filter.track) {
            write!(
                out,
                "&lt;upnp:originalTrackNumber&gt;{track}&lt;/upnp:originalTrackNumber&gt;"
            )
            .expect("a String takes all");
        }
        if let (Some(ms), true) = (row.recorded_ms, self.filter.date) {
            push_date(out, ms);
        }
        if row.picture && self.filter.picture {
            // Thumbnails are at most 320 pixels wide and high: larger than JPEG_TN allows (DLNA media formats).
            out.push_str("&lt;upnp:albumArtURI dlna:profileID=\"JPEG_SM\"&gt;");
            out.push_str(&self.base);
            self.passes.picture(out, row.title);
            out.push_str("&lt;/upnp:albumArtURI&gt;");
        }
        if self.filter.res {
            self.resource(row);
        }
        self.out.push_str("&lt;/item&gt;");
        self.objects += 1;
    }

    fn resource(&mut self, row: &ShelfRow<'_>) {
        let out = &mut self.out;
        out.push_str("&lt;res protocolInfo=\"http-get:*:");
        push_text(out, row.mime);
        out.push(':');
        if let Some(profile) = profile(row) {
            out.push_str("DLNA.ORG_PN=");
            out.push_str(profile);
            out.push(';');
        }
        out.push_str("DLNA.ORG_OP=01;DLNA.ORG_CI=0;DLNA.ORG_FLAGS=");
        out.push_str(dlna_flags(row.kind));
        out.push('"');
        if self.filter.size {
            write!(out, " size=\"{}\"", row.bytes).expect("a String takes all");
        }
        if let (Some(ms), true) = (row.duration_ms, self.filter.duration) {
            let s = ms / 1000;
            write!(
                out,
                " duration=\"{}:{:02}:{:02}.{:03}\"",
                s / 3600,
                s / 60 % 60,
                s % 60,
                ms % 1000
            )
            .expect("a String takes all");
        }
        if let (Some((width, height)), true) = (row.pixels, self.filter.resolution) {
            write!(out, " resolution=\"{width}x{height}\"").expect("a String takes all");
        }
        out.push_str("&gt;");
        out.push_str(&self.base);
        self.passes.media(out, row.title, row.mime);
        out.push_str("&lt;/res&gt;");
    }
}

/// The DLNA media format profile, where what is known of the file is enough to name one.
fn profile(row: &ShelfRow<'_>) -> Option<&'static str> {
    let within = |edge: (u32, u32)| row.pixels.is_some_and(|(w, h)| w <= edge.0 && h <= edge.1);
    Some(match row.mime {
        "audio/mpeg" => "MP3",
        "image/jpeg" if within((640, 480)) => "JPEG_SM",
        "image/jpeg" if within((1024, 768)) => "JPEG_MED",
        "image/jpeg" if within((4096, 4096)) => "JPEG_LRG",
        "image/png" if within((4096, 4096)) => "PNG_LRG",
        _ => return None,
    })
}

fn push_date(out: &mut String, ms: i64) {
    let Ok(time) = Timestamp::from_millisecond(ms) else {
        return;
    };
    let at = time.to_zoned(TimeZone::UTC).datetime();
    write!(
        out,
        "&lt;dc:date&gt;{:04}-{:02}-{:02}T{:02}:{:02}:{:02}&lt;/dc:date&gt;",
        at.year(),
        at.month(),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
    .expect("a String takes all");
}

fn element(out: &mut String, name: &str, text: &str) {
    out.push_str("&lt;");
    out.push_str(name);
    out.push_str("&gt;");
    push_text(out, text);
    out.push_str("&lt;/");
    out.push_str(name);
    out.push_str("&gt;");
}

/// A text, escaped for DIDL-Lite and once more for the answer that it stands in. What XML 1.0 forbids is left out.
fn push_text(out: &mut String, text: &str) {
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escaped = match byte {
            b'&' => "&amp;amp;",
            b'<' => "&amp;lt;",
            b'>' => "&amp;gt;",
            b'"' => "&amp;quot;",
            0..=0x1f | 0x7f => "",
            // U+FFFE and U+FFFF.
            0xef if matches!(
                text.as_bytes().get(at + 1..at + 3),
                Some([0xbf, 0xbe | 0xbf])
            ) =>
            {
                out.push_str(&text[from..at]);
                from = at + 3;
                continue;
            }
            _ => continue,
        };
        out.push_str(&text[from..at]);
        out.push_str(escaped);
        from = at + 1;
    }
    out.push_str(&text[from..]);
}

/// A month's name: `November 2026`.
pub fn month_name(month: u32) -> String {
    const NAMES: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let name = (month % 100)
        .checked_sub(1)
        .and_then(|index| NAMES.get(index as usize));
    match name {
        Some(name) => format!("{name} {}", month / 100),
        None => "Date not known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_peripherals::xml;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_comes_back_from_the_second_reading(text in "[ -~äß€\u{1f600}\u{0}\u{7}\u{fffe}]{0,60}") {
            let mut out = String::new();
            push_text(&mut out, &text);
            let first = format!("<r>{out}</r>");
            let first = xml::parse(&first).expect("well-formed");
            let inner = format!("<d a=\"{0}\">{0}</d>", first.root_element().text().unwrap_or_default());
            let second = xml::parse(&inner).expect("well-formed");
            let kept: String = text.chars().filter(|c| !c.is_control() && *c != '\u{fffe}').collect();
            prop_assert_eq!(second.root_element().text().unwrap_or_default(), kept.as_str());
        }
    }

    #[test]
    fn months_have_names() {
        assert_eq!(month_name(202_611), "November 2026");
        assert_eq!(month_name(0), "Date not known");
        assert_eq!(month_name(202_613), "Date not known");
    }

    #[test]
    fn a_filter_asks_for_what_it_names() {
        let filter = Filter::parse("dc:title,res,res@size,upnp:album");
        assert!(filter.res && filter.size && filter.album);
        assert!(!filter.artist && !filter.duration && !filter.picture);
        let all = Filter::parse("*");
        assert!(all.res && all.duration && all.picture && all.child_count);
        assert!(!Filter::parse("").res);
        proptest::proptest!(|(text: String)| {
            assert_eq!(Filter::parse(&text).res, Filter::parse(&format!(" , {text} ,")).res);
        });
    }
}
