//! UPnP on the wire, bytes to types and back, pure: descriptions (UPnP Device Architecture 2.0 §2), SOAP calls, answers
//! and faults (§3), times and protocol infos (AVTransport:1 §2.2.14, ConnectionManager:1 §2.5.2).

use std::fmt::Write as _;
use std::time::Duration;

use roxmltree::Node;

use crate::device::{DeviceKey, MAX_LABEL_CHARS, clean_label};
use crate::url::DeviceUrl;
use crate::xml::{self, XmlError, child, child_text, escape};

/// Most services kept of a device, its embedded devices included.
pub const MAX_SERVICES: usize = 64;
/// Most embedded devices whose names are kept.
pub const MAX_EMBEDDED: usize = 32;
/// Longest service type kept, in bytes.
pub const MAX_TYPE_BYTES: usize = 128;
/// Most output arguments of an action.
pub const MAX_ARGUMENTS: usize = 64;
/// Most formats kept of what a renderer says it plays.
pub const MAX_FORMATS: usize = 1024;

/// What a service is for, as far as we use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceKind {
    /// Lists media.
    ContentDirectory,
    /// Plays.
    AvTransport,
    /// Volume.
    RenderingControl,
    /// Formats.
    ConnectionManager,
}

impl ServiceKind {
    fn of(service_type: &str) -> Option<Self> {
        let rest = service_type.strip_prefix("urn:schemas-upnp-org:service:")?;
        match rest.split(':').next()? {
            "ContentDirectory" => Some(Self::ContentDirectory),
            "AVTransport" => Some(Self::AvTransport),
            "RenderingControl" => Some(Self::RenderingControl),
            "ConnectionManager" => Some(Self::ConnectionManager),
            _ => None,
        }
    }
}

/// One service of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// What it is for.
    pub kind: ServiceKind,
    /// Its full type with version, which a call repeats.
    pub service_type: String,
    /// Where calls go.
    pub control: DeviceUrl,
    /// Where its own description is.
    pub scpd: Option<DeviceUrl>,
    /// Where its events are subscribed to, where it has any.
    pub events: Option<DeviceUrl>,
}

/// A device description.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// UDN of the root device.
    pub udn: DeviceKey,
    /// UDNs of embedded devices.
    pub embedded: Vec<DeviceKey>,
    /// Type of the root device and of embedded ones, without prefix: `MediaServer`, `MediaRenderer`.
    pub device_types: Vec<String>,
    /// Name that the owner gave.
    pub name: String,
    /// Maker.
    pub maker: Option<String>,
    /// Model name and number.
    pub model: Option<String>,
    /// Serial number, placeholders left out.
    pub serial: Option<String>,
    /// Services that we use.
    pub services: Vec<Service>,
    /// Services whose URLs pointed off the device.
    pub refused_services: u32,
}

impl Description {
    /// The first service of `kind`.
    pub fn service(&self, kind: ServiceKind) -> Option<&Service> {
        self.services.iter().find(|service| service.kind == kind)
    }
}

/// Why a description was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// Broken or excessive XML.
    #[error("it cannot be read")]
    Xml(#[from] XmlError),
    /// XML, but no device in it.
    #[error("it holds no {0}")]
    Missing(&'static str),
}

/// Reads a device description that was fetched from `location`.
pub fn parse_description(
    bytes: &[u8],
    location: &DeviceUrl,
) -> Result<Description, DescriptionError> {
    let text = xml::decode(bytes);
    let document = xml::parse(&text)?;
    let root = document.root_element();
    let device = child(root, "device").ok_or(DescriptionError::Missing("device"))?;
    // URLBase (UPnP Device Architecture 1.0) counts only when it stays on the device.
    let base = child_text(root, "URLBase")
        .and_then(|text| DeviceUrl::parse(text, location.host()).ok())
        .unwrap_or_else(|| location.clone());
    let udn = child_text(device, "UDN")
        .and_then(DeviceKey::new)
        .ok_or(DescriptionError::Missing("unique device name"))?;
    let label = |name| child_text(device, name).and_then(|t| clean_label(t, MAX_LABEL_CHARS));
    let mut description = Description {
        name: label("friendlyName").unwrap_or_else(|| format!("Device at {}", location.host())),
        maker: label("manufacturer"),
        model: model(label("modelName"), label("modelNumber")),
        serial: label("serialNumber").filter(|serial| is_telling(serial)),
        udn,
        embedded: Vec::new(),
        device_types: Vec::new(),
        services: Vec::new(),
        refused_services: 0,
    };
    for node in device.descendants().filter(Node::is_element) {
        match node.tag_name().name() {
            "UDN" if node.parent() != Some(device) && description.embedded.len() < MAX_EMBEDDED => {
                description
                    .embedded
                    .extend(node.text().and_then(DeviceKey::new));
            }
            "deviceType" if description.device_types.len() <= MAX_EMBEDDED => {
                description
                    .device_types
                    .extend(node.text().and_then(device_type));
            }
            "service" if description.services.len() < MAX_SERVICES => {
                add_service(&mut description, node, &base);
            }
            _ => {}
        }
    }
    Ok(description)
}

/// `urn:schemas-upnp-org:device:MediaServer:1` → `MediaServer`.
fn device_type(text: &str) -> Option<String> {
    let mut parts = text.trim().rsplit(':');
    let _version = parts.next()?;
    clean_label(parts.next()?, MAX_LABEL_CHARS)
}

fn model(name: Option<String>, number: Option<String>) -> Option<String> {
    match (name, number) {
        (Some(name), Some(number)) if !name.contains(&number) => Some(format!("{name} {number}")),
        (name, number) => name.or(number),
    }
}

/// Whether a serial number tells devices apart: not all one character, not a word for "none".
fn is_telling(serial: &str) -> bool {
    let first = serial.chars().next();
    let uniform = serial.chars().all(|c| Some(c) == first);
    !uniform
        && !["none", "n/a", "unknown", "0123456789", "12345678"]
            .contains(&serial.to_lowercase().as_str())
}

fn add_service(description: &mut Description, node: Node<'_, '_>, base: &DeviceUrl) {
    let Some(service_type) = child_text(node, "serviceType") else {
        return;
    };
    if service_type.len() > MAX_TYPE_BYTES {
        return;
    }
    let Some(kind) = ServiceKind::of(service_type) else {
        return;
    };
    let Some(Ok(control)) = child_text(node, "controlURL").map(|url| base.join(url)) else {
        description.refused_services += 1;
        return;
    };
    let url_of = |name| child_text(node, name).and_then(|url| base.join(url).ok());
    let (scpd, events) = (url_of("SCPDURL"), url_of("eventSubURL"));
    description.services.push(Service {
        kind,
        service_type: service_type.to_owned(),
        control,
        scpd,
        events,
    });
}

/// Highest value of the `Volume` state variable in a RenderingControl service description.
pub fn parse_volume_max(bytes: &[u8]) -> Option<u16> {
    let text = xml::decode(bytes);
    let document = xml::parse(&text).ok()?;
    let variable = document.descendants().find(|node| {
        node.tag_name().name() == "stateVariable" && child_text(*node, "name") == Some("Volume")
    })?;
    let max: u16 = child_text(child(variable, "allowedValueRange")?, "maximum")?
        .parse()
        .ok()?;
    (max > 0).then_some(max)
}

/// The SOAP envelope of a call. `arguments` are escaped here.
pub fn soap_request(service_type: &str, action: &str, arguments: &[(&str, &str)]) -> String {
    let mut out = String::from(concat!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n",
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" ",
        "s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>"
    ));
    let service_type = escape(service_type);
    write!(out, "<u:{action} xmlns:u=\"{service_type}\">").expect("a String takes all");
    for (name, value) in arguments {
        write!(out, "<{name}>{}</{name}>", escape(value)).expect("a String takes all");
    }
    write!(out, "</u:{action}></s:Body></s:Envelope>").expect("a String takes all");
    out
}

/// What a device answered to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SoapAnswer {
    /// The action was done; its output arguments by name.
    Done(Vec<(String, String)>),
    /// The action was refused.
    Fault(Fault),
}

/// A UPnP error (UPnP Device Architecture 2.0 §3.2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// UPnP error code; 0 when the fault carries none.
    pub code: u16,
    /// The device's own words, one line.
    pub text: String,
}

/// Reads the answer to `action`.
pub fn parse_soap_answer(bytes: &[u8], action: &str) -> Result<SoapAnswer, DescriptionError> {
    let text = xml::decode(bytes);
    let document = xml::parse(&text)?;
    let body =
        child(document.root_element(), "Body").ok_or(DescriptionError::Missing("SOAP body"))?;
    if let Some(fault) = child(body, "Fault") {
        return Ok(SoapAnswer::Fault(read_fault(fault)));
    }
    let answer = body
        .children()
        .find(|node| {
            node.is_element() && node.tag_name().name().strip_suffix("Response") == Some(action)
        })
        .ok_or(DescriptionError::Missing("answer to the call"))?;
    let arguments = answer
        .children()
        .filter(Node::is_element)
        .take(MAX_ARGUMENTS)
        .map(|node| (node.tag_name().name().to_owned(), whole_text(node)))
        .collect();
    Ok(SoapAnswer::Done(arguments))
}

/// All text of a node: a text and a CDATA section may stand side by side.
fn whole_text(node: Node<'_, '_>) -> String {
    node.children()
        .filter_map(|part| part.text().filter(|_| part.is_text()))
        .collect()
}

fn read_fault(fault: Node<'_, '_>) -> Fault {
    let named = |name: &str| {
        fault
            .descendants()
            .find(|node| node.tag_name().name() == name)
            .and_then(|node| node.text())
    };
    let code = named("errorCode")
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let text = named("errorDescription")
        .or_else(|| named("faultstring"))
        .unwrap_or_default();
    Fault {
        code,
        text: clean_label(text, MAX_LABEL_CHARS).unwrap_or_default(),
    }
}

/// A time as AVTransport writes it, `H+:MM:SS[.F+]` or `[.F0/F1]`. `None` for `NOT_IMPLEMENTED` and for nonsense.
pub fn parse_time(text: &str) -> Option<Duration> {
    let mut parts = text.trim().splitn(3, ':');
    let hours: u64 = digits(parts.next()?, 6)?;
    let minutes = digits(parts.next()?, 2)?;
    let last = parts.next()?;
    let (seconds, fraction) = match last.split_once('.') {
        Some((seconds, fraction)) => (seconds, parse_fraction(fraction)?),
        None => (last, 0.0),
    };
    let seconds = digits(seconds, 2)?;
    if minutes > 59 || seconds > 59 {
        return None;
    }
    let whole = Duration::from_secs(hours * 3600 + minutes * 60 + seconds);
    Some(whole + Duration::try_from_secs_f64(fraction).ok()?)
}

fn digits(text: &str, most: usize) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= most && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

/// `068` or `1/2`, below 1; more than nine digits are refused.
fn parse_fraction(text: &str) -> Option<f64> {
    if let Some((part, whole)) = text.split_once('/') {
        let (part, whole) = (digits(part, 6)?, digits(whole, 6)?);
        return (part < whole).then(|| part as f64 / whole as f64);
    }
    if text.is_empty() {
        return Some(0.0);
    }
    let value = digits(text, 9)?;
    Some(value as f64 / 10_f64.powi(text.len() as i32))
}

/// A time for `Seek` and `res@duration`: `H:MM:SS`, whole seconds.
pub fn format_time(time: Duration) -> String {
    let seconds = time.as_secs();
    format!(
        "{}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// The third field of `http-get:*:video/mp4:…`, lower case, without parameters; `None` for other protocols.
pub fn mime_of_protocol_info(text: &str) -> Option<String> {
    let mut fields = text.trim().splitn(4, ':');
    if !fields.next()?.eq_ignore_ascii_case("http-get") {
        return None;
    }
    let mime = fields
        .nth(1)?
        .split(';')
        .next()?
        .trim()
        .to_ascii_lowercase();
    (!mime.is_empty() && mime.len() <= 100).then_some(mime)
}

/// The MIME types in the `Sink` of GetProtocolInfo, sorted, each once.
pub fn parse_formats(sink: &str) -> Vec<String> {
    let mut formats: Vec<String> = sink
        .split(',')
        .take(8 * MAX_FORMATS)
        .filter_map(mime_of_protocol_info)
        .collect();
    formats.sort();
    formats.dedup();
    formats.truncate(MAX_FORMATS);
    formats
}

/// Runs every parser of this module; the entry for fuzzing.
pub fn parse_any(bytes: &[u8], location: &DeviceUrl) {
    let _ = parse_description(bytes, location);
    let _ = parse_soap_answer(bytes, "Browse");
    let _ = parse_volume_max(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(url: &str, host: &str) -> DeviceUrl {
        DeviceUrl::parse(url, host.parse().expect("an address")).expect("own address")
    }

    fn nas() -> DeviceUrl {
        at("http://10.78.0.10:8200/rootDesc.xml", "10.78.0.10")
    }

    #[test]
    fn minidlna_describes_itself_as_a_media_server() {
        let bytes = include_bytes!("../../testdata/minidlna-description.xml");
        let device = parse_description(bytes, &nas()).expect("a real description");
        assert_eq!(device.name, "Living Room NAS");
        assert_eq!(
            device.udn.as_str(),
            "uuid:4d696e69-444c-164e-9d41-02780000000a"
        );
        assert_eq!(device.device_types, ["MediaServer"]);
        assert_eq!(device.maker.as_deref(), Some("Justin Maggard"));
        assert_eq!(device.serial, None, "00000000 tells nothing");
        let directory = device
            .service(ServiceKind::ContentDirectory)
            .expect("it lists media");
        assert_eq!(
            directory.control.to_string(),
            "http://10.78.0.10:8200/ctl/ContentDir"
        );
        assert!(device.service(ServiceKind::AvTransport).is_none());
    }

    #[test]
    fn gmediarender_describes_itself_as_a_renderer() {
        let bytes = include_bytes!("../../testdata/gmediarender-description.xml");
        let location = at("http://10.78.0.20:49494/description.xml", "10.78.0.20");
        let device = parse_description(bytes, &location).expect("a real description");
        assert_eq!(
            (device.name.as_str(), device.device_types.as_slice()),
            ("Living Room TV", &["MediaRenderer".to_owned()][..])
        );
        for kind in [
            ServiceKind::AvTransport,
            ServiceKind::RenderingControl,
            ServiceKind::ConnectionManager,
        ] {
            assert!(device.service(kind).is_some(), "{kind:?}");
        }
    }

    #[test]
    fn services_elsewhere_are_refused() {
        let text = "<root><URLBase>http://127.0.0.1/</URLBase><device><UDN>uuid:1</UDN><serviceList><service>\
            <serviceType>urn:schemas-upnp-org:service:ContentDirectory:1</serviceType>\
            <controlURL>http://127.0.0.1:80/admin</controlURL></service></serviceList></device></root>";
        let device = parse_description(text.as_bytes(), &nas()).expect("readable");
        assert_eq!((device.services.len(), device.refused_services), (0, 1));
    }

    #[test]
    fn volume_range_is_read_from_a_real_service_description() {
        let bytes = include_bytes!("../../testdata/gmediarender-rendering-control.xml");
        assert_eq!(parse_volume_max(bytes), Some(100));
    }

    #[test]
    fn real_answers_and_faults_are_told_apart() {
        let playing = include_bytes!("../../testdata/gmediarender-position-playing.xml");
        let Ok(SoapAnswer::Done(arguments)) = parse_soap_answer(playing, "GetPositionInfo") else {
            panic!("an answer");
        };
        assert!(arguments.contains(&("RelTime".to_owned(), "0:00:01".to_owned())));
        assert!(arguments.contains(&("AbsTime".to_owned(), "NOT_IMPLEMENTED".to_owned())));
        let fault = include_bytes!("../../testdata/minidlna-fault-701.xml");
        assert_eq!(
            parse_soap_answer(fault, "Browse"),
            Ok(SoapAnswer::Fault(Fault {
                code: 701,
                text: "No such object error".to_owned()
            }))
        );
        assert!(
            parse_soap_answer(playing, "Browse").is_err(),
            "the answer to another call"
        );
    }

    #[test]
    fn formats_of_a_real_renderer_are_read() {
        let bytes = include_bytes!("../../testdata/gmediarender-protocol-info.xml");
        let Ok(SoapAnswer::Done(arguments)) = parse_soap_answer(bytes, "GetProtocolInfo") else {
            panic!("an answer");
        };
        let sink = &arguments
            .iter()
            .find(|(name, _)| name == "Sink")
            .expect("it has one")
            .1;
        let formats = parse_formats(sink);
        for mime in ["video/quicktime", "audio/mpeg", "image/jpeg"] {
            assert!(formats.contains(&mime.to_owned()), "{mime} in {formats:?}");
        }
    }

    #[test]
    fn times_are_read_strictly() {
        for (text, millis) in [
            ("0:00:00", Some(0)),
            ("0:01:00.250", Some(60_250)),
            ("12:34:56", Some(45_296_000)),
            ("0:00:01.1/2", Some(1_500)),
            ("NOT_IMPLEMENTED", None),
            ("", None),
            ("1:2", None),
            ("0:60:00", None),
            ("-0:00:01", None),
            ("0:00:00:01", None),
            ("99999999999999999999:00:00", None),
            ("0:00:01.1/0", None),
        ] {
            assert_eq!(
                parse_time(text),
                millis.map(Duration::from_millis),
                "{text}"
            );
        }
        assert_eq!(format_time(Duration::from_millis(3_725_900)), "1:02:05");
    }

    #[test]
    fn a_call_cannot_be_broken_out_of() {
        let call = soap_request("urn:x", "Browse", &[("ObjectID", "</ObjectID><x>&\"")]);
        let document = xml::parse(&call).expect("well-formed");
        let node = document
            .descendants()
            .find(|n| n.tag_name().name() == "ObjectID")
            .expect("there");
        assert_eq!(node.text(), Some("</ObjectID><x>&\""));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse_any(&bytes, &nas());
            let text = String::from_utf8_lossy(&bytes);
            let _ = parse_time(&text);
            let _ = parse_formats(&text);
        }

        #[test]
        fn mutilated_captures_never_panic(cut in 0_usize..2204, byte in any::<u8>()) {
            let mut bytes = include_bytes!("../../testdata/minidlna-description.xml").to_vec();
            bytes[cut] = byte;
            parse_any(&bytes, &nas());
            parse_any(&bytes[..cut], &nas());
        }

        #[test]
        fn whole_seconds_come_back(seconds in 0_u64..3_000_000_000) {
            let time = Duration::from_secs(seconds);
            if seconds < 1_000_000 * 3600 {
                prop_assert_eq!(parse_time(&format_time(time)), Some(time));
            } else {
                let _ = parse_time(&format_time(time));
            }
        }
    }
}
