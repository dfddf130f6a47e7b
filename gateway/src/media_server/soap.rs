//! SOAP calls and answers (UPnP Device Architecture 1.1 §3), bytes to types and back; pure. A call is hostile input: its
//! size is bounded by the reader, its XML by `mantel_peripherals::xml`, its arguments here.

use mantel_peripherals::xml::{self, child};
use std::fmt::Write as _;

/// The largest call, bytes.
pub const MAX_CALL_BYTES: usize = 32 * 1024;
/// The most arguments of a call; Browse and Search have six.
const MAX_ARGUMENTS: usize = 16;
/// Longest argument, bytes.
const MAX_ARGUMENT_BYTES: usize = 8 * 1024;

/// A call: the action and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The action's name.
    pub action: String,
    arguments: Vec<(String, String)>,
}

/// A UPnP error (UPnP Device Architecture 1.1 §3.2.2, ContentDirectory:1 §2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 401: no such action here.
    Action,
    /// 402: an argument is missing or is not what it should be.
    Arguments,
    /// 501: the gateway could not do it now.
    Failed,
    /// 606: the household does not let this player in.
    NotLetIn,
    /// 701: no such object.
    NoObject,
    /// 708: a search that is not understood.
    Search,
    /// 709: a sort that is not understood.
    Sort,
    /// 710: no such container.
    NoContainer,
    /// 706: no such connection.
    NoConnection,
}

impl Fault {
    /// Its number and its words.
    pub fn words(self) -> (u16, &'static str) {
        match self {
            Self::Action => (401, "Invalid Action"),
            Self::Arguments => (402, "Invalid Args"),
            Self::Failed => (501, "Action Failed"),
            Self::NotLetIn => (
                606,
                "Action not authorized: this player is ignored on the gateway's devices page",
            ),
            Self::NoObject => (701, "No such object"),
            Self::Search => (708, "Unsupported or invalid search criteria"),
            Self::Sort => (709, "Unsupported or invalid sort criteria"),
            Self::NoContainer => (710, "No such container"),
            Self::NoConnection => (706, "Invalid connection reference"),
        }
    }
}

impl Call {
    /// Reads a call. `None`: it is no SOAP call, or beyond a limit.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let text = xml::decode(body);
        let document = xml::parse(&text).ok()?;
        let body = child(document.root_element(), "Body")?;
        // Only elements have names.
        let action = body
            .children()
            .find(|node| !node.tag_name().name().is_empty())?;
        let mut arguments = Vec::new();
        for node in action
            .children()
            .filter(|node| !node.tag_name().name().is_empty())
        {
            let value: String = node
                .children()
                .filter_map(|part| part.text().filter(|_| part.is_text()))
                .collect();
            if arguments.len() == MAX_ARGUMENTS || value.len() > MAX_ARGUMENT_BYTES {
                return None;
            }
            arguments.push((node.tag_name().name().to_owned(), value));
        }
        Some(Self {
            action: action.tag_name().name().to_owned(),
            arguments,
        })
    }

    /// An argument, trimmed.
    pub fn text(&self, name: &str) -> Result<&str, Fault> {
        let found = self.arguments.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.trim()).ok_or(Fault::Arguments)
    }

    /// An argument that is a number (ui4).
    pub fn number(&self, name: &str) -> Result<u32, Fault> {
        self.text(name)?.parse().map_err(|_| Fault::Arguments)
    }
}

/// The beginning of an answer, up to its first argument.
pub fn open_answer(out: &mut String, service: &str, action: &str) {
    write!(
        out,
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<s:Envelope \
         xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
         <u:{action}Response xmlns:u=\"{service}\">"
    )
    .expect("a String takes all");
}

/// The end of an answer.
pub fn close_answer(out: &mut String, action: &str) {
    write!(out, "</u:{action}Response></s:Body></s:Envelope>\r\n").expect("a String takes all");
}

/// A whole answer with short arguments.
pub fn answer(service: &str, action: &str, arguments: &[(&str, &str)]) -> String {
    let mut out = String::new();
    open_answer(&mut out, service, action);
    for (name, value) in arguments {
        write!(out, "<{name}>{}</{name}>", xml::escape(value)).expect("a String takes all");
    }
    close_answer(&mut out, action);
    out
}

/// The answer to a call that is refused.
pub fn fault(fault: Fault) -> String {
    let (code, words) = fault.words();
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<s:Envelope \
         xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><s:Fault>\
         <faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
         <UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{code}</errorCode>\
         <errorDescription>{words}</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_peripherals::upnp::wire::{SoapAnswer, parse_soap_answer, soap_request};
    use proptest::prelude::*;

    #[test]
    fn a_call_is_read_and_its_answer_can_be_read() {
        let text = soap_request(
            "urn:x:1",
            "Browse",
            &[("ObjectID", "a&b"), ("StartingIndex", " 7 ")],
        );
        let call = Call::parse(text.as_bytes()).expect("a call");
        assert_eq!(call.action, "Browse");
        assert_eq!(call.text("ObjectID"), Ok("a&b"));
        assert_eq!(call.number("StartingIndex"), Ok(7));
        assert_eq!(call.number("ObjectID"), Err(Fault::Arguments));
        assert_eq!(call.text("Filter"), Err(Fault::Arguments));
        let done = answer("urn:x:1", "Browse", &[("Result", "<a>&")]);
        assert_eq!(
            parse_soap_answer(done.as_bytes(), "Browse"),
            Ok(SoapAnswer::Done(vec![("Result".into(), "<a>&".into())]))
        );
        let refused = parse_soap_answer(fault(Fault::NoObject).as_bytes(), "Browse");
        assert!(matches!(refused, Ok(SoapAnswer::Fault(found)) if found.code == 701));
    }

    proptest! {
        #[test]
        fn arbitrary_calls_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Call::parse(&bytes);
        }
    }
}
