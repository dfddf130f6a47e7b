//! Addresses of streams: `rtsp://<literal address>:<port><target>`, told by a camera (and then on its own address) or
//! typed by the household (and then on a private address). No name is looked up, no user information is kept in one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::live::Login;
use crate::url::{DeviceUrl, MAX_URL_BYTES, UrlRefused};

/// The port where none is told (RFC 2326 §3.2).
pub const DEFAULT_PORT: u16 = 554;

/// A stream's address on one camera.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RtspUrl(DeviceUrl);

/// Why a typed address was refused, in words for the person who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    /// Not `rtsp://` at its head.
    #[error(
        "This is no address of a camera stream. It begins with rtsp:// and the camera's number on the network, \
         such as rtsp://192.168.1.20:554/stream1."
    )]
    NotRtsp,
    /// A name, or nothing readable.
    #[error(
        "The camera must be named by its number on the network, such as 192.168.1.20, not by a name. The router's \
         page lists it."
    )]
    NotLiteral,
    /// Outside the home.
    #[error("{0} is not a number of a home network. Only cameras of this home can be added.")]
    NotAtHome(IpAddr),
    /// Too long.
    #[error("This address is longer than {MAX_URL_BYTES} characters.")]
    TooLong,
    /// User name or password cannot be used.
    #[error(
        "The user name or the password in this address cannot be used. Enter them in their own fields."
    )]
    BadLogin,
}

/// A typed address taken apart.
pub struct TypedUrl {
    /// The stream.
    pub url: RtspUrl,
    /// User name and password, where the address held them.
    pub login: Option<Login>,
}

impl RtspUrl {
    /// Reads a stream's address told by the device at `owner`, which it must stay on.
    pub fn parse(text: &str, owner: IpAddr) -> Result<Self, UrlRefused> {
        let (authority, target) = split(text.trim()).ok_or(UrlRefused::NotHttp)?;
        // Some cameras repeat the log-in in what they tell; it is not needed.
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let full = format!("http://{}{target}", with_port(authority));
        DeviceUrl::parse(&full, owner).map(Self)
    }

    /// The root stream at an address and port: what DNS-SD tells.
    pub fn at(address: IpAddr, port: u16, path: &str) -> Result<Self, UrlRefused> {
        let authority = SocketAddr::new(address, port);
        let slash = if path.starts_with('/') { "" } else { "/" };
        DeviceUrl::parse(&format!("http://{authority}{slash}{path}"), address).map(Self)
    }

    /// Reads what a person typed: any private address of this home, with or without user name and password.
    pub fn typed(text: &str) -> Result<TypedUrl, UrlProblem> {
        let text = text.trim();
        if text.len() > MAX_URL_BYTES {
            return Err(UrlProblem::TooLong);
        }
        let (authority, target) = split(text).ok_or(UrlProblem::NotRtsp)?;
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        let login = login.map(read_login).transpose()?;
        let authority = with_port(host);
        let literal: SocketAddr = authority.parse().map_err(|_| UrlProblem::NotLiteral)?;
        let address = literal.ip();
        if !is_at_home(address) {
            return Err(UrlProblem::NotAtHome(address));
        }
        let url = DeviceUrl::parse(&format!("http://{literal}{target}"), address)
            .map_err(|_| UrlProblem::NotLiteral)?;
        Ok(TypedUrl {
            url: Self(url),
            login,
        })
    }

    /// The camera's address.
    pub fn host(&self) -> IpAddr {
        self.0.host()
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// Path and query, percent-encoded, starting with `/`.
    pub fn target(&self) -> &str {
        self.0.target()
    }
}

impl fmt::Display for RtspUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = SocketAddr::new(self.host(), self.port());
        write!(f, "rtsp://{authority}{}", self.target())
    }
}

impl fmt::Debug for RtspUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Authority and the rest behind `rtsp://`.
fn split(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case("rtsp://") {
        return None;
    }
    // A password typed by hand may hold any of these; the last @ before the first / ends the log-in.
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// The authority with a port in any case.
fn with_port(authority: &str) -> String {
    let after_host = match authority.rfind(']') {
        Some(end) => &authority[end..],
        None => authority,
    };
    match after_host.split_once(':') {
        None => format!("{authority}:{DEFAULT_PORT}"),
        Some((_, "")) => format!("{authority}{DEFAULT_PORT}"),
        Some(_) => authority.to_owned(),
    }
}

fn read_login(text: &str) -> Result<Login, UrlProblem> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let user = percent_decoded(user).ok_or(UrlProblem::BadLogin)?;
    let password = percent_decoded(password).ok_or(UrlProblem::BadLogin)?;
    Login::new(&user, &password).ok_or(UrlProblem::BadLogin)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

/// Addresses that a home network uses (RFC 1918, RFC 3927, RFC 4193); neither this machine itself nor
/// the rest of the world.
fn is_at_home(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || is_link_local(v4),
        IpAddr::V6(v6) => is_unique_local(v6),
    }
}

fn is_link_local(v4: Ipv4Addr) -> bool {
    v4.is_link_local() && v4 != Ipv4Addr::new(169, 254, 169, 254)
}

fn is_unique_local(v6: Ipv6Addr) -> bool {
    v6.segments()[0] & 0xfe00 == 0xfc00
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAMERA: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 20));

    #[test]
    fn a_stream_stays_on_its_camera() {
        for (text, shown) in [
            ("rtsp://192.168.1.20/cam", "rtsp://192.168.1.20:554/cam"),
            ("RTSP://192.168.1.20:8554", "rtsp://192.168.1.20:8554/"),
            (
                "rtsp://admin:x@192.168.1.20:/a?b=c&d e",
                "rtsp://192.168.1.20:554/a?b=c&d%20e",
            ),
        ] {
            let read = RtspUrl::parse(text, CAMERA).map(|url| url.to_string());
            assert_eq!(read, Ok(shown.to_owned()), "{text}");
        }
        for text in [
            "rtsp://192.168.1.21/cam",
            "rtsp://127.0.0.1/cam",
            "rtsp://192.168.1.20@127.0.0.1/cam",
            "rtsp://camera.lan/cam",
            "http://192.168.1.20/cam",
            "rtsps://192.168.1.20/cam",
            "rtsp://192.168.1.20:0/",
            "rtsp://",
            "",
        ] {
            assert!(RtspUrl::parse(text, CAMERA).is_err(), "{text}");
        }
    }

    #[test]
    fn a_typed_address_is_of_this_home_and_gives_up_its_log_in() {
        let typed = RtspUrl::typed(" rtsp://admin:p%40ss@192.168.1.20:8554/live/0 ")
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(typed.url.to_string(), "rtsp://192.168.1.20:8554/live/0");
        let login = typed.login.expect("it held one");
        assert_eq!((login.user(), login.password()), ("admin", "p@ss"));
        for (text, problem) in [
            ("192.168.1.20", UrlProblem::NotRtsp),
            ("http://192.168.1.20/", UrlProblem::NotRtsp),
            ("rtsp://camera/", UrlProblem::NotLiteral),
            ("rtsp://192.168.1/", UrlProblem::NotLiteral),
            ("rtsp://u:%zz@192.168.1.20/", UrlProblem::BadLogin),
        ] {
            assert_eq!(RtspUrl::typed(text).err(), Some(problem), "{text}");
        }
        for text in [
            "rtsp://8.8.8.8/",
            "rtsp://127.0.0.1/",
            "rtsp://0.0.0.0/",
            "rtsp://169.254.169.254/",
            "rtsp://224.0.0.1/",
            "rtsp://[::1]/",
            "rtsp://[2001:db8::1]/",
            "rtsp://[::ffff:192.168.1.20]/",
        ] {
            let refused = RtspUrl::typed(text).err();
            assert!(matches!(refused, Some(UrlProblem::NotAtHome(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_leaves_the_camera(text in any::<String>()) {
            for text in [text.clone(), format!("rtsp://{text}"), format!("rtsp://192.168.1.20{text}")] {
                if let Ok(url) = RtspUrl::parse(&text, CAMERA) {
                    prop_assert_eq!(url.host(), CAMERA);
                    prop_assert!(url.target().starts_with('/'));
                }
                if let Ok(typed) = RtspUrl::typed(&text) {
                    prop_assert!(is_at_home(typed.url.host()));
                    prop_assert!(!typed.url.to_string().contains('@') || typed.url.target().contains('@'));
                }
            }
        }
    }
}
