//! GENA on the wire, pure: subscriptions granted, notifications, sequence numbers (UPnP Device Architecture 2.0 §4),
//! LastChange (AVTransport:1 §2.3.1) and ContainerUpdateIDs (ContentDirectory:1 §2.5.21).

use std::collections::BTreeSet;
use std::time::Duration;

use roxmltree::Node;

use crate::changes::{MAX_CONTAINERS, MediaChange};
use crate::media::ObjectId;
use crate::upnp::wire::DescriptionError;
use crate::xml::{self, child};

/// Longest subscription name kept, in bytes.
pub const MAX_SID_BYTES: usize = 200;
/// Most state variables read of one notification.
pub const MAX_PROPERTIES: usize = 64;
/// Shortest and longest life of a subscription taken at its word, in seconds.
pub const LIFE_SECONDS: (u64, u64) = (20, 1800);
/// The life that is asked for, in seconds.
pub const WANTED_SECONDS: u64 = 300;

/// What a device granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The name of the subscription.
    pub sid: String,
    /// How long it lives unless renewed.
    pub life: Duration,
}

/// Reads the headers SID and TIMEOUT of an answer to SUBSCRIBE (§4.1.2). A TIMEOUT that cannot be read counts as what
/// was asked for. `None`: no usable name.
pub fn parse_granted(sid: Option<&str>, life: Option<&str>) -> Option<Granted> {
    let sid = sid?.trim();
    let sound =
        !sid.is_empty() && sid.len() <= MAX_SID_BYTES && sid.bytes().all(|b| b.is_ascii_graphic());
    let seconds = match life.map(str::trim) {
        Some(text) if text.eq_ignore_ascii_case("infinite") => LIFE_SECONDS.1,
        Some(text) => text
            .split_at_checked(7)
            .filter(|(head, _)| head.eq_ignore_ascii_case("second-"))
            .map_or(WANTED_SECONDS, |(_, tail)| {
                if tail.eq_ignore_ascii_case("infinite") {
                    LIFE_SECONDS.1
                } else {
                    tail.parse().unwrap_or(WANTED_SECONDS)
                }
            }),
        None => WANTED_SECONDS,
    };
    sound.then(|| Granted {
        sid: sid.to_owned(),
        life: Duration::from_secs(seconds.clamp(LIFE_SECONDS.0, LIFE_SECONDS.1)),
    })
}

/// What a sequence number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The first notification: all variables as they are.
    Initial,
    /// The next one.
    Next,
    /// One that was heard before.
    Again,
    /// Some before it were lost: subscribe anew (§4.3.1).
    Gap,
}

/// The sequence numbers of one subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence(Option<u32>);

impl Sequence {
    /// Takes in a number. After 4,294,967,295 comes 1 (§4.3.1).
    pub fn hear(&mut self, number: u32) -> Heard {
        let Some(last) = self.0 else {
            // Some devices begin to count at 1.
            if number <= 1 {
                self.0 = Some(number);
                return Heard::Initial;
            }
            return Heard::Gap;
        };
        let next = last.checked_add(1).unwrap_or(1);
        if number == next {
            self.0 = Some(number);
            Heard::Next
        } else if number <= last {
            Heard::Again
        } else {
            Heard::Gap
        }
    }
}

/// Reads the body of a NOTIFY: state variables with their values, at most [`MAX_PROPERTIES`].
pub fn parse_properties(bytes: &[u8]) -> Result<Vec<(String, String)>, DescriptionError> {
    let text = xml::decode(bytes);
    let document = xml::parse(&text)?;
    let root = document.root_element();
    if root.tag_name().name() != "propertyset" {
        return Err(DescriptionError::Missing("property set"));
    }
    let properties = root
        .children()
        .filter(|n| n.tag_name().name() == "property");
    Ok(properties
        .flat_map(|property| property.children().filter(Node::is_element))
        .take(MAX_PROPERTIES)
        .map(|node| {
            let value = node
                .children()
                .filter_map(|part| part.text().filter(|_| part.is_text()))
                .collect();
            (node.tag_name().name().to_owned(), value)
        })
        .collect())
}

/// The variables of instance 0 that a LastChange names, at most [`MAX_PROPERTIES`].
pub fn parse_last_change(text: &str) -> Result<Vec<(String, String)>, DescriptionError> {
    let document = xml::parse(text)?;
    let root = document.root_element();
    let Some(instance) = child(root, "InstanceID").filter(|n| n.attribute("val") == Some("0"))
    else {
        return Ok(Vec::new());
    };
    Ok(instance
        .children()
        .filter(Node::is_element)
        .take(MAX_PROPERTIES)
        .map(|node| {
            let value = node.attribute("val").unwrap_or_default();
            (node.tag_name().name().to_owned(), value.to_owned())
        })
        .collect())
}

/// Reads ContainerUpdateIDs, `id,number,id,number…` with `\,` for a comma in an id. Empty: nothing is said.
pub fn parse_container_updates(text: &str) -> Option<MediaChange> {
    let mut fields = vec![String::new()];
    let mut letters = text.trim().chars();
    while let Some(letter) = letters.next() {
        if letter == ',' {
            if fields.len() > 2 * MAX_CONTAINERS {
                return Some(MediaChange::Anything);
            }
            fields.push(String::new());
        } else if let Some(field) = fields.last_mut() {
            let escaped = if letter == '\\' {
                letters.next()
            } else {
                Some(letter)
            };
            field.extend(escaped);
        }
    }
    if fields.len() == 1 && fields[0].is_empty() {
        return None;
    }
    let mut ids = BTreeSet::new();
    for pair in fields.chunks(2) {
        let [id, number] = pair else {
            return Some(MediaChange::Anything);
        };
        match ObjectId::new(id) {
            Some(id) if number.trim().parse::<u32>().is_ok() => ids.insert(id),
            _ => return Some(MediaChange::Anything),
        };
    }
    Some(MediaChange::Inside(ids))
}

/// Runs every parser of this module; the entry for fuzzing.
pub fn parse_any(bytes: &[u8]) {
    for (_, value) in parse_properties(bytes).unwrap_or_default() {
        let _ = parse_last_change(&value);
        let _ = parse_container_updates(&value);
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = parse_granted(Some(&text), Some(&text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn grants_are_read_as_devices_write_them() {
        for (life, seconds) in [
            (Some("Second-300"), 300),
            (Some("second-90"), 90),
            (Some("Second-infinite"), 1800),
            (Some("infinite"), 1800),
            (Some("Second-1"), 20),
            (Some("Second-"), 300),
            (Some("ü"), 300),
            (None, 300),
        ] {
            let granted = parse_granted(Some(" uuid:7 "), life).expect("a name");
            assert_eq!(
                (granted.sid.as_str(), granted.life.as_secs()),
                ("uuid:7", seconds),
                "{life:?}"
            );
        }
        for sid in [None, Some(""), Some("a b"), Some(&"x".repeat(201) as &str)] {
            assert_eq!(parse_granted(sid, None), None, "{sid:?}");
        }
    }

    #[test]
    fn sequence_numbers_tell_gaps_and_repeats() {
        let mut sequence = Sequence::default();
        for (number, heard) in [
            (0, Heard::Initial),
            (1, Heard::Next),
            (1, Heard::Again),
            (2, Heard::Next),
            (4, Heard::Gap),
        ] {
            assert_eq!(sequence.hear(number), heard, "{number}");
        }
        let mut old = Sequence(Some(u32::MAX));
        assert_eq!(old.hear(1), Heard::Next, "§4.3.1: it wraps to 1");
        assert_eq!(Sequence::default().hear(7), Heard::Gap);
    }

    #[test]
    fn container_updates_are_split_at_bare_commas() {
        let inside = |ids: &[&str]| {
            Some(MediaChange::Inside(
                ids.iter().filter_map(|id| ObjectId::new(id)).collect(),
            ))
        };
        assert_eq!(parse_container_updates(""), None);
        assert_eq!(parse_container_updates("64$0,7"), inside(&["64$0"]));
        assert_eq!(
            parse_container_updates(r"a\,b,1,c\\d,2"),
            inside(&["a,b", r"c\d"])
        );
        for odd in ["64", "64,x", "1,2,3", ",1"] {
            assert_eq!(
                parse_container_updates(odd),
                Some(MediaChange::Anything),
                "{odd}"
            );
        }
        let many = vec!["1,2"; 10_000].join(",");
        assert_eq!(parse_container_updates(&many), Some(MediaChange::Anything));
    }

    #[test]
    fn a_last_change_of_instance_0_is_read() {
        let body = "<e:propertyset xmlns:e='urn:schemas-upnp-org:event-1-0'><e:property><LastChange>\
            &lt;Event xmlns=&quot;urn:schemas-upnp-org:metadata-1-0/RCS/&quot;&gt;&lt;InstanceID val=&quot;0&quot;&gt;\
            &lt;Volume channel=&quot;Master&quot; val=&quot;31&quot;/&gt;&lt;/InstanceID&gt;&lt;/Event&gt;\
            </LastChange></e:property></e:propertyset>";
        let properties = parse_properties(body.as_bytes()).expect("readable");
        assert_eq!(properties[0].0, "LastChange");
        assert_eq!(
            parse_last_change(&properties[0].1).expect("readable"),
            [("Volume".to_owned(), "31".to_owned())]
        );
        assert_eq!(
            parse_last_change("<Event><InstanceID val='3'><Volume val='1'/></InstanceID></Event>"),
            Ok(Vec::new())
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse_any(&bytes);
        }

        #[test]
        fn arbitrary_updates_never_panic(text in r"[0-9a,\\]{0,60}") {
            let _ = parse_container_updates(&text);
        }
    }
}
