//! Addresses of things on a device: plain HTTP, literal IP address, and always the device's own.
//!
//! A device tells us URLs in its announcements, its description and its listings. Followed blindly, each is a way to
//! make the gateway fetch from the household's router, from another device, or from the gateway itself. So the type
//! can only be made with the address that the URL must stay on, and no name is ever looked up.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// Longest URL accepted from a device, in bytes.
pub const MAX_URL_BYTES: usize = 2048;

/// Who spoke: an address, and for a link-local IPv6 address the interface that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Speaker {
    /// Its address.
    pub ip: IpAddr,
    /// The interface's index where the address means nothing without it (RFC 4007 §6), else 0.
    pub scope: u32,
}

impl From<IpAddr> for Speaker {
    fn from(ip: IpAddr) -> Self {
        Self { ip, scope: 0 }
    }
}

impl From<SocketAddr> for Speaker {
    fn from(from: SocketAddr) -> Self {
        let scope = match from {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
            SocketAddr::V4(_) | SocketAddr::V6(_) => 0,
        };
        Self {
            ip: from.ip(),
            scope,
        }
    }
}

/// A URL on one device: `http://<literal address>:<port><target>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceUrl {
    host: IpAddr,
    /// See [`Speaker::scope`].
    scope: u32,
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
        Self::parse_on(text, owner.into())
    }

    /// Reads an absolute URL that must stay on `owner`, who may have spoken by link-local IPv6.
    pub fn parse_on(text: &str, owner: Speaker) -> Result<Self, UrlRefused> {
        let text = text.trim();
        if text.len() > MAX_URL_BYTES {
            return Err(UrlRefused::TooLong);
        }
        let rest = strip_scheme(text).ok_or(UrlRefused::NotHttp)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (host, port) = parse_authority(authority).ok_or(UrlRefused::NotLiteral)?;
        if host != owner.ip {
            return Err(UrlRefused::OtherHost(host));
        }
        Ok(Self {
            host,
            scope: owner.scope,
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
            return Self::parse_on(reference, self.owner());
        }
        if let Some(after) = reference.strip_prefix("//") {
            return Self::parse_on(&format!("http://{after}"), self.owner());
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
            scope: self.scope,
            port: self.port,
            target,
        })
    }

    /// The device's address.
    pub fn host(&self) -> IpAddr {
        self.host
    }

    /// The device as the one whom the URL must stay on.
    pub fn owner(&self) -> Speaker {
        Speaker {
            ip: self.host,
            scope: self.scope,
        }
    }

    /// Where to connect.
    pub(crate) fn socket(&self) -> SocketAddr {
        match self.host {
            IpAddr::V4(_) => SocketAddr::new(self.host, self.port),
            IpAddr::V6(host) => SocketAddrV6::new(host, self.port, 0, self.scope).into(),
        }
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
        // A zone (RFC 6874) is the device's own name for its interface and means nothing here.
        let host = host.split('%').next().unwrap_or_default();
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
    fn a_link_local_device_is_reached_on_the_interface_it_was_heard_on() {
        let heard: SocketAddr = "[fe80::7%3]:1900".parse().expect("an address");
        let base =
            DeviceUrl::parse_on("http://[fe80::7%25eth0]:80/d.xml", heard.into()).expect("its own");
        assert_eq!(base.socket().to_string(), "[fe80::7%3]:80");
        assert_eq!(base.to_string(), "http://[fe80::7]:80/d.xml");
        for reference in ["/c", "http://[fe80::7]/c", "//[fe80::7]/c"] {
            let url = base.join(reference).expect("its own");
            assert_eq!(url.socket().to_string(), "[fe80::7%3]:80", "{reference}");
        }
        assert!(base.join("http://[fe80::8]/c").is_err());
        let global: SocketAddr = "[2001:db8::7%3]:1900".parse().expect("an address");
        assert_eq!(Speaker::from(global).scope, 0);
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
