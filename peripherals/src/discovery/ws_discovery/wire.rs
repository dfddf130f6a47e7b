//! WS-Discovery envelopes, bytes to types and back, pure (OASIS WS-DD 1.1 §4 to §6; ONVIF Core Specification §7.3).

use crate::device::{MAX_LABEL_CHARS, MacAddress, clean_label};
use crate::url::{DeviceUrl, Speaker, UrlRefused};
use crate::xml::{self, XmlError, child, child_text};

/// Largest envelope read, in bytes.
pub const MAX_ENVELOPE: usize = 16 * 1024;
/// Longest name of an endpoint, in bytes.
pub const MAX_ENDPOINT_BYTES: usize = 128;
/// Most types, scopes or addresses looked at of one target.
pub const MAX_LIST: usize = 64;

/// The type of a network camera (ONVIF Core Specification §7.3.2.1), without prefix.
pub const CAMERA: &str = "NetworkVideoTransmitter";
/// Other ONVIF types: displays, recorders, analysers, and the plain device.
const ONVIF_TYPES: [&str; 5] = [
    CAMERA,
    "NetworkVideoDisplay",
    "NetworkVideoStorage",
    "NetworkVideoAnalytics",
    "Device",
];
/// What Windows and its like call themselves (Devices Profile publication).
const COMPUTER: &str = "Computer";
const ONVIF_NAMESPACE: &str = "http://www.onvif.org/ver10/network/wsdl";
/// Scopes that ONVIF defines (ONVIF Core Specification §7.3.2.2).
const ONVIF_SCOPE: &str = "onvif://www.onvif.org/";

/// Which text of the specification is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The draft of April 2005.
    Draft2005,
    /// OASIS WS-DD 1.1.
    Oasis11,
}

impl Version {
    const ALL: [Self; 2] = [Self::Draft2005, Self::Oasis11];

    fn namespace(self) -> &'static str {
        match self {
            Self::Draft2005 => "http://schemas.xmlsoap.org/ws/2005/04/discovery",
            Self::Oasis11 => "http://docs.oasis-open.org/ws-dd/ns/discovery/2009/01",
        }
    }

    fn addressing(self) -> &'static str {
        match self {
            Self::Draft2005 => "http://schemas.xmlsoap.org/ws/2004/08/addressing",
            Self::Oasis11 => "http://www.w3.org/2005/08/addressing",
        }
    }

    fn anonymous(self) -> &'static str {
        match self {
            Self::Draft2005 => "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous",
            Self::Oasis11 => "http://www.w3.org/2005/08/addressing/anonymous",
        }
    }

    fn everybody(self) -> &'static str {
        match self {
            Self::Draft2005 => "urn:schemas-xmlsoap-org:ws:2005:04:discovery",
            Self::Oasis11 => "urn:docs-oasis-open-org:ws-dd:ns:discovery:2009:01",
        }
    }
}

/// What a device says about itself in its scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    /// Name for people.
    pub name: Option<String>,
    /// Model.
    pub hardware: Option<String>,
    /// Where it hangs.
    pub location: Option<String>,
    /// Maker.
    pub maker: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Hardware address.
    pub mac: Option<MacAddress>,
    /// Whether one of them is ONVIF's.
    pub onvif: bool,
}

/// A device that says that it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its stable name, as it writes it: usually `urn:uuid:…`.
    pub endpoint: String,
    /// Its types without their prefixes.
    pub types: Vec<String>,
    /// Its scopes.
    pub scopes: Scopes,
    /// Its service addresses as it writes them, unjudged.
    pub addresses: Vec<String>,
}

impl Target {
    /// The endpoint without its `urn:uuid:`, in lower case.
    pub fn uuid(&self) -> String {
        let lower = self.endpoint.to_ascii_lowercase();
        let plain = lower.strip_prefix("urn:").unwrap_or(&lower);
        plain.strip_prefix("uuid:").unwrap_or(plain).to_owned()
    }

    /// Whether it is a network camera.
    pub fn is_camera(&self) -> bool {
        self.types.iter().any(|kind| kind == CAMERA) || (self.types.is_empty() && self.scopes.onvif)
    }

    /// Whether it is a computer that says no more than that.
    pub fn is_computer(&self) -> bool {
        !self.scopes.onvif && self.types.iter().any(|kind| kind == COMPUTER)
    }

    /// Whether it is of a kind that a household's media come from or go to.
    pub fn is_media(&self) -> bool {
        let known = |kind: &String| ONVIF_TYPES.contains(&kind.as_str());
        // "Device" alone is also what printers say.
        let onvif = self
            .types
            .iter()
            .any(|kind| known(kind) && kind != "Device");
        onvif || self.scopes.onvif
    }

    /// Its service addresses, each on `speaker` or refused.
    pub fn urls(&self, speaker: Speaker) -> Vec<Result<DeviceUrl, UrlRefused>> {
        self.addresses
            .iter()
            .map(|text| DeviceUrl::parse_on(text, speaker))
            .collect()
    }
}

/// An envelope of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Hello, or an answer to Probe or Resolve.
    Here(Target, Version),
    /// Bye, with the endpoint.
    Bye(String),
}

/// Why an envelope means nothing to us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotForUs {
    /// Larger than [`MAX_ENVELOPE`].
    #[error("the envelope is larger than {MAX_ENVELOPE} bytes")]
    TooLarge,
    /// Not XML within the limits.
    #[error("the envelope cannot be read")]
    Xml(#[from] XmlError),
    /// Not WS-Discovery, or a question of somebody else.
    #[error("not an announcement")]
    Other,
    /// An announcement without a usable endpoint.
    #[error("an announcement without an endpoint")]
    Nameless,
}

/// Whether this is a Probe or a Resolve of somebody else, by its text alone.
pub fn is_question(bytes: &[u8]) -> bool {
    let says = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    bytes.len() <= MAX_ENVELOPE
        && [
            &b"/discovery/Probe<"[..],
            b"/discovery/Resolve<",
            b"/discovery/2009/01/Probe<",
            b"/discovery/2009/01/Resolve<",
        ]
        .into_iter()
        .any(says)
}

/// Reads one datagram.
pub fn parse(bytes: &[u8]) -> Result<Message, NotForUs> {
    if bytes.len() > MAX_ENVELOPE {
        return Err(NotForUs::TooLarge);
    }
    let text = xml::decode(bytes);
    let document = xml::parse(&text)?;
    let body = child(document.root_element(), "Body").ok_or(NotForUs::Other)?;
    let message = body
        .children()
        .find(roxmltree::Node::is_element)
        .ok_or(NotForUs::Other)?;
    let version = Version::ALL
        .into_iter()
        .find(|version| message.tag_name().namespace() == Some(version.namespace()))
        .ok_or(NotForUs::Other)?;
    match message.tag_name().name() {
        "Hello" => Ok(Message::Here(target(message)?, version)),
        "Bye" => Ok(Message::Bye(endpoint(message)?)),
        matches @ ("ProbeMatches" | "ResolveMatches") => {
            // A device answers for itself: one match. Proxies, which answer for others, are not believed.
            let one = matches.trim_end_matches("es");
            let found = child(message, one).ok_or(NotForUs::Other)?;
            Ok(Message::Here(target(found)?, version))
        }
        _ => Err(NotForUs::Other),
    }
}

fn endpoint(node: roxmltree::Node<'_, '_>) -> Result<String, NotForUs> {
    child(node, "EndpointReference")
        .and_then(|reference| child_text(reference, "Address"))
        .filter(|text| {
            text.len() <= MAX_ENDPOINT_BYTES && text.bytes().all(|b| b.is_ascii_graphic())
        })
        .map(str::to_owned)
        .ok_or(NotForUs::Nameless)
}

fn target(node: roxmltree::Node<'_, '_>) -> Result<Target, NotForUs> {
    let list = |name| {
        child_text(node, name)
            .unwrap_or_default()
            .split_ascii_whitespace()
            .take(MAX_LIST)
    };
    let types = list("Types").map(|name| name.rsplit(':').next().unwrap_or(name).to_owned());
    Ok(Target {
        endpoint: endpoint(node)?,
        types: types.collect(),
        scopes: scopes(list("Scopes")),
        addresses: list("XAddrs").map(str::to_owned).collect(),
    })
}

/// `onvif://www.onvif.org/name/Front%20door` and its like; makers write the words in any case.
fn scopes<'a>(list: impl Iterator<Item = &'a str>) -> Scopes {
    let mut scopes = Scopes::default();
    for scope in list {
        let Some(rest) = strip_prefix(scope, ONVIF_SCOPE) else {
            continue;
        };
        scopes.onvif = true;
        let Some((what, value)) = rest.split_once('/') else {
            continue;
        };
        let label = || clean_label(&percent_decoded(value), MAX_LABEL_CHARS);
        match what.to_ascii_lowercase().as_str() {
            "name" => scopes.name = scopes.name.or_else(label),
            "hardware" => scopes.hardware = scopes.hardware.or_else(label),
            "manufacturer" | "mfr" => scopes.maker = scopes.maker.or_else(label),
            "serial" | "serialnumber" => scopes.serial = scopes.serial.or_else(label),
            "mac" => scopes.mac = scopes.mac.or_else(|| hardware_address(value)),
            "location" => {
                // `location/country/china`, `location/city/x`, `location/Hall`: the last word is the nearest.
                let nearest = value.rsplit('/').next().unwrap_or(value);
                let decoded = clean_label(&percent_decoded(nearest), MAX_LABEL_CHARS);
                if strip_prefix(value, "country/").is_none() {
                    scopes.location = scopes.location.or(decoded);
                }
            }
            _ => {}
        }
    }
    scopes
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Twelve hex digits, with any separators or none.
fn hardware_address(text: &str) -> Option<MacAddress> {
    let digits: String = percent_decoded(text)
        .chars()
        .filter(|c| !matches!(c, ':' | '-' | '.'))
        .collect();
    MacAddress::from_hex(&digits)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|two| std::str::from_utf8(two).ok())
            .filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        if let Some(byte) = code {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A Probe for targets of the ONVIF type `kind`, or of any.
pub fn probe(version: Version, kind: Option<&str>, message_id: &str) -> String {
    let types = kind.map_or_else(String::new, |kind| {
        format!("<d:Types xmlns:dn=\"{ONVIF_NAMESPACE}\">dn:{kind}</d:Types>")
    });
    envelope(version, "Probe", message_id, &types)
}

/// A Resolve for the target named `endpoint`.
pub fn resolve(version: Version, endpoint: &str, message_id: &str) -> String {
    let endpoint = xml::escape(endpoint);
    let reference =
        format!("<a:EndpointReference><a:Address>{endpoint}</a:Address></a:EndpointReference>");
    envelope(version, "Resolve", message_id, &reference)
}

fn envelope(version: Version, action: &str, message_id: &str, content: &str) -> String {
    let (discovery, addressing) = (version.namespace(), version.addressing());
    let (anonymous, everybody) = (version.anonymous(), version.everybody());
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <e:Envelope xmlns:e=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:a=\"{addressing}\" xmlns:d=\"{discovery}\">\
         <e:Header><a:Action e:mustUnderstand=\"1\">{discovery}/{action}</a:Action><a:MessageID>{message_id}</a:MessageID>\
         <a:ReplyTo><a:Address>{anonymous}</a:Address></a:ReplyTo><a:To e:mustUnderstand=\"1\">{everybody}</a:To></e:Header>\
         <e:Body><d:{action}>{content}</d:{action}></e:Body></e:Envelope>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MATCH: &[u8] = include_bytes!("../../../testdata/onvif-probe-match.xml");

    fn hello(body: &str) -> String {
        format!(
            "<e:Envelope xmlns:e='http://www.w3.org/2003/05/soap-envelope' \
             xmlns:a='http://schemas.xmlsoap.org/ws/2004/08/addressing' \
             xmlns:d='http://schemas.xmlsoap.org/ws/2005/04/discovery'><e:Body>{body}</e:Body></e:Envelope>"
        )
    }

    #[test]
    fn a_probe_match_is_read() {
        let Ok(Message::Here(target, Version::Draft2005)) = parse(MATCH) else {
            panic!("{:?}", parse(MATCH));
        };
        assert_eq!(target.uuid(), "5f5a69c2-e0ae-504f-829b-001122334455");
        assert!(target.is_camera() && target.is_media() && !target.is_computer());
        let scopes = &target.scopes;
        assert_eq!(scopes.name.as_deref(), Some("Front door"));
        assert_eq!(scopes.hardware.as_deref(), Some("HD-5"));
        assert_eq!(scopes.location.as_deref(), Some("Hall"));
        assert_eq!(
            scopes.mac.map(|mac| mac.to_string()).as_deref(),
            Some("00:11:22:33:44:55")
        );
        assert_eq!(target.addresses.len(), 2);
    }

    #[test]
    fn goodbyes_and_both_versions_are_told_apart() {
        let name = "<a:EndpointReference><a:Address>urn:uuid:1</a:Address></a:EndpointReference>";
        let bye = hello(&format!("<d:Bye>{name}</d:Bye>"));
        assert_eq!(
            parse(bye.as_bytes()),
            Ok(Message::Bye("urn:uuid:1".to_owned()))
        );
        let new = hello(&format!(
            "<d:Hello>{name}<d:Types>x:Computer y:Device</d:Types></d:Hello>"
        ))
        .replace(Version::Draft2005.namespace(), Version::Oasis11.namespace());
        let Ok(Message::Here(target, Version::Oasis11)) = parse(new.as_bytes()) else {
            panic!("a Hello");
        };
        assert!(target.is_computer() && !target.is_camera() && !target.is_media());
        let nameless = hello("<d:Hello/>");
        assert_eq!(parse(nameless.as_bytes()), Err(NotForUs::Nameless));
    }

    #[test]
    fn our_own_questions_are_questions_and_well_formed() {
        for version in Version::ALL {
            for text in [
                probe(version, Some(CAMERA), "urn:uuid:1"),
                probe(version, None, "urn:uuid:1"),
                resolve(version, "urn:uuid:<&", "urn:uuid:1"),
            ] {
                assert!(is_question(text.as_bytes()), "{text}");
                assert!(xml::parse(&text).is_ok(), "{text}");
                assert_eq!(parse(text.as_bytes()), Err(NotForUs::Other));
            }
        }
        assert!(!is_question(MATCH));
    }

    #[test]
    fn bombs_are_refused() {
        let deep = hello(&"<x>".repeat(5000));
        assert!(matches!(parse(deep.as_bytes()), Err(NotForUs::Xml(_))));
        let entities = format!("<!DOCTYPE x [<!ENTITY a 'aaaa'>]>{}", hello("<d:Hello/>"));
        assert!(matches!(parse(entities.as_bytes()), Err(NotForUs::Xml(_))));
        assert_eq!(
            parse(&vec![b' '; MAX_ENVELOPE + 1]),
            Err(NotForUs::TooLarge)
        );
        let long = "u".repeat(MAX_ENDPOINT_BYTES + 1);
        let text = hello(&format!(
            "<d:Hello><a:EndpointReference><a:Address>{long}</a:Address></a:EndpointReference></d:Hello>"
        ));
        assert_eq!(parse(text.as_bytes()), Err(NotForUs::Nameless));
    }

    #[test]
    fn scopes_are_read_as_makers_write_them() {
        let read = |text: &'static str| scopes(text.split(' '));
        let one =
            read("onvif://www.onvif.org/MAC/00-11-22-33-44-55 ONVIF://www.onvif.org/Name/A%20B%zz");
        assert_eq!(
            one.mac.map(|m| m.to_string()).as_deref(),
            Some("00:11:22:33:44:55")
        );
        assert_eq!(one.name.as_deref(), Some("A B%zz"));
        assert_eq!(
            read("onvif://www.onvif.org/location/country/china").location,
            None
        );
        assert!(!read("ldap:///ou=x http://www.onvif.org/name/x").onvif);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = is_question(&bytes);
        }

        #[test]
        fn arbitrary_scopes_and_addresses_never_panic(scope in "[ -~ä%]{0,60}", address in "[ -~]{0,40}") {
            let scope = xml::escape(&format!("onvif://www.onvif.org/{scope}"));
            let text = hello(&format!(
                "<d:Hello><a:EndpointReference><a:Address>urn:uuid:1</a:Address></a:EndpointReference>\
                 <d:Scopes>{scope}</d:Scopes><d:XAddrs>http://10.0.0.7{}</d:XAddrs></d:Hello>",
                xml::escape(&address)
            ));
            if let Ok(Message::Here(target, _)) = parse(text.as_bytes()) {
                let owner = std::net::IpAddr::from([10, 0, 0, 7]);
                for url in target.urls(owner.into()).into_iter().flatten() {
                    prop_assert_eq!(url.host(), owner);
                }
            }
        }
    }
}
