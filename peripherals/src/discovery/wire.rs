//! SSDP datagrams, bytes to types and back, pure (UPnP Device Architecture 2.0 §1.2 and §1.3).

use std::net::SocketAddr;
use std::time::Duration;

use crate::device::DeviceKey;
use crate::url::{DeviceUrl, Speaker, UrlRefused};

/// Largest datagram read, in bytes. Larger ones are dropped, not cut.
pub const MAX_DATAGRAM: usize = 8 * 1024;
/// Most header lines of a datagram.
pub const MAX_HEADERS: usize = 64;
/// Shortest time for which an announcement holds; devices exist that say 0.
pub const MIN_MAX_AGE: Duration = Duration::from_mins(1);
/// Longest time for which an announcement holds.
pub const MAX_MAX_AGE: Duration = Duration::from_hours(24);
/// What a device without CACHE-CONTROL means (§1.2.2 recommends 1800 s).
pub const USUAL_MAX_AGE: Duration = Duration::from_mins(30);

/// A device heard by SSDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advert {
    /// It is there (NOTIFY ssdp:alive, or the answer to a search).
    Alive {
        /// UDN, of the root device or of an embedded one.
        udn: DeviceKey,
        /// Where its description is, or why that was refused.
        location: Result<DeviceUrl, UrlRefused>,
        /// How long this holds without being said again.
        max_age: Duration,
    },
    /// It goes (NOTIFY ssdp:byebye).
    Bye {
        /// UDN.
        udn: DeviceKey,
    },
}

/// Why a datagram means nothing to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAdvert {
    /// Not SSDP, or beyond a limit.
    #[error("not an SSDP message")]
    Malformed,
    /// Another control point's search; normal on the multicast group.
    #[error("a search by somebody else")]
    Search,
    /// An announcement without a usable USN or LOCATION.
    #[error("an announcement that lacks {0}")]
    Lacks(&'static str),
}

/// Reads one datagram that came from `source`. Its LOCATION may only point there.
pub fn parse(bytes: &[u8], source: impl Into<Speaker>) -> Result<Advert, NotAnAdvert> {
    let source = source.into();
    if bytes.len() > MAX_DATAGRAM {
        return Err(NotAnAdvert::Malformed);
    }
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line));
    let first = lines.next().unwrap_or_default().trim_end();
    let headers = Headers::read(&mut lines)?;
    if first.starts_with("M-SEARCH ") {
        return Err(NotAnAdvert::Search);
    }
    let notify = first.eq_ignore_ascii_case("NOTIFY * HTTP/1.1");
    let answer = first.starts_with("HTTP/1.") && first.split(' ').nth(1) == Some("200");
    if !notify && !answer {
        return Err(NotAnAdvert::Malformed);
    }
    let udn = headers
        .one("usn")
        .and_then(udn_of_usn)
        .ok_or(NotAnAdvert::Lacks("a USN"))?;
    match headers.one("nts") {
        Some("ssdp:byebye") if notify => return Ok(Advert::Bye { udn }),
        Some("ssdp:alive" | "ssdp:update") => {}
        _ if answer => {}
        _ => return Err(NotAnAdvert::Lacks("an NTS")),
    }
    let location = headers
        .one("location")
        .ok_or(NotAnAdvert::Lacks("a LOCATION"))?;
    Ok(Advert::Alive {
        udn,
        location: DeviceUrl::parse_on(location, source),
        max_age: headers
            .one("cache-control")
            .and_then(max_age)
            .unwrap_or(USUAL_MAX_AGE),
    })
}

/// `uuid:…::urn:…` → `uuid:…` (§1.1.4).
fn udn_of_usn(usn: &str) -> Option<DeviceKey> {
    let udn = usn.split("::").next()?;
    let prefix = udn.get(..5)?;
    if prefix.eq_ignore_ascii_case("uuid:") {
        DeviceKey::new(udn)
    } else {
        None
    }
}

/// `max-age = 100`, among other directives.
fn max_age(text: &str) -> Option<Duration> {
    text.split(',').find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
        let named = name.trim().eq_ignore_ascii_case("max-age");
        named.then(|| Duration::from_secs(seconds).clamp(MIN_MAX_AGE, MAX_MAX_AGE))
    })
}

/// Header lines in order; at most [`MAX_HEADERS`].
struct Headers<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Headers<'a> {
    fn read(lines: &mut impl Iterator<Item = &'a str>) -> Result<Self, NotAnAdvert> {
        let mut headers = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            if headers.len() >= MAX_HEADERS {
                return Err(NotAnAdvert::Malformed);
            }
            // A line without a colon is dropped: some devices fold or decorate.
            if let Some((name, value)) = line.split_once(':') {
                headers.push((name.trim(), value.trim()));
            }
        }
        Ok(Self(headers))
    }

    /// The first header of this name.
    fn one(&self, name: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }
}

/// A search for `target`, answered within `mx` seconds (§1.3.2).
pub fn search(group: SocketAddr, target: &str, mx: u8) -> String {
    format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: {group}\r\nMAN: \"ssdp:discover\"\r\nMX: {mx}\r\nST: {target}\r\n\
         USER-AGENT: {}\r\n\r\n",
        crate::USER_AGENT
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn alive(location: &str) -> String {
        format!(
            "NOTIFY * HTTP/1.1\r\nHost: 239.255.255.250:1900\r\nNTS: ssdp:alive\r\nNT: upnp:rootdevice\r\n\
             USN: uuid:1::upnp:rootdevice\r\nLOCATION: {location}\r\nCACHE-CONTROL: no-cache, max-age = 100\r\n\r\n"
        )
    }

    #[test]
    fn answers_of_real_devices_are_read() {
        let bytes = include_bytes!("../../testdata/minidlna-search-answer.txt");
        let Ok(Advert::Alive {
            udn,
            location,
            max_age,
        }) = parse(bytes, ip("10.78.0.10"))
        else {
            panic!("alive");
        };
        assert_eq!(udn.as_str(), "uuid:4d696e69-444c-164e-9d41-02780000000a");
        assert_eq!(
            location.expect("its own").to_string(),
            "http://10.78.0.10:8200/rootDesc.xml"
        );
        assert_eq!(max_age, Duration::from_secs(70));
        let bytes = include_bytes!("../../testdata/gmediarender-search-answer.txt");
        assert!(matches!(
            parse(bytes, ip("10.78.0.20")),
            Ok(Advert::Alive { udn, location: Ok(_), .. }) if udn.as_str() == "uuid:GMediaRender-1_0-000-000-002"
        ));
    }

    #[test]
    fn a_location_elsewhere_is_refused() {
        for location in [
            "http://10.0.0.1/d.xml",
            "http://127.0.0.1:8080/",
            "http://router/",
            "https://10.0.0.7/",
        ] {
            let advert = parse(alive(location).as_bytes(), ip("10.0.0.7"));
            assert!(
                matches!(
                    advert,
                    Ok(Advert::Alive {
                        location: Err(_),
                        ..
                    })
                ),
                "{location}"
            );
        }
        let own = parse(alive("http://127.0.0.1/d").as_bytes(), ip("127.0.0.1"));
        assert!(matches!(
            own,
            Ok(Advert::Alive {
                location: Ok(_),
                ..
            })
        ));
    }

    #[test]
    fn goodbyes_searches_and_noise_are_told_apart() {
        let bye = alive("http://10.0.0.7/").replace("ssdp:alive", "ssdp:byebye");
        assert!(matches!(
            parse(bye.as_bytes(), ip("10.0.0.7")),
            Ok(Advert::Bye { .. })
        ));
        let group = SocketAddr::from(([239, 255, 255, 250], 1900));
        let search = search(group, "ssdp:all", 2);
        assert_eq!(
            parse(search.as_bytes(), ip("10.0.0.7")),
            Err(NotAnAdvert::Search)
        );
        for noise in [
            "",
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "\0\0\0",
        ] {
            assert_eq!(
                parse(noise.as_bytes(), ip("10.0.0.7")),
                Err(NotAnAdvert::Malformed)
            );
        }
    }

    #[test]
    fn limits_hold() {
        let many = alive(&format!(
            "http://10.0.0.7/\r\n{}",
            "X: y\r\n".repeat(MAX_HEADERS)
        ));
        assert_eq!(
            parse(many.as_bytes(), ip("10.0.0.7")),
            Err(NotAnAdvert::Malformed)
        );
        let large = alive(&format!("http://10.0.0.7/{}", "a".repeat(MAX_DATAGRAM)));
        assert_eq!(
            parse(large.as_bytes(), ip("10.0.0.7")),
            Err(NotAnAdvert::Malformed)
        );
        assert_eq!(max_age("max-age=0"), Some(MIN_MAX_AGE));
        assert_eq!(max_age("max-age=99999999999"), Some(MAX_MAX_AGE));
        assert_eq!(max_age("max-age=99999999999999999999999"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes, ip("10.0.0.7"));
        }

        #[test]
        fn arbitrary_headers_never_panic_nor_leave_the_source(usn in ".{0,80}", location in ".{0,80}", age in ".{0,30}") {
            let text = format!(
                "HTTP/1.1 200 OK\r\nUSN: uuid:{usn}\r\nLOCATION: {location}\r\nCACHE-CONTROL: {age}\r\n\r\n"
            );
            if let Ok(Advert::Alive { location: Ok(url), .. }) = parse(text.as_bytes(), ip("10.0.0.7")) {
                prop_assert_eq!(url.host(), ip("10.0.0.7"));
            }
        }
    }
}
