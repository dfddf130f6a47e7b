//! Deviations of real devices, one row each, with the capture that shows it.

use crate::media::ObjectId;

/// How a device is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The start of its UDN.
    UdnPrefix(&'static str),
    /// The start of its model.
    Model(&'static str),
}

/// How a device departs from the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deviation {
    /// All copies of this program share one UDN: the device's address becomes part of its key.
    SharedUdn,
    /// It plays this MIME type although it does not say so.
    AlsoPlays(&'static str),
    /// It lists each file several times under ids and addresses of their own; in this container once.
    AllIn(&'static str),
}

/// One deviation.
#[derive(Clone, Copy, Debug)]
pub struct Quirk {
    /// What the device is recognised by.
    pub sign: Sign,
    /// What it does.
    pub deviation: Deviation,
    /// File in `testdata/` that shows it.
    pub capture: &'static str,
}

/// All known deviations.
pub const QUIRKS: &[Quirk] = &[
    // UPnP Device Architecture 2.0 §1.1.4 wants a UDN that is unique to each instance; gmediarender without `--uuid`
    // ships a constant, so that two TVs in one home would be taken for one that moves to and fro.
    Quirk {
        sign: Sign::UdnPrefix("uuid:GMediaRender-1_0-000-000-"),
        deviation: Deviation::SharedUdn,
        capture: "gmediarender-description.xml",
    },
    // It lists what GStreamer's elements call their formats, where MP4 goes by video/quicktime; it plays MP4.
    Quirk {
        sign: Sign::Model("gmediarender"),
        deviation: Deviation::AlsoPlays("video/mp4"),
        capture: "gmediarender-protocol-info.xml",
    },
    // Audio, Photos and Video list again what is in PC Directory, without the refID of ContentDirectory:1 §2.8.4.
    Quirk {
        sign: Sign::Model("gerbera"),
        deviation: Deviation::AllIn("1"),
        capture: "gerbera-browse-root.xml",
    },
];

/// Whether devices with this UDN share it.
pub fn shares_udn(udn: &str) -> bool {
    QUIRKS
        .iter()
        .any(|quirk| match (quirk.sign, quirk.deviation) {
            (Sign::UdnPrefix(prefix), Deviation::SharedUdn) => udn.starts_with(prefix),
            _ => false,
        })
}

/// MIME types that a renderer of this model plays beyond those that it lists.
pub fn also_plays(model: &str) -> impl Iterator<Item = &'static str> {
    QUIRKS
        .iter()
        .filter_map(move |quirk| match (quirk.sign, quirk.deviation) {
            (Sign::Model(start), Deviation::AlsoPlays(mime)) if model.starts_with(start) => {
                Some(mime)
            }
            _ => None,
        })
}

/// The container in which a media server of this model lists everything once, where that is not its root.
pub fn all_in(model: &str) -> Option<ObjectId> {
    QUIRKS
        .iter()
        .find_map(|quirk| match (quirk.sign, quirk.deviation) {
            (Sign::Model(start), Deviation::AllIn(id)) if model.starts_with(start) => {
                ObjectId::new(id)
            }
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_a_capture_that_shows_it() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        for quirk in QUIRKS {
            let text =
                std::fs::read_to_string(folder.join(quirk.capture)).expect("the capture exists");
            match (quirk.sign, quirk.deviation) {
                (Sign::UdnPrefix(sign), Deviation::SharedUdn) => assert!(text.contains(sign)),
                (Sign::Model(_), Deviation::AlsoPlays(mime)) => {
                    assert!(text.contains("http-get:") && !text.contains(&format!(":{mime}:")));
                }
                (Sign::Model(_), Deviation::AllIn(id)) => {
                    let container = format!("id=&quot;{id}&quot; parentID=&quot;0&quot;");
                    assert!(text.contains(&container) && !text.contains("refID"));
                }
                other => panic!("no rule for {other:?}"),
            }
        }
        assert!(shares_udn("uuid:GMediaRender-1_0-000-000-002"));
        assert!(!shares_udn("uuid:4d696e69-444c-164e-9d41-02780000000a"));
        assert_eq!(
            also_plays("gmediarender 0.1").collect::<Vec<_>>(),
            ["video/mp4"]
        );
        assert_eq!(also_plays("Other").count(), 0);
        assert_eq!(all_in("gerbera 1.1.0"), ObjectId::new("1"));
        assert_eq!(all_in("Other"), None);
    }
}
