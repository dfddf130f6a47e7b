//! ONVIF requests and answers (ONVIF Core and Media Service Specifications, SOAP 1.2). Pure.

use data_encoding::BASE64;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::device::{MAX_LABEL_CHARS, clean_label};
use crate::live::Login;
use crate::xml::{self, XmlError, child, child_text, escape};

/// Most profiles looked at.
pub const MAX_PROFILES: usize = 32;
/// Longest profile token kept, in bytes (ONVIF `ReferenceToken`: 64 characters).
pub const MAX_TOKEN_BYTES: usize = 256;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 16;

/// What a fault about the log-in holds: the codes of ONVIF Core §5.11.2.1 and WS-Security §12, and the reasons of
/// services that give no code (`testdata/onvif-fault-*.xml`).
const LOG_IN_WORDS: [&str; 5] = [
    "NotAuthorized",
    "FailedAuthentication",
    "InvalidSecurity",
    "WS-Security header required",
    "Authentication failed",
];

const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
const DEVICE: &str = "http://www.onvif.org/ver10/device/wsdl";
const MEDIA: &str = "http://www.onvif.org/ver10/media/wsdl";
const SCHEMA: &str = "http://www.onvif.org/ver10/schema";
const WSSE: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
const WSU: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
const DIGEST_TYPE: &str = "http://docs.oasis-open.org/wss/2004/01/\
oasis-200401-wss-username-token-profile-1.0#PasswordDigest";
const NONCE_TYPE: &str = "http://docs.oasis-open.org/wss/2004/01/\
oasis-200401-wss-soap-message-security-1.0#Base64Binary";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// The device's clock; answered without a log-in.
    Time,
    /// Maker, model, serial number.
    Information,
    /// Where its services are (older devices know no other way).
    Capabilities,
    /// Where its services are.
    Services,
    /// Its media profiles.
    Profiles,
    /// Where the stream of a profile is.
    StreamUri(&'a str),
    /// Where the snapshot of a profile is.
    SnapshotUri(&'a str),
}

impl Question<'_> {
    /// Name of the operation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Time => "GetSystemDateAndTime",
            Self::Information => "GetDeviceInformation",
            Self::Capabilities => "GetCapabilities",
            Self::Services => "GetServices",
            Self::Profiles => "GetProfiles",
            Self::StreamUri(_) => "GetStreamUri",
            Self::SnapshotUri(_) => "GetSnapshotUri",
        }
    }

    fn namespace(self) -> &'static str {
        match self {
            Self::Time | Self::Information | Self::Capabilities | Self::Services => DEVICE,
            Self::Profiles | Self::StreamUri(_) | Self::SnapshotUri(_) => MEDIA,
        }
    }

    /// The SOAP action.
    pub fn action(self) -> String {
        format!("{}/{}", self.namespace(), self.name())
    }

    /// The request, with a UsernameToken where one is given.
    pub fn envelope(self, token: Option<&UsernameToken>) -> String {
        let (name, namespace) = (self.name(), self.namespace());
        let inner = match self {
            Self::Time | Self::Information | Self::Profiles => String::new(),
            Self::Capabilities => "<q:Category>Media</q:Category>".to_owned(),
            Self::Services => "<q:IncludeCapability>false</q:IncludeCapability>".to_owned(),
            Self::StreamUri(profile) => format!(
                "<q:StreamSetup><t:Stream>RTP-Unicast</t:Stream><t:Transport><t:Protocol>RTSP</t:Protocol>\
                 </t:Transport></q:StreamSetup><q:ProfileToken>{}</q:ProfileToken>",
                escape(profile)
            ),
            Self::SnapshotUri(profile) => {
                format!("<q:ProfileToken>{}</q:ProfileToken>", escape(profile))
            }
        };
        let header = token.map_or_else(String::new, UsernameToken::header);
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><s:Envelope xmlns:s=\"{SOAP}\">{header}<s:Body>\
             <q:{name} xmlns:q=\"{namespace}\" xmlns:t=\"{SCHEMA}\">{inner}</q:{name}></s:Body></s:Envelope>"
        )
    }
}

/// A WS-Security UsernameToken with a password digest (Web Services Security UsernameToken Profile 1.0 §3.1).
pub struct UsernameToken {
    user: String,
    digest: String,
    nonce: String,
    created: String,
}

impl UsernameToken {
    /// A token made at `now` by the device's clock, with a nonce never used before. `sha1` is the hash.
    pub fn new(
        login: &Login,
        nonce: [u8; NONCE_BYTES],
        now: Timestamp,
        sha1: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Self {
        let created = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut text = zeroize::Zeroizing::new(nonce.to_vec());
        text.extend_from_slice(created.as_bytes());
        text.extend_from_slice(login.password().as_bytes());
        Self {
            user: login.user().to_owned(),
            digest: BASE64.encode(&sha1(&text)),
            nonce: BASE64.encode(&nonce),
            created,
        }
    }

    fn header(&self) -> String {
        format!(
            "<s:Header><w:Security s:mustUnderstand=\"true\" xmlns:w=\"{WSSE}\"><w:UsernameToken>\
             <w:Username>{}</w:Username><w:Password Type=\"{DIGEST_TYPE}\">{}</w:Password>\
             <w:Nonce EncodingType=\"{NONCE_TYPE}\">{}</w:Nonce>\
             <u:Created xmlns:u=\"{WSU}\">{}</u:Created></w:UsernameToken></w:Security></s:Header>",
            escape(&self.user),
            self.digest,
            self.nonce,
            self.created
        )
    }
}

/// Why an answer was not of use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The log-in is missing or wrong (`ter:NotAuthorized`).
    #[error("it refuses the log-in")]
    LogIn,
    /// Another SOAP fault.
    #[error("it refused: {0}")]
    Fault(String),
    /// The XML cannot be used.
    #[error("its answer cannot be read")]
    Xml(#[from] XmlError),
    /// Something is not there.
    #[error("its answer holds no {0}")]
    Missing(&'static str),
}

/// What a device says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Information {
    /// Manufacturer.
    pub maker: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Firmware version.
    pub firmware: Option<String>,
}

/// A media profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its token.
    pub token: String,
    /// Coding of its pictures, as told: `H264`, `JPEG`, …; `None`: it has none.
    pub encoding: Option<String>,
    /// Width and height, where told.
    pub resolution: Option<(u32, u32)>,
}

type Node<'a, 'i> = roxmltree::Node<'a, 'i>;

/// Reads an answer with `read`, which is given the element `<name>Response`.
fn answer<T>(
    bytes: &[u8],
    name: &str,
    read: impl FnOnce(Node<'_, '_>) -> Result<T, AnswerError>,
) -> Result<T, AnswerError> {
    let text = xml::decode(bytes);
    let document = xml::parse(&text)?;
    let body = child(document.root_element(), "Body").ok_or(AnswerError::Missing("body"))?;
    if let Some(fault) = child(body, "Fault") {
        return Err(fault_of(fault));
    }
    let found = child(body, &format!("{name}Response")).ok_or(AnswerError::Missing("answer"))?;
    read(found)
}

fn fault_of(fault: Node<'_, '_>) -> AnswerError {
    let texts = || {
        let nodes = fault.descendants().filter(Node::is_text);
        nodes.filter_map(|node| node.text())
    };
    let says = |word: &str| texts().any(|text| text.contains(word));
    if LOG_IN_WORDS.iter().any(|word| says(word)) {
        return AnswerError::LogIn;
    }
    let words: Vec<&str> = texts().map(str::trim).filter(|t| !t.is_empty()).collect();
    let words = clean_label(&words.join(" "), MAX_LABEL_CHARS);
    AnswerError::Fault(words.unwrap_or_else(|| "no reason told".to_owned()))
}

/// The device's clock, UTC.
pub fn parse_time(bytes: &[u8]) -> Result<Timestamp, AnswerError> {
    answer(bytes, Question::Time.name(), |found| {
        let utc = found
            .descendants()
            .find(|node| node.tag_name().name() == "UTCDateTime")
            .ok_or(AnswerError::Missing("time"))?;
        read_time(utc).ok_or(AnswerError::Missing("time"))
    })
}

fn read_time(utc: Node<'_, '_>) -> Option<Timestamp> {
    let (time, date) = (child(utc, "Time")?, child(utc, "Date")?);
    let number = |of: Node<'_, '_>, name| child_text(of, name)?.parse::<i8>().ok();
    let year = child_text(date, "Year")?.parse().ok()?;
    let (month, day) = (number(date, "Month")?, number(date, "Day")?);
    let (hour, minute) = (number(time, "Hour")?, number(time, "Minute")?);
    let second = number(time, "Second")?.min(59);
    let civil = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Who the device is.
pub fn parse_information(bytes: &[u8]) -> Result<Information, AnswerError> {
    answer(bytes, Question::Information.name(), |found| {
        let label = |name| clean_label(child_text(found, name)?, MAX_LABEL_CHARS);
        Ok(Information {
            maker: label("Manufacturer"),
            model: label("Model"),
            serial: label("SerialNumber"),
            firmware: label("FirmwareVersion"),
        })
    })
}

/// The address of the media service, as told.
pub fn parse_capabilities(bytes: &[u8]) -> Result<String, AnswerError> {
    answer(bytes, Question::Capabilities.name(), |found| {
        child(found, "Capabilities")
            .and_then(|node| child(node, "Media"))
            .and_then(|node| child_text(node, "XAddr"))
            .map(str::to_owned)
            .ok_or(AnswerError::Missing("media service"))
    })
}

/// The address of the media service, as told.
pub fn parse_services(bytes: &[u8]) -> Result<String, AnswerError> {
    answer(bytes, Question::Services.name(), |found| {
        let services = found.children().filter(Node::is_element);
        services
            .filter(|service| child_text(*service, "Namespace") == Some(MEDIA))
            .find_map(|service| child_text(service, "XAddr"))
            .map(str::to_owned)
            .ok_or(AnswerError::Missing("media service"))
    })
}

/// The profiles in the device's order, at most [`MAX_PROFILES`].
pub fn parse_profiles(bytes: &[u8]) -> Result<Vec<Profile>, AnswerError> {
    answer(bytes, Question::Profiles.name(), |found| {
        let nodes = found
            .children()
            .filter(|node| node.tag_name().name() == "Profiles");
        let profiles: Vec<Profile> = nodes.take(MAX_PROFILES).filter_map(read_profile).collect();
        if profiles.is_empty() {
            return Err(AnswerError::Missing("media profile"));
        }
        Ok(profiles)
    })
}

fn read_profile(node: Node<'_, '_>) -> Option<Profile> {
    let token = node
        .attribute("token")
        .filter(|token| token.len() <= MAX_TOKEN_BYTES)?;
    let encoder = child(node, "VideoEncoderConfiguration");
    let edge = |of, name| child_text(of, name)?.parse::<u32>().ok();
    let resolution = encoder.and_then(|encoder| {
        let resolution = child(encoder, "Resolution")?;
        Some((edge(resolution, "Width")?, edge(resolution, "Height")?))
    });
    Some(Profile {
        token: token.to_owned(),
        encoding: encoder
            .and_then(|encoder| child_text(encoder, "Encoding"))
            .and_then(|text| clean_label(text, 16)),
        resolution,
    })
}

/// The URI in an answer to [`Question::StreamUri`] or [`Question::SnapshotUri`], as told.
pub fn parse_uri(bytes: &[u8], question: Question<'_>) -> Result<String, AnswerError> {
    answer(bytes, question.name(), |found| {
        child(found, "MediaUri")
            .and_then(|node| child_text(node, "Uri"))
            .map(str::to_owned)
            .ok_or(AnswerError::Missing("address"))
    })
}

/// Runs every parser of this module; the entry for fuzzing.
pub fn parse_any(bytes: &[u8]) {
    let _ = parse_time(bytes);
    let _ = parse_information(bytes);
    let _ = parse_capabilities(bytes);
    let _ = parse_services(bytes);
    let _ = parse_profiles(bytes);
    let _ = parse_uri(bytes, Question::StreamUri(""));
    let _ = parse_uri(bytes, Question::SnapshotUri(""));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn soap(body: &str) -> Vec<u8> {
        format!(
            "<?xml version=\"1.0\"?><e:Envelope xmlns:e=\"{SOAP}\" xmlns:tt=\"{SCHEMA}\" xmlns:trt=\"{MEDIA}\" \
             xmlns:tds=\"{DEVICE}\"><e:Header/><e:Body>{body}</e:Body></e:Envelope>"
        )
        .into_bytes()
    }

    #[test]
    fn the_username_token_is_the_one_of_the_specification() {
        // ONVIF Application Programmer's Guide §6.1.1.3: the example with user "user" and password "userpassword".
        let login = Login::new("user", "userpassword").expect("fits");
        let nonce = BASE64.decode(b"LKqI6G/AikKCQrN0zqZFlg==").expect("base64");
        let sha1 = |bytes: &[u8]| {
            let algorithm = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
            aws_lc_rs::digest::digest(algorithm, bytes)
                .as_ref()
                .to_vec()
        };
        let now = "2010-09-16T07:50:45Z".parse().expect("a time");
        let nonce = nonce.try_into().expect("16 bytes");
        let token = UsernameToken::new(&login, nonce, now, sha1);
        assert_eq!(token.digest, "tuOSpGlFlIXsozq4HFNeeGeFLEI=");
        let text = Question::StreamUri("a&\"b").envelope(Some(&token));
        let document = xml::parse(&text).expect("well-formed");
        let told = document
            .descendants()
            .find_map(|node| child_text(node, "ProfileToken"));
        assert_eq!(told, Some("a&\"b"));
        assert!(!text.contains("userpassword"));
    }

    #[test]
    fn profiles_and_addresses_are_read() {
        let profiles = parse_profiles(&soap(
            "<trt:GetProfilesResponse><trt:Profiles token=\"main\" fixed=\"true\"><tt:Name>Main</tt:Name>\
             <tt:VideoEncoderConfiguration token=\"v\"><tt:Encoding>H264</tt:Encoding><tt:Resolution>\
             <tt:Width>1280</tt:Width><tt:Height>720</tt:Height></tt:Resolution></tt:VideoEncoderConfiguration>\
             </trt:Profiles><trt:Profiles token=\"audio\"/></trt:GetProfilesResponse>",
        ));
        let profiles = profiles.expect("two");
        assert_eq!(profiles[0].token, "main");
        assert_eq!(profiles[0].resolution, Some((1280, 720)));
        assert_eq!(profiles[1].encoding, None);
        let uri = soap(
            "<trt:GetSnapshotUriResponse><trt:MediaUri><tt:Uri> http://10.0.0.4/a.jpg </tt:Uri></trt:MediaUri>\
             </trt:GetSnapshotUriResponse>",
        );
        let question = Question::SnapshotUri("main");
        assert_eq!(
            parse_uri(&uri, question).as_deref(),
            Ok("http://10.0.0.4/a.jpg")
        );
        let wrong = parse_uri(&uri, Question::StreamUri("main"));
        assert_eq!(wrong, Err(AnswerError::Missing("answer")));
    }

    #[test]
    fn the_devices_clock_is_read_and_an_impossible_one_refused() {
        let time = |month, second| {
            soap(&format!(
                "<tds:GetSystemDateAndTimeResponse><tds:SystemDateAndTime><tt:UTCDateTime><tt:Time>\
                 <tt:Hour>7</tt:Hour><tt:Minute>5</tt:Minute><tt:Second>{second}</tt:Second></tt:Time><tt:Date>\
                 <tt:Year>2013</tt:Year><tt:Month>{month}</tt:Month><tt:Day>4</tt:Day></tt:Date></tt:UTCDateTime>\
                 </tds:SystemDateAndTime></tds:GetSystemDateAndTimeResponse>"
            ))
        };
        let read = parse_time(&time("2", "60")).map(|time| time.to_string());
        assert_eq!(read.as_deref(), Ok("2013-02-04T07:05:59Z"));
        assert!(parse_time(&time("13", "0")).is_err());
        assert!(parse_time(&time("-1", "0")).is_err());
    }

    #[test]
    fn a_refused_log_in_is_told_apart_from_other_faults() {
        let fault = |code: &str| {
            soap(&format!(
                "<e:Fault><e:Code><e:Value>e:Sender</e:Value><e:Subcode><e:Value>ter:{code}</e:Value></e:Subcode>\
                 </e:Code><e:Reason><e:Text>No\u{202e} way</e:Text></e:Reason></e:Fault>"
            ))
        };
        assert_eq!(
            parse_profiles(&fault("NotAuthorized")),
            Err(AnswerError::LogIn)
        );
        for capture in [
            &include_bytes!("../../testdata/onvif-fault-no-login.xml")[..],
            include_bytes!("../../testdata/onvif-fault-wrong-login.xml"),
        ] {
            assert_eq!(parse_capabilities(capture), Err(AnswerError::LogIn));
        }
        let other = parse_profiles(&fault("ActionNotSupported"));
        let words = "e:Sender ter:ActionNotSupported No way".to_owned();
        assert_eq!(other, Err(AnswerError::Fault(words)));
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(bytes: Vec<u8>, text: String) {
            parse_any(&bytes);
            parse_any(&soap(&text));
        }
    }
}
