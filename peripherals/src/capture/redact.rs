//! Taking a household's secrets out of what its devices said, so that a capture may leave the house; pure.
//!
//! The same secret always becomes the same stand-in, so that a capture still fits together: addresses of 192.0.2.0/24 and
//! 2001:db8::/32 (RFC 5737, RFC 3849), hardware addresses 02:00:00:00:00:xx, UUIDs with their first group kept (it often
//! names the maker).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::device::MacAddress;

/// Shortest word that is replaced wherever it stands; a shorter one is replaced only in its own element.
const MIN_WORD: usize = 4;
/// Elements whose text is a secret, as `(name, stand-in)`.
const SECRET_ELEMENTS: &[(&str, &str)] = &[("serialNumber", "serial"), ("UPC", "upc")];
/// Elements whose text tells about the household, left out unless titles are wanted.
const TITLE_ELEMENTS: &[(&str, &str)] = &[
    ("friendlyName", "Device"),
    ("title", "Title"),
    ("creator", "Creator"),
    ("artist", "Artist"),
    ("album", "Album"),
    ("genre", "Genre"),
    ("description", "Description"),
];
/// Names of query parameters whose value is a secret.
const SECRET_PARAMETERS: &[&str] = &[
    "token",
    "key",
    "auth",
    "password",
    "passwd",
    "pwd",
    "pass",
    "user",
    "username",
    "session",
    "sid",
    "secret",
    "signature",
];

/// Words of the formats themselves: a title of that name stays.
const VOCABULARY: &[&str] = &[
    "container",
    "desc",
    "didl-lite",
    "http",
    "http-get",
    "item",
    "object",
    "result",
    "root",
    "title",
    "upnp",
    "uuid",
    "class",
    "music",
    "video",
    "image",
    "audio",
    "device",
    "service",
];

/// Whether what a household called its things stays in a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Titles {
    /// Left out.
    Removed,
    /// Kept: names of devices, titles, artists, albums.
    Kept,
}

/// Replaces secrets, each always by the same stand-in.
#[derive(Debug)]
pub struct Redactor {
    titles: Titles,
    stand_ins: BTreeMap<String, String>,
    /// Words learned from elements, longest first.
    words: Vec<(String, String)>,
}

impl Redactor {
    /// A redactor that knows no secret yet.
    pub fn new(titles: Titles) -> Self {
        Self {
            titles,
            stand_ins: BTreeMap::new(),
            words: Vec::new(),
        }
    }

    /// Has `word` replaced by a stand-in wherever it stands.
    pub fn learn(&mut self, word: &str, what: &str) {
        let word = word.trim();
        let ours = VOCABULARY.contains(&word.to_lowercase().as_str());
        if word.len() < MIN_WORD || ours || self.words.iter().any(|(known, _)| known == word) {
            return;
        }
        let stand_in = self.stand_in(word, |n| format!("{what}-{n}"));
        self.words.push((word.to_owned(), stand_in));
        self.words
            .sort_by_key(|(known, _)| std::cmp::Reverse(known.len()));
    }

    /// Learns a hardware address in all the ways in which devices write it.
    pub fn learn_mac(&mut self, mac: MacAddress) {
        let colons = mac.to_string();
        let bare = colons.replace(':', "");
        for form in [bare.to_uppercase(), bare] {
            self.learn(&form, "mac");
        }
    }

    fn stand_in(&mut self, secret: &str, make: impl Fn(usize) -> String) -> String {
        let next = self.stand_ins.len() + 1;
        let made = self
            .stand_ins
            .entry(secret.to_owned())
            .or_insert_with(|| make(next));
        made.clone()
    }

    /// Learns what `text` gives away about other texts. Call it with everything before [`Redactor::clean`].
    pub fn study(&mut self, text: &str) {
        let mut all = SECRET_ELEMENTS.to_vec();
        if self.titles == Titles::Removed {
            all.extend(TITLE_ELEMENTS);
        }
        for (element, what) in all {
            for (start, end) in element_texts(text, element) {
                let word = &text[start..end];
                // Inside an argument of an action the markup is escaped once more: both forms are the same secret.
                self.learn(word, what);
                self.learn(&unescape(word), what);
            }
        }
    }

    /// `text` without secrets.
    pub fn clean(&mut self, text: &str) -> String {
        let text = self.clean_elements(text);
        // Addresses before words: a UUID may end in a hardware address, which alone would leave the rest of it.
        let mut text = self.clean_tokens(&clean_urls(&text));
        for (word, stand_in) in &self.words {
            if text.contains(word.as_str()) {
                text = text.replace(word.as_str(), stand_in);
            }
        }
        text
    }

    /// Elements whose whole text is a secret, however short.
    fn clean_elements(&mut self, text: &str) -> String {
        let mut all = SECRET_ELEMENTS.to_vec();
        if self.titles == Titles::Removed {
            all.extend(TITLE_ELEMENTS);
        }
        let mut text = text.to_owned();
        for (element, what) in all {
            let mut out = String::with_capacity(text.len());
            let mut from = 0;
            for (start, end) in joined(element_texts(&text, element)) {
                out.push_str(&text[from..start]);
                let secret = text[start..end].trim().to_owned();
                if !secret.is_empty() {
                    out.push_str(&self.stand_in(&unescape(&secret), |n| format!("{what}-{n}")));
                }
                from = end;
            }
            out.push_str(&text[from..]);
            text = out;
        }
        text
    }

    /// Addresses, hardware addresses and UUIDs.
    fn clean_tokens(&mut self, text: &str) -> String {
        let is_token = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '-');
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_token) {
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            let end = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
            let before = out.chars().next_back();
            out.push_str(&self.clean_token(&rest[..end], before));
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }

    fn clean_token(&mut self, token: &str, before: Option<char>) -> String {
        // Punctuation around it, and a port after it, are not part of it.
        let core = token.trim_matches(['.', ':', '-']);
        if before.is_some_and(|c| c.is_ascii_alphanumeric()) {
            // The end of a word, such as the d of "uuid:"; what stands behind its colon is looked at for itself.
            return match token.split_once(':') {
                Some((word, rest)) => format!("{word}:{}", self.clean_token(rest, None)),
                None => token.to_owned(),
            };
        }
        if core.is_empty() {
            return token.to_owned();
        }
        let head = token.len() - token.trim_start_matches(['.', ':', '-']).len();
        let (lead, tail) = (&token[..head], &token[head + core.len()..]);
        if let Some(clean) = self.clean_word(core) {
            return format!("{lead}{clean}{tail}");
        }
        if let Some((address, port)) = core.split_once(':')
            && let Some(clean) = self.clean_word(address)
        {
            return format!("{lead}{clean}:{port}{tail}");
        }
        if let Ok(address) = token.parse::<Ipv6Addr>()
            && token.len() >= 6
        {
            return self.stand_in(&address.to_string(), |n| format!("2001:db8::{n:x}"));
        }
        token.to_owned()
    }

    fn clean_word(&mut self, word: &str) -> Option<String> {
        if let Ok(address) = word.parse::<Ipv4Addr>() {
            let plain = address.is_multicast()
                || address.is_unspecified()
                || address.is_broadcast()
                || address.is_loopback();
            return Some(if plain {
                word.to_owned()
            } else {
                self.stand_in(word, |n| format!("192.0.2.{}", n % 255))
            });
        }
        if word.parse::<MacAddress>().is_ok() {
            let same = word.replace('-', ":").to_lowercase();
            return Some(self.stand_in(&same, |n| {
                format!("02:00:00:00:{:02x}:{:02x}", n >> 8 & 255, n & 255)
            }));
        }
        if is_uuid(word) {
            let same = word.to_lowercase();
            let first = &word[..8];
            return Some(self.stand_in(&same, |n| format!("{first}-0000-4000-8000-{n:012x}")));
        }
        None
    }
}

fn is_uuid(word: &str) -> bool {
    let groups: Vec<usize> = word.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && !word.contains([':', '.'])
}

/// Where the texts of `element` stand, in plain markup or in markup that is itself escaped.
fn element_texts(text: &str, element: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (open, close) in [("<", ">"), ("&lt;", "&gt;")] {
        let mut at = 0;
        while let Some(start) = text[at..].find(open).map(|n| at + n + open.len()) {
            at = start;
            // No tag holds the beginning of another. Looked for no further, a text of nothing but such beginnings
            // costs its length and not the square of it.
            let next = text[start..].find(open).map_or(text.len(), |n| start + n);
            let Some(end) = text[start..next].find(close).map(|n| start + n) else {
                continue;
            };
            let tag = &text[start..end];
            let name = tag.split([' ', '\t', '\r', '\n', '/']).next().unwrap_or("");
            let local = name.rsplit(':').next().unwrap_or(name);
            if local != element || tag.ends_with('/') || tag.starts_with('/') {
                continue;
            }
            let body = end + close.len();
            let Some(stop) = text[body..].find(&format!("{open}/")).map(|n| body + n) else {
                break;
            };
            found.push((body, stop));
            at = stop;
        }
    }
    found.sort_unstable();
    found
}

/// Texts that overlap, an escaped one in a plain one for instance, become one.
fn joined(sorted: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    let mut out: Vec<(usize, usize)> = Vec::with_capacity(sorted.len());
    for (start, end) in sorted {
        match out.last_mut() {
            Some((_, last)) if start < *last => *last = end.max(*last),
            _ => out.push((start, end)),
        }
    }
    out
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

/// User names and passwords in URLs, and secret query parameters.
fn clean_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (head, tail) = rest.split_at(start + 3);
        out.push_str(head);
        let end = tail
            .find(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"' | '\''))
            .unwrap_or(tail.len());
        let (url, after) = tail.split_at(end);
        let authority_end = url.find(['/', '?', '#']).unwrap_or(url.len());
        let (authority, path) = url.split_at(authority_end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str("removed@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        out.push_str(&clean_query(path));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn clean_query(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else {
        return path.to_owned();
    };
    let clean = |pair: &str| match pair.split_once('=') {
        Some((name, _))
            if SECRET_PARAMETERS
                .iter()
                .any(|secret| name.trim_start_matches("amp;").eq_ignore_ascii_case(secret)) =>
        {
            format!("{name}=removed")
        }
        _ => pair.to_owned(),
    };
    let pairs: Vec<String> = query.split('&').map(clean).collect();
    format!("{path}?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn elements_are_found_among_tags_that_only_begin() {
        let many = "<".repeat(1000);
        let escaped = "&lt;".repeat(1000);
        for text in [
            format!("{many}<title>Anna</title>>"),
            format!("<title {many}<dc:title x='1'>Anna</dc:title>"),
            format!("{escaped}&lt;title&gt;Anna&lt;/title&gt;"),
        ] {
            let found = element_texts(&text, "title");
            let words: Vec<&str> = found.iter().map(|(from, to)| &text[*from..*to]).collect();
            assert_eq!(words, ["Anna"]);
        }
    }

    #[test]
    fn markup_in_a_title_goes_with_the_title() {
        for text in [
            "<title>a &lt;title&gt;Anna&lt;/title&gt; b</title>",
            "<title>a &lt;title&gt;Anna</title>Tom&lt;/title&gt;",
        ] {
            let clean = Redactor::new(Titles::Removed).clean(text);
            assert!(!clean.contains("Anna") && !clean.contains("Tom"), "{clean}");
            assert!(clean.starts_with("<title>Title-1"), "{clean}");
        }
    }

    #[test]
    fn secrets_go_and_what_belongs_together_still_does() {
        let text = "LOCATION: http://10.0.0.7:8200/d.xml\r\nUSN: uuid:4d696e69-444c-164e-9d41-02780000000a::x\r\n\
            <serialNumber>0451-77</serialNumber><dc:title>Birthday of Anna</dc:title>\
            &lt;dc:title&gt;Tom &amp;amp; Ida&lt;/dc:title&gt; rtsp://admin:hunter2@10.0.0.7:554/s?token=abc&amp;x=1 \
            02:78:00:00:00:0A 02780000000a fe80::78ff:fe00:1 1.5 0:01:02 239.255.255.250:1900 Server: Linux/6.1";
        let mut redactor = Redactor::new(Titles::Removed);
        redactor.learn_mac("02:78:00:00:00:0a".parse().expect("valid"));
        redactor.study(text);
        let clean = redactor.clean(text);
        for secret in [
            "10.0.0.7", "444c", "0451", "Anna", "Ida", "hunter2", "admin", "abc", "02:78", "02780",
            "fe80",
        ] {
            assert!(!clean.contains(secret), "{secret} in {clean}");
        }
        for kept in [
            "uuid:4d696e69-0000-4000",
            ":8200/d.xml",
            ":554/s?token=removed",
            "x=1",
            "0:01:02",
            "239.255.255.250:1900",
            "Linux/6.1",
        ] {
            assert!(clean.contains(kept), "no {kept} in {clean}");
        }
        let address = clean
            .split("http://")
            .nth(1)
            .and_then(|rest| rest.split(':').next())
            .expect("an address");
        assert!(clean.contains(&format!("removed@{address}:554")), "{clean}");
        assert_eq!(redactor.clean("10.0.0.7"), address, "the same again");
    }

    #[test]
    fn titles_are_kept_on_demand() {
        let mut redactor = Redactor::new(Titles::Kept);
        redactor.study("<dc:title>Sea</dc:title>");
        assert_eq!(
            redactor.clean("<dc:title>Sea</dc:title>"),
            "<dc:title>Sea</dc:title>"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_cleaned_without_panic(text in r"[<>&;:/@?=.a-f0-9\-ltgü ]{0,80}|\PC{0,60}") {
            let mut redactor = Redactor::new(Titles::Removed);
            redactor.study(&text);
            let _ = redactor.clean(&text);
        }

        #[test]
        fn no_address_stays(a in 1_u8..220, b in any::<u8>(), c in any::<u8>(), d in any::<u8>()) {
            let address = Ipv4Addr::new(a, b, c, d);
            prop_assume!(!address.is_loopback() && (a, b, c) != (192, 0, 2));
            let text = format!("x http://{address}:80/a ({address}) <{address}>");
            let clean = Redactor::new(Titles::Removed).clean(&text);
            let [url, bare] = [format!("/{address}:"), format!("({address})")];
            prop_assert!(!clean.contains(&url) && !clean.contains(&bare), "{}", clean);
        }
    }
}
