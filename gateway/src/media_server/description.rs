//! Descriptions (UPnP Device Architecture 1.1 §2): the device, its two services, and what ConnectionManager:1 says.

use super::directory;
use super::search::{SEARCH_CAPABILITIES, SORT_CAPABILITIES};
use super::soap::{self, Call, Fault};
use mantel_peripherals::xml::escape;

/// The device's type.
pub const DEVICE_TYPE: &str = "urn:schemas-upnp-org:device:MediaServer:1";
/// ConnectionManager's type.
pub const CONNECTION_MANAGER: &str = "urn:schemas-upnp-org:service:ConnectionManager:1";

/// What this gateway's titles may be, as ConnectionManager's source list.
pub const SOURCE_PROTOCOLS: &str = "http-get:*:audio/mpeg:*,http-get:*:audio/mp4:*,http-get:*:audio/aac:*,\
    http-get:*:audio/flac:*,http-get:*:audio/x-flac:*,http-get:*:audio/ogg:*,http-get:*:audio/wav:*,\
    http-get:*:audio/x-wav:*,http-get:*:image/jpeg:*,http-get:*:image/png:*,http-get:*:image/gif:*,\
    http-get:*:image/webp:*,http-get:*:image/tiff:*,http-get:*:video/mp4:*,http-get:*:video/quicktime:*,\
    http-get:*:video/x-matroska:*,http-get:*:video/webm:*,http-get:*:video/mpeg:*,http-get:*:video/mp2t:*,\
    http-get:*:video/x-msvideo:*";

/// The device description.
pub fn device(udn: &str, name: &str, base: &str) -> String {
    let (udn, name, base) = (escape(udn), escape(name), escape(base));
    let version = env!("CARGO_PKG_VERSION");
    let service = |kind: &str, path: &str| {
        format!(
            "<service><serviceType>urn:schemas-upnp-org:service:{kind}:1</serviceType>\
             <serviceId>urn:upnp-org:serviceId:{kind}</serviceId><SCPDURL>/upnp/{path}.xml</SCPDURL>\
             <controlURL>/upnp/{path}/control</controlURL><eventSubURL>/upnp/{path}/event</eventSubURL></service>"
        )
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<root xmlns=\"urn:schemas-upnp-org:device-1-0\" \
         xmlns:dlna=\"urn:schemas-dlna-org:device-1-0\"><specVersion><major>1</major><minor>0</minor></specVersion>\
         <device><deviceType>{DEVICE_TYPE}</deviceType><dlna:X_DLNADOC>DMS-1.50</dlna:X_DLNADOC>\
         <friendlyName>{name}</friendlyName><manufacturer>Mantel</manufacturer>\
         <modelDescription>The media of this home</modelDescription><modelName>Mantel gateway</modelName>\
         <modelNumber>{version}</modelNumber><UDN>{udn}</UDN><presentationURL>{base}/</presentationURL>\
         <serviceList>{}{}</serviceList></device></root>",
        service("ContentDirectory", "directory"),
        service("ConnectionManager", "connections"),
    )
}

/// An argument of an action: name, direction, state variable.
type Argument = (&'static str, &'static str, &'static str);

fn scpd(actions: &[(&str, &[Argument])], variables: &[(&str, &str, bool, &[&str])]) -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<scpd xmlns=\"urn:schemas-upnp-org:service-1-0\">\
         <specVersion><major>1</major><minor>0</minor></specVersion><actionList>",
    );
    for (name, arguments) in actions {
        write!(out, "<action><name>{name}</name><argumentList>").expect("a String takes all");
        for (name, direction, variable) in *arguments {
            write!(
                out,
                "<argument><name>{name}</name><direction>{direction}</direction>\
                 <relatedStateVariable>{variable}</relatedStateVariable></argument>"
            )
            .expect("a String takes all");
        }
        out.push_str("</argumentList></action>");
    }
    out.push_str("</actionList><serviceStateTable>");
    for (name, kind, evented, allowed) in variables {
        let events = if *evented { "yes" } else { "no" };
        write!(
            out,
            "<stateVariable sendEvents=\"{events}\"><name>{name}</name><dataType>{kind}</dataType>"
        )
        .expect("a String takes all");
        if !allowed.is_empty() {
            out.push_str("<allowedValueList>");
            for value in *allowed {
                write!(out, "<allowedValue>{value}</allowedValue>").expect("a String takes all");
            }
            out.push_str("</allowedValueList>");
        }
        out.push_str("</stateVariable>");
    }
    out.push_str("</serviceStateTable></scpd>");
    out
}

/// ContentDirectory's description (ContentDirectory:1 §4).
pub fn content_directory() -> String {
    const LISTED: [Argument; 4] = [
        ("Result", "out", "A_ARG_TYPE_Result"),
        ("NumberReturned", "out", "A_ARG_TYPE_Count"),
        ("TotalMatches", "out", "A_ARG_TYPE_Count"),
        ("UpdateID", "out", "A_ARG_TYPE_UpdateID"),
    ];
    const PAGE: [Argument; 4] = [
        ("Filter", "in", "A_ARG_TYPE_Filter"),
        ("StartingIndex", "in", "A_ARG_TYPE_Index"),
        ("RequestedCount", "in", "A_ARG_TYPE_Count"),
        ("SortCriteria", "in", "A_ARG_TYPE_SortCriteria"),
    ];
    let browse: [&[Argument]; 3] = [
        &[
            ("ObjectID", "in", "A_ARG_TYPE_ObjectID"),
            ("BrowseFlag", "in", "A_ARG_TYPE_BrowseFlag"),
        ],
        &PAGE,
        &LISTED,
    ];
    let search: [&[Argument]; 3] = [
        &[
            ("ContainerID", "in", "A_ARG_TYPE_ObjectID"),
            ("SearchCriteria", "in", "A_ARG_TYPE_SearchCriteria"),
        ],
        &PAGE,
        &LISTED,
    ];
    let (browse, search) = (browse.concat(), search.concat());
    scpd(
        &[
            (
                "GetSearchCapabilities",
                &[("SearchCaps", "out", "SearchCapabilities")],
            ),
            (
                "GetSortCapabilities",
                &[("SortCaps", "out", "SortCapabilities")],
            ),
            ("GetSystemUpdateID", &[("Id", "out", "SystemUpdateID")]),
            ("Browse", &browse),
            ("Search", &search),
        ],
        &[
            ("A_ARG_TYPE_ObjectID", "string", false, &[]),
            ("A_ARG_TYPE_Result", "string", false, &[]),
            ("A_ARG_TYPE_SearchCriteria", "string", false, &[]),
            (
                "A_ARG_TYPE_BrowseFlag",
                "string",
                false,
                &["BrowseMetadata", "BrowseDirectChildren"],
            ),
            ("A_ARG_TYPE_Filter", "string", false, &[]),
            ("A_ARG_TYPE_SortCriteria", "string", false, &[]),
            ("A_ARG_TYPE_Index", "ui4", false, &[]),
            ("A_ARG_TYPE_Count", "ui4", false, &[]),
            ("A_ARG_TYPE_UpdateID", "ui4", false, &[]),
            ("SearchCapabilities", "string", false, &[]),
            ("SortCapabilities", "string", false, &[]),
            ("SystemUpdateID", "ui4", true, &[]),
            ("ContainerUpdateIDs", "string", true, &[]),
        ],
    )
}

/// ConnectionManager's description (ConnectionManager:1 §4).
pub fn connection_manager() -> String {
    scpd(
        &[
            (
                "GetProtocolInfo",
                &[
                    ("Source", "out", "SourceProtocolInfo"),
                    ("Sink", "out", "SinkProtocolInfo"),
                ],
            ),
            (
                "GetCurrentConnectionIDs",
                &[("ConnectionIDs", "out", "CurrentConnectionIDs")],
            ),
            (
                "GetCurrentConnectionInfo",
                &[
                    ("ConnectionID", "in", "A_ARG_TYPE_ConnectionID"),
                    ("RcsID", "out", "A_ARG_TYPE_RcsID"),
                    ("AVTransportID", "out", "A_ARG_TYPE_AVTransportID"),
                    ("ProtocolInfo", "out", "A_ARG_TYPE_ProtocolInfo"),
                    (
                        "PeerConnectionManager",
                        "out",
                        "A_ARG_TYPE_ConnectionManager",
                    ),
                    ("PeerConnectionID", "out", "A_ARG_TYPE_ConnectionID"),
                    ("Direction", "out", "A_ARG_TYPE_Direction"),
                    ("Status", "out", "A_ARG_TYPE_ConnectionStatus"),
                ],
            ),
        ],
        &[
            ("SourceProtocolInfo", "string", true, &[]),
            ("SinkProtocolInfo", "string", true, &[]),
            ("CurrentConnectionIDs", "string", true, &[]),
            (
                "A_ARG_TYPE_ConnectionStatus",
                "string",
                false,
                &[
                    "OK",
                    "ContentFormatMismatch",
                    "InsufficientBandwidth",
                    "UnreliableChannel",
                    "Unknown",
                ],
            ),
            ("A_ARG_TYPE_ConnectionManager", "string", false, &[]),
            (
                "A_ARG_TYPE_Direction",
                "string",
                false,
                &["Input", "Output"],
            ),
            ("A_ARG_TYPE_ProtocolInfo", "string", false, &[]),
            ("A_ARG_TYPE_ConnectionID", "i4", false, &[]),
            ("A_ARG_TYPE_AVTransportID", "i4", false, &[]),
            ("A_ARG_TYPE_RcsID", "i4", false, &[]),
        ],
    )
}

/// What ConnectionManager answers. It prepares no connections: there is one, number 0, always.
pub fn connections(call: &Call) -> Result<String, Fault> {
    let arguments: &[(&str, &str)] = match call.action.as_str() {
        "GetProtocolInfo" => &[("Source", SOURCE_PROTOCOLS), ("Sink", "")],
        "GetCurrentConnectionIDs" => &[("ConnectionIDs", "0")],
        "GetCurrentConnectionInfo" => {
            if call.text("ConnectionID")? != "0" {
                return Err(Fault::NoConnection);
            }
            &[
                ("RcsID", "-1"),
                ("AVTransportID", "-1"),
                ("ProtocolInfo", ""),
                ("PeerConnectionManager", ""),
                ("PeerConnectionID", "-1"),
                ("Direction", "Output"),
                ("Status", "OK"),
            ]
        }
        _ => return Err(Fault::Action),
    };
    Ok(soap::answer(CONNECTION_MANAGER, &call.action, arguments))
}

/// ContentDirectory's short answers; `None`: the action is another one.
pub fn directory_facts(call: &Call, update_id: u32) -> Option<String> {
    let id = update_id.to_string();
    let argument = match call.action.as_str() {
        "GetSearchCapabilities" => ("SearchCaps", SEARCH_CAPABILITIES),
        "GetSortCapabilities" => ("SortCaps", SORT_CAPABILITIES),
        "GetSystemUpdateID" => ("Id", id.as_str()),
        _ => return None,
    };
    Some(soap::answer(directory::SERVICE, &call.action, &[argument]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_peripherals::upnp::wire::{ServiceKind, parse_description};
    use mantel_peripherals::url::DeviceUrl;

    #[test]
    fn our_own_reader_reads_the_description() {
        let text = device("uuid:1-2", "Anna & Ben", "http://10.0.0.2:8080");
        let address = [10, 0, 0, 2].into();
        let location =
            DeviceUrl::parse("http://10.0.0.2:8080/upnp/device.xml", address).expect("a URL");
        let read = parse_description(text.as_bytes(), &location).expect("readable");
        assert_eq!(read.name, "Anna & Ben");
        assert_eq!(read.udn.as_str(), "uuid:1-2");
        assert_eq!(read.device_types, ["MediaServer"]);
        assert!(read.service(ServiceKind::ContentDirectory).is_some());
        assert!(read.service(ServiceKind::ConnectionManager).is_some());
    }

    #[test]
    fn every_argument_names_a_variable_that_is_there() {
        for text in [content_directory(), connection_manager()] {
            let document = mantel_peripherals::xml::parse(&text).expect("well-formed");
            let all = |name: &str| -> Vec<String> {
                document
                    .descendants()
                    .filter(|node| node.tag_name().name() == name)
                    .filter_map(|node| node.text().map(str::to_owned))
                    .collect()
            };
            let names = all("name");
            for variable in all("relatedStateVariable") {
                assert!(names.contains(&variable), "{variable}");
            }
        }
    }
}
