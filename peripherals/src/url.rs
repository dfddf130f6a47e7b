//! Addresses of things on a device: plain HTTP, literal IP address, and always the device's own.
//!
//! A device tells us URLs in its announcements, its description and its listings. Followed blindly, each is a way to
//! make the gateway fetch from the household's router, from another device, or from the gateway itself. So the type
//! can only be made with the address that the URL must stay on, and no name is ever looked up.

use std::fmt;
use std::net::IpAddr;

/// Longest URL accepted from a device, in bytes.
pub const MAX_URL_BYTES: usize = 2048;

/// A URL on one device: `http://<literal address>:<port><target>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceUrl {
    host: IpAddr,
    port: u16,
    target: String,
}

/// Why a URL from a device was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefused {
    /// Longer than [`MAX_URL_BYTES`].
    #[error("its address is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// Another scheme than http.
    #[error("its address is not a plain http address")]
    NotHttp,
    /// A name where a literal address must stand, or nothing readable.
    #[error("its address holds no literal IP address")]
    NotLiteral,
    /// The URL points to another host than the device.
    #[error("it points to another device ({0})")]
    OtherHost(IpAddr),
}

impl DeviceUrl {
    /// Reads an absolute URL that must stay on `owner`.
    pub fn parse(text: &str, owner: IpAddr) -> Result<Self, UrlRefused> {
        let text = text.trim();
        if text.len() > MAX_URL_BYTES {
            return Err(UrlRefused::TooLong);
        }
        let rest = strip_scheme(text).ok_or(UrlRefused::NotHttp)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (host, port) = parse_authority(authority).ok_or(UrlRefused::NotLiteral)?;
        if host != owner {
            return Err(UrlRefused::OtherHost(host));
        }
        Ok(Self {
            host,
            port,
            target: clean_target(target),
        })
    }

    /// Resolves what a description says about a service: absolute, absolute path, or relative to this URL.
    pub fn join(&self, reference: &str) -> Result<Self, UrlRefused> {
        let reference = reference.trim();
        if reference.len() > MAX_URL_BYTES {
            return Err(UrlRefused::TooLong);
        }
        let head = reference.split(['/', '?', '#']).next().unwrap_or_default();
        if head.contains(':') {
            return Self::parse(reference, self.host);
        }
        if let Some(after) = reference.strip_prefix("//") {
            return Self::parse(&format!("http://{after}"), self.host);
        }
        let target = if reference.starts_with('/') {
            clean_target(reference)
        } else {
            let path = self.target.split('?').next().unwrap_or_default();
            let folder = &path[..=path.rfind('/').unwrap_or(0)];
            clean_target(&format!("{folder}{reference}"))
        };
        Ok(Self {
            host: self.host,
            port: self.port,
            target,
        })
    }

    /// The device's address.
    pub fn host(&self) -> IpAddr {
        self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, percent-encoded, starting with `/`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// `host:port` as the Host header wants it, brackets for IPv6.
    pub(crate) fn authority(&self) -> String {
        std::net::SocketAddr::new(self.host, self.port).to_string()
    }
}

impl fmt::Display for DeviceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.target)
    }
}

impl fmt::Debug for DeviceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case("http://").then_some(rest)
}

/// `10.0.0.7`, `10.0.0.7:80` or `[fe80::1]:80`. User information is not accepted.
fn parse_authority(text: &str) -> Option<(IpAddr, u16)> {
    let (host, port) = if let Some(inner) = text.strip_prefix('[') {
        let (host, after) = inner.split_once(']')?;
        (IpAddr::V6(host.parse().ok()?), after)
    } else {
        let end = text.find(':').unwrap_or(text.len());
        (IpAddr::V4(text[..end].parse().ok()?), &text[end..])
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => 80,
        Some("") => 80,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        None | Some(_) => return None,
    };
    (port != 0).then_some((host, port))
}

/// Drops the fragment and percent-encodes what may not stand in a request line: devices put spaces, umlauts and
/// worse into paths.
fn clean_target(text: &str) -> String {
    use fmt::Write as _;
    let text = text.split('#').next().unwrap_or_default();
    let mut out = String::with_capacity(text.len() + 1);
    if !text.starts_with('/') {
        out.push('/');
    }
    for byte in text.bytes() {
        match byte {
            b'!' | b'$'..=b';' | b'=' | b'?'..=b'[' | b']' | b'_' | b'a'..=b'z' | b'~' => {
                out.push(char::from(byte));
            }
            other => write!(out, "%{other:02X}").expect("a String takes all"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const OWNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 10));

    #[test]
    fn a_url_on_the_device_itself_is_accepted() {
        for (text, shown) in [
            (
                "http://10.78.0.10:8200/rootDesc.xml",
                "http://10.78.0.10:8200/rootDesc.xml",
            ),
            ("HTTP://10.78.0.10", "http://10.78.0.10:80/"),
            ("http://10.78.0.10:?a b", "http://10.78.0.10:80/?a%20b"),
            (
                "http://10.78.0.10/ä\r\nX: y#z",
                "http://10.78.0.10:80/%C3%A4%0D%0AX:%20y",
            ),
            (
                "http://10.78.0.10:8200/Resized/23.jpg?width=160,height=120",
                "http://10.78.0.10:8200/Resized/23.jpg?width=160,height=120",
            ),
        ] {
            assert_eq!(
                DeviceUrl::parse(text, OWNER).map(|u| u.to_string()),
                Ok(shown.to_owned())
            );
        }
    }

    #[test]
    fn every_way_off_the_device_is_refused() {
        for text in [
            "http://10.78.0.11/d.xml",
            "http://127.0.0.1/d.xml",
            "http://localhost/d.xml",
            "http://router.lan/d.xml",
            "https://10.78.0.10/d.xml",
            "file:///etc/passwd",
            "http://10.78.0.10@127.0.0.1/d.xml",
            "http://10.78.0.10:80@127.0.0.1/d.xml",
            "http://0x0a4e000a/d.xml",
            "http://10.78.10/d.xml",
            "http://10.78.0.10:0/",
            "http://10.78.0.10:99999/",
            "http://10.78.0.10:+80/",
            "http://[::1]/",
            "http://[::ffff:10.78.0.10]/",
            "http:///d.xml",
            "",
        ] {
            assert!(DeviceUrl::parse(text, OWNER).is_err(), "{text}");
        }
        let long = format!("http://10.78.0.10/{}", "a".repeat(MAX_URL_BYTES));
        assert_eq!(DeviceUrl::parse(&long, OWNER), Err(UrlRefused::TooLong));
    }

    #[test]
    fn references_are_resolved_and_cannot_leave_the_device() {
        let base = DeviceUrl::parse("http://10.78.0.10:8200/a/desc.xml?x=/y", OWNER).expect("own");
        for (reference, target) in [
            ("/ctl/ContentDir", "/ctl/ContentDir"),
            ("ctl", "/a/ctl"),
            ("", "/a/"),
            ("?q", "/a/?q"),
            ("http://10.78.0.10:8200/ctl", "/ctl"),
            ("//10.78.0.10:8200/ctl", "/ctl"),
        ] {
            assert_eq!(
                base.join(reference).map(|u| u.target),
                Ok(target.to_owned()),
                "{reference}"
            );
        }
        for reference in [
            "http://10.78.0.1/ctl",
            "//10.78.0.1/ctl",
            "ftp://10.78.0.10/",
            "javascript:x",
        ] {
            assert!(base.join(reference).is_err(), "{reference}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_leaves_the_owner(text in any::<String>(), reference in any::<String>()) {
            let base = DeviceUrl::parse("http://10.78.0.10/d", OWNER).expect("own");
            for url in [
                DeviceUrl::parse(&text, OWNER),
                DeviceUrl::parse(&format!("http://10.78.0.10{text}"), OWNER),
                base.join(&reference),
            ]
            .into_iter()
            .flatten()
            {
                prop_assert_eq!(url.host(), OWNER);
                prop_assert!(url.target().starts_with('/'));
                prop_assert!(url.target().bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(url.target().parse::<hyper::http::uri::PathAndQuery>().is_ok());
            }
        }
    }
}
