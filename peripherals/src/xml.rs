//! Reading XML that a stranger wrote: every quantity that could cost memory, time or stack is bounded before the
//! parser proper sees the text.
//!
//! roxmltree refuses DTDs (no entity bombs) and limits nodes; the scan here adds what it does not bound: nesting,
//! attributes of one element (its duplicate check is quadratic) and namespace declarations (copied down the tree).

use std::borrow::Cow;

/// Deepest nesting of elements accepted. A UPnP description needs 8.
pub const MAX_DEPTH: usize = 32;
/// Most nodes (elements, attributes' owners, texts) accepted in one document.
pub const MAX_NODES: u32 = 50_000;
/// Most attributes on one element. DIDL-Lite's `res` has fewer than 20.
pub const MAX_ATTRIBUTES: usize = 64;
/// Most namespace declarations in one document: a server may repeat one on each item of a page.
pub const MAX_NAMESPACES: usize = 4096;

/// Why a document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Not XML, or XML with a DTD.
    #[error("it is not well-formed XML: {0}")]
    Malformed(String),
    /// Well-formed perhaps, but beyond a limit.
    #[error("it holds too much: more than {limit} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// Parses `text` within the limits of this module.
pub fn parse(text: &str) -> Result<roxmltree::Document<'_>, XmlError> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    check_limits(text)?;
    let options = roxmltree::ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..roxmltree::ParsingOptions::default()
    };
    roxmltree::Document::parse_with_options(text, options).map_err(|error| match error {
        roxmltree::Error::NodesLimitReached => XmlError::TooMuch {
            what: "nodes",
            limit: MAX_NODES as usize,
        },
        other => XmlError::Malformed(other.to_string()),
    })
}

/// Bytes as text: UTF-8, with broken sequences replaced. Devices exist that cut a name inside a character.
pub fn decode(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Text made safe to stand in XML text or a double-quoted attribute; characters XML 1.0 forbids are dropped.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}

/// The trimmed text of the first child element named `name`, whatever its namespace. Devices mix namespaces up.
pub fn child_text<'a>(node: roxmltree::Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name)
        .and_then(|n| n.text())
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

/// The first child element named `name`, whatever its namespace.
pub fn child<'a, 'i>(node: roxmltree::Node<'a, 'i>, name: &str) -> Option<roxmltree::Node<'a, 'i>> {
    node.children()
        .find(|n| n.is_element() && n.tag_name().name() == name)
}

/// One pass over the markup, without recursion or allocation.
fn check_limits(text: &str) -> Result<(), XmlError> {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut namespaces) = (0, 0_usize, 0_usize);
    while let Some(open) = bytes[at..].iter().position(|b| *b == b'<') {
        at += open;
        let rest = &bytes[at..];
        let skipped = if rest.starts_with(b"<!--") {
            find(&rest[4..], b"-->").map(|end| 4 + end + 3)
        } else if rest.starts_with(b"<![CDATA[") {
            find(&rest[9..], b"]]>").map(|end| 9 + end + 3)
        } else if rest.starts_with(b"<?") {
            find(rest, b"?>").map(|end| end + 2)
        } else if rest.starts_with(b"<!") {
            return Err(XmlError::Malformed("a DTD is not accepted".to_owned()));
        } else if rest.starts_with(b"</") {
            depth = depth.saturating_sub(1);
            find(rest, b">").map(|end| end + 1)
        } else {
            let Some(tag) = scan_tag(rest) else {
                return Err(XmlError::Malformed("an element is not closed".to_owned()));
            };
            namespaces += tag.namespaces;
            depth += usize::from(!tag.empty);
            for (count, limit, what) in [
                (depth, MAX_DEPTH, "levels of nesting"),
                (tag.attributes, MAX_ATTRIBUTES, "attributes on one element"),
                (namespaces, MAX_NAMESPACES, "namespace declarations"),
            ] {
                if count > limit {
                    return Err(XmlError::TooMuch { what, limit });
                }
            }
            Some(tag.length)
        };
        let Some(skipped) = skipped else {
            return Err(XmlError::Malformed(
                "it ends in the middle of markup".to_owned(),
            ));
        };
        at += skipped;
    }
    Ok(())
}

struct Tag {
    length: usize,
    attributes: usize,
    namespaces: usize,
    empty: bool,
}

/// Measures one start tag; `None` if it has no end.
fn scan_tag(bytes: &[u8]) -> Option<Tag> {
    let mut tag = Tag {
        length: 0,
        attributes: 0,
        namespaces: 0,
        empty: false,
    };
    let mut quote = None;
    for (index, byte) in bytes.iter().enumerate() {
        match (quote, byte) {
            (Some(open), b) if *b == open => quote = None,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (None, b'=') => tag.attributes += 1,
            (None, b'x') if bytes[index..].starts_with(b"xmlns") => tag.namespaces += 1,
            (None, b'>') => {
                tag.length = index + 1;
                tag.empty = index > 0 && bytes[index - 1] == b'/';
                return Some(tag);
            }
            (Some(_) | None, _) => {}
        }
    }
    None
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document_within_the_limits_is_read() {
        let document = parse(
            "\u{feff} <?xml version=\"1.0\"?><!-- > --><a x='>'><b> hi </b><![CDATA[</a>]]></a>",
        )
        .expect("well-formed");
        assert_eq!(child_text(document.root_element(), "b"), Some("hi"));
    }

    #[test]
    fn an_entity_bomb_is_refused() {
        let bomb = "<?xml version=\"1.0\"?><!DOCTYPE l [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;\">]><l>&b;</l>";
        assert!(matches!(parse(bomb), Err(XmlError::Malformed(_))));
    }

    #[test]
    fn deep_nesting_is_refused_and_wide_is_not() {
        let deep = |n: usize| format!("{}{}", "<a>".repeat(n), "</a>".repeat(n));
        assert!(parse(&deep(MAX_DEPTH)).is_ok());
        assert!(matches!(
            parse(&deep(300_000)),
            Err(XmlError::TooMuch {
                what: "levels of nesting",
                ..
            })
        ));
        assert!(parse(&format!("<r>{}</r>", "<a/>".repeat(1000))).is_ok());
    }

    #[test]
    fn floods_of_attributes_namespaces_and_nodes_are_refused() {
        use std::fmt::Write as _;
        let mut attributes = String::new();
        let mut namespaces = String::new();
        for i in 0..100_000 {
            write!(attributes, " a{i}=''").expect("a String takes all");
        }
        for i in 0..=MAX_NAMESPACES {
            write!(namespaces, "<b xmlns:n='u{i}'/>").expect("a String takes all");
        }
        assert!(matches!(
            parse(&format!("<a{attributes}/>")),
            Err(XmlError::TooMuch { .. })
        ));
        assert!(matches!(
            parse(&format!("<a>{namespaces}</a>")),
            Err(XmlError::TooMuch { .. })
        ));
        let nodes = format!("<r>{}</r>", "<a/>".repeat(MAX_NODES as usize + 1));
        assert!(matches!(
            parse(&nodes),
            Err(XmlError::TooMuch { what: "nodes", .. })
        ));
    }

    #[test]
    fn broken_markup_is_malformed() {
        for text in [
            "",
            "<",
            "<a",
            "<a>",
            "<a></b>",
            "<!--",
            "<a b=\"c></a>",
            "\u{0}<a/>",
            "plain",
        ] {
            assert!(
                matches!(parse(text), Err(XmlError::Malformed(_))),
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn markup_like_text_never_panics(text in "[<>/!?a='\"\\[\\]\\-CDAT ]{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn escaped_text_comes_back(text in "[ -~äß€\u{1f600}]{0,60}") {
            let document = format!("<a b=\"{0}\">{0}</a>", escape(&text));
            let document = parse(&document).expect("escaped text is well-formed");
            let root = document.root_element();
            prop_assert_eq!(root.text().unwrap_or_default(), text.as_str());
            prop_assert_eq!(root.attribute("b").unwrap_or_default(), text.as_str());
        }
    }
}
