//! DIDL-Lite, the listing format of ContentDirectory and the metadata of SetAVTransportURI; pure
//! (UPnP ContentDirectory:1 §2.8.1, DLNA guidelines 7.3.37 for the flags).

use std::fmt::Write as _;
use std::net::IpAddr;

use roxmltree::Node;

use super::wire::{format_time, mime_of_protocol_info, parse_time};
use crate::device::clean_label;
use crate::media::{
    Container, Entry, Item, Location, MAX_PAGE, MediaKind, ObjectId, PlayRequest, Resource,
};
use crate::url::DeviceUrl;
use crate::xml::{self, XmlError, child_text, escape};

/// Longest title, artist or album kept, in characters.
pub const MAX_TITLE_CHARS: usize = 300;
/// Most resources kept of one item.
pub const MAX_RESOURCES: usize = 32;
/// Longest protocolInfo kept, in bytes.
pub const MAX_PROTOCOL_INFO_BYTES: usize = 512;

/// A parsed listing.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Listing {
    /// What could be read, at most [`MAX_PAGE`].
    pub entries: Vec<Entry>,
    /// Entries and resources left out: unreadable, or pointing off the device at the listing's address.
    pub refused: u32,
}

/// Reads the DIDL-Lite text of a device at `owner`. Resources elsewhere are left out and counted.
pub fn parse_listing(text: &str, owner: IpAddr) -> Result<Listing, XmlError> {
    let document = xml::parse(text)?;
    let mut listing = Listing::default();
    for node in document.root_element().children().filter(Node::is_element) {
        if listing.entries.len() >= MAX_PAGE as usize {
            listing.refused += 1;
            continue;
        }
        let entry = match node.tag_name().name() {
            "container" => container(node).map(Entry::Container),
            "item" => item(node, owner, &mut listing.refused).map(Entry::Item),
            _ => continue,
        };
        match entry {
            Some(entry) => listing.entries.push(entry),
            None => listing.refused += 1,
        }
    }
    Ok(listing)
}

fn title(node: Node<'_, '_>) -> String {
    text_of(node, "title").unwrap_or_else(|| "Untitled".to_owned())
}

fn text_of(node: Node<'_, '_>, name: &str) -> Option<String> {
    child_text(node, name).and_then(|text| clean_label(text, MAX_TITLE_CHARS))
}

fn container(node: Node<'_, '_>) -> Option<Container> {
    Some(Container {
        id: ObjectId::new(node.attribute("id")?)?,
        title: title(node),
        child_count: node
            .attribute("childCount")
            .and_then(|count| count.parse().ok()),
    })
}

fn item(node: Node<'_, '_>, owner: IpAddr, refused: &mut u32) -> Option<Item> {
    let id = ObjectId::new(node.attribute("id")?)?;
    let class = text_of(node, "class").unwrap_or_default();
    let mut resources = Vec::new();
    for res in node
        .children()
        .filter(|n| n.is_element() && n.tag_name().name() == "res")
    {
        match resource(res, owner) {
            Some(resource) if resources.len() < MAX_RESOURCES => resources.push(resource),
            _ => *refused += 1,
        }
    }
    Some(Item {
        kind: kind(&class, resources.first()),
        id,
        original_id: node.attribute("refID").and_then(ObjectId::new),
        title: title(node),
        date: child_text(node, "date").and_then(parse_date),
        artist: text_of(node, "artist").or_else(|| text_of(node, "creator")),
        album: text_of(node, "album"),
        class,
        resources,
    })
}

/// By class where it says enough, else by the MIME type of the first resource.
fn kind(class: &str, first: Option<&Resource>) -> MediaKind {
    for (prefix, kind) in [
        ("object.item.audioItem", MediaKind::Audio),
        ("object.item.imageItem", MediaKind::Image),
        ("object.item.videoItem", MediaKind::Video),
    ] {
        if class.starts_with(prefix) {
            return kind;
        }
    }
    first.map_or(MediaKind::Data, |resource| {
        MediaKind::of_mime(&resource.mime)
    })
}

fn resource(node: Node<'_, '_>, owner: IpAddr) -> Option<Resource> {
    let protocol_info = node.attribute("protocolInfo")?;
    if protocol_info.len() > MAX_PROTOCOL_INFO_BYTES {
        return None;
    }
    Some(Resource {
        location: Location::Url(DeviceUrl::parse(node.text()?, owner).ok()?),
        mime: mime_of_protocol_info(protocol_info)?,
        protocol_info: protocol_info.to_owned(),
        size_bytes: node.attribute("size").and_then(|size| size.parse().ok()),
        duration: node
            .attribute("duration")
            .and_then(parse_time)
            .filter(|time| !time.is_zero()),
        resolution: node.attribute("resolution").and_then(parse_resolution),
        converted: protocol_info.contains("DLNA.ORG_CI=1"),
    })
}

fn parse_resolution(text: &str) -> Option<(u32, u32)> {
    let (width, height) = text.trim().split_once('x')?;
    let (width, height) = (width.parse().ok()?, height.parse().ok()?);
    (width > 0 && height > 0).then_some((width, height))
}

/// `2026-11-21`, `2026-11-21T02:53:05`, either with a zone after it, which is dropped: a camera writes local time.
fn parse_date(text: &str) -> Option<jiff::civil::DateTime> {
    if let Some(date_time) = text.get(..19).and_then(|head| head.parse().ok()) {
        return Some(date_time);
    }
    let date: jiff::civil::Date = text.get(..10)?.parse().ok()?;
    Some(date.to_datetime(jiff::civil::Time::midnight()))
}

/// The DIDL-Lite text that tells a renderer what it is going to play.
pub fn describe_for_renderer(what: &PlayRequest) -> String {
    let class = match what.kind {
        MediaKind::Audio => "object.item.audioItem.musicTrack",
        MediaKind::Image => "object.item.imageItem.photo",
        MediaKind::Video => "object.item.videoItem",
        MediaKind::Data => "object.item",
    };
    // OP=01: byte ranges; CI=0: not converted; FLAGS: streaming or interactive, connection may stall, DLNA 1.5.
    let flags = match what.kind {
        MediaKind::Image => "00F00000000000000000000000000000",
        MediaKind::Audio | MediaKind::Video | MediaKind::Data => "01700000000000000000000000000000",
    };
    let mut res = String::new();
    if let Some(size) = what.size_bytes {
        write!(res, " size=\"{size}\"").expect("a String takes all");
    }
    if let Some(duration) = what.duration {
        write!(res, " duration=\"{}\"", format_time(duration)).expect("a String takes all");
    }
    format!(
        "<DIDL-Lite xmlns=\"urn:schemas-upnp-org:metadata-1-0/DIDL-Lite/\" \
         xmlns:dc=\"http://purl.org/dc/elements/1.1/\" \
         xmlns:upnp=\"urn:schemas-upnp-org:metadata-1-0/upnp/\">\
         <item id=\"1\" parentID=\"0\" restricted=\"1\"><dc:title>{title}</dc:title>\
         <upnp:class>{class}</upnp:class>\
         <res protocolInfo=\"http-get:*:{mime}:DLNA.ORG_OP=01;DLNA.ORG_CI=0;DLNA.ORG_FLAGS={flags}\"{res}>{url}</res>\
         </item></DIDL-Lite>",
        title = escape(&what.title),
        mime = escape(&what.mime),
        url = escape(&what.url),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upnp::wire::{SoapAnswer, parse_soap_answer};
    use proptest::prelude::*;
    use std::time::Duration;

    fn owner() -> IpAddr {
        "10.78.0.10".parse().expect("an address")
    }

    fn real(bytes: &[u8]) -> Listing {
        let Ok(SoapAnswer::Done(arguments)) = parse_soap_answer(bytes, "Browse") else {
            panic!("a real answer");
        };
        parse_listing(&arguments[0].1, owner()).expect("a real listing")
    }

    #[test]
    fn the_root_of_minidlna_holds_four_containers() {
        let listing = real(include_bytes!("../../testdata/minidlna-browse-root.xml"));
        let titles: Vec<_> = listing
            .entries
            .iter()
            .map(|entry| match entry {
                Entry::Container(container) => (container.id.as_str(), container.title.as_str()),
                Entry::Item(item) => panic!("no item: {item:?}"),
            })
            .collect();
        assert_eq!(
            titles,
            [
                ("64", "Browse Folders"),
                ("1", "Music"),
                ("3", "Pictures"),
                ("2", "Video")
            ]
        );
    }

    #[test]
    fn film_photo_and_song_of_minidlna_are_read() {
        let listing = real(include_bytes!("../../testdata/minidlna-browse-folder.xml"));
        assert_eq!(listing.refused, 0);
        let items: Vec<&Item> = listing
            .entries
            .iter()
            .map(|entry| match entry {
                Entry::Item(item) => item,
                Entry::Container(container) => panic!("no container: {container:?}"),
            })
            .collect();
        let [film, photo, song] = items[..] else {
            panic!("three items")
        };
        assert_eq!(
            (film.title.as_str(), film.kind),
            ("holiday", MediaKind::Video)
        );
        assert_eq!(
            film.date.map(|d| d.to_string()).as_deref(),
            Some("2026-11-21T02:53:05")
        );
        let original = film.original().expect("it has one");
        assert_eq!(
            (original.mime.as_str(), original.size_bytes),
            ("video/mp4", Some(4_518_473))
        );
        assert_eq!(original.duration, Some(Duration::from_mins(1)));
        assert_eq!(original.resolution, Some((320, 240)));
        assert_eq!(photo.kind, MediaKind::Image);
        assert_eq!(photo.resources.len(), 2);
        assert!(
            photo
                .original()
                .is_some_and(|r| !r.converted && r.size_bytes == Some(21_739))
        );
        assert_eq!(
            (song.title.as_str(), song.kind),
            ("Träumerei & Co", MediaKind::Audio)
        );
        assert_eq!(
            (song.artist.as_deref(), song.album.as_deref()),
            (Some("Trio <Test>"), Some("Album"))
        );
    }

    #[test]
    fn resources_elsewhere_and_nameless_entries_are_left_out() {
        let text = "<DIDL-Lite><item id='1'><dc:title xmlns:dc='x'>t</dc:title>\
            <res protocolInfo='http-get:*:video/mp4:*'>http://127.0.0.1/admin</res>\
            <res protocolInfo='http-get:*:video/mp4:*'>http://10.78.0.10/ok</res>\
            <res protocolInfo='rtsp-rtp-udp:*:video/mp4:*'>rtsp://10.78.0.10/no</res></item>\
            <item id=''/><container/><desc/></DIDL-Lite>";
        let listing = parse_listing(text, owner()).expect("readable");
        assert_eq!(listing.refused, 4);
        let [Entry::Item(item)] = &listing.entries[..] else {
            panic!("one item")
        };
        assert_eq!(item.resources.len(), 1);
        assert_eq!(
            item.kind,
            MediaKind::Video,
            "by MIME type, as it has no class"
        );
    }

    #[test]
    fn a_page_beyond_the_limit_is_cut() {
        let text = format!(
            "<D>{}</D>",
            "<container id='1'/>".repeat(MAX_PAGE as usize + 5)
        );
        let listing = parse_listing(&text, owner()).expect("readable");
        assert_eq!(
            (listing.entries.len(), listing.refused),
            (MAX_PAGE as usize, 5)
        );
    }

    #[test]
    fn what_a_renderer_is_told_can_be_read_back() {
        let what = PlayRequest {
            url: "http://10.78.0.10/play?a=1&b=2".to_owned(),
            title: "Bach & <Söhne>".to_owned(),
            kind: MediaKind::Video,
            mime: "video/mp4".to_owned(),
            size_bytes: Some(7),
            duration: Some(Duration::from_secs(61)),
        };
        let listing = parse_listing(&describe_for_renderer(&what), owner()).expect("readable");
        let [Entry::Item(item)] = &listing.entries[..] else {
            panic!("one item")
        };
        assert_eq!(
            (item.title.as_str(), item.kind),
            (what.title.as_str(), what.kind)
        );
        let url = DeviceUrl::parse("http://10.78.0.10/play?a=1&b=2", owner()).expect("its own");
        assert_eq!(item.resources[0].location, Location::Url(url));
        assert_eq!(item.resources[0].duration, what.duration);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), date in any::<String>()) {
            let _ = parse_listing(&text, owner());
            let _ = parse_date(&date);
            let _ = parse_resolution(&date);
        }

        #[test]
        fn any_attribute_value_is_survived(value in "[^<&'\u{0}-\u{1f}\u{7f}-\u{9f}]{0,80}") {
            let text = format!(
                "<D><item id='{value}' refID='{value}'><date>{value}</date><res protocolInfo='{value}' \
                 size='{value}' duration='{value}' resolution='{value}'>{value}</res></item></D>"
            );
            let _ = parse_listing(&text, owner());
        }
    }
}
