//! The claim link: `https://HOST:8443/claim/CODE#PIN` (F33). One text to type or scan names the server, proves its key
//! and carries the single-use code.

use data_encoding::BASE32_NOPAD;
use mantel_runtime::tls::Pin;

/// The longest claim link, characters.
pub const MAX_LINK_CHARS: usize = 512;
/// The API's usual port.
pub const DEFAULT_API_PORT: u16 = 8443;
/// Characters of a claim code (Crockford base32).
pub const CODE_CHARS: usize = 8;

/// What a claim link says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimLink {
    /// Name or address of the server; IPv6 without brackets.
    pub host: String,
    /// Port of the API.
    pub port: u16,
    /// The single-use code.
    pub code: String,
    /// SHA-256 of the server certificate's public key.
    pub pin: Pin,
}

/// What is wrong with a claim link; Display is for the person who typed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimLinkError {
    /// Nothing, or far too much.
    #[error("paste the whole claim link from the operator's page; it begins with https://")]
    NotALink,
    /// `http://`.
    #[error("the claim link must begin with https:// — copy it again from the operator's page")]
    NotHttps,
    /// The host or the port cannot be read.
    #[error(
        "the server's address in the claim link cannot be read — copy the link again from the operator's page"
    )]
    Host,
    /// There is no `/claim/CODE`.
    #[error(
        "the claim link has no valid code: eight letters and digits after /claim/ were expected"
    )]
    Code,
    /// The part after `#` is missing or damaged.
    #[error(
        "the part after # in the claim link is missing or damaged: it proves the server's identity, so copy the whole link"
    )]
    Pin,
}

impl std::str::FromStr for ClaimLink {
    type Err = ClaimLinkError;

    fn from_str(text: &str) -> Result<Self, ClaimLinkError> {
        let text = text.trim();
        if text.is_empty()
            || text.chars().count() > MAX_LINK_CHARS
            || text.chars().any(char::is_whitespace)
        {
            return Err(ClaimLinkError::NotALink);
        }
        let lower = text.get(..8).map(str::to_ascii_lowercase);
        let rest = match lower.as_deref() {
            Some("https://") => &text[8..],
            Some(start) if start.starts_with("http://") => return Err(ClaimLinkError::NotHttps),
            _ => return Err(ClaimLinkError::NotALink),
        };
        let (rest, pin) = rest.split_once('#').ok_or(ClaimLinkError::Pin)?;
        let (authority, path) = rest.split_once('/').ok_or(ClaimLinkError::Code)?;
        let (host, port) = authority_parts(authority).ok_or(ClaimLinkError::Host)?;
        let code = path
            .strip_prefix("claim/")
            .and_then(normal_code)
            .ok_or(ClaimLinkError::Code)?;
        let pin = BASE32_NOPAD
            .decode(pin.to_ascii_uppercase().as_bytes())
            .ok()
            .and_then(|bytes| Pin::try_from(bytes).ok())
            .ok_or(ClaimLinkError::Pin)?;
        Ok(Self {
            host,
            port,
            code,
            pin,
        })
    }
}

fn authority_parts(authority: &str) -> Option<(String, u16)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (inside, after) = rest.split_once(']')?;
        let address: std::net::Ipv6Addr = inside.parse().ok()?;
        return Some((address.to_string(), port_of(after)?));
    }
    let (host, after) = match authority.find(':') {
        Some(at) => authority.split_at(at),
        None => (authority, ""),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let good = !host.is_empty() && host.len() <= 253 && host.chars().all(plain);
    good.then_some(())?;
    Some((host.to_ascii_lowercase(), port_of(after)?))
}

fn port_of(after: &str) -> Option<u16> {
    match after.strip_prefix(':') {
        Some(digits) => digits.parse().ok().filter(|port| *port > 0),
        None => after.is_empty().then_some(DEFAULT_API_PORT),
    }
}

/// A code as the server writes it: capitals, no dashes, the letters that Crockford reads alike made one.
fn normal_code(text: &str) -> Option<String> {
    let code: String = text
        .trim_end_matches('/')
        .chars()
        .filter(|c| *c != '-')
        .map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        })
        .collect();
    let good = |c: char| c.is_ascii_digit() || (c.is_ascii_uppercase() && c != 'U');
    (code.len() == CODE_CHARS && code.chars().all(good)).then_some(code)
}

/// A host and port as they stand in a URL: IPv6 in brackets.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dzpiydcmrtgq2q";

    #[test]
    fn reads_what_a_person_pastes() {
        let link: ClaimLink = format!(
            " HTTPS://Media.Example:8443/claim/abcd-0o1l#{}\n",
            PIN.to_uppercase()
        )
        .parse()
        .expect("a link");
        assert_eq!(
            (link.host.as_str(), link.port, link.code.as_str()),
            ("media.example", 8443, "ABCD0011")
        );
        let six: ClaimLink = format!("https://[fd00::1]/claim/ABCD2345#{PIN}")
            .parse()
            .expect("a link");
        assert_eq!((six.host.as_str(), six.port), ("fd00::1", DEFAULT_API_PORT));
        assert_eq!(authority(&six.host, six.port), "[fd00::1]:8443");
    }

    #[test]
    fn each_fault_is_named() {
        let fault = |text: &str| text.parse::<ClaimLink>().expect_err("refused");
        assert_eq!(fault(""), ClaimLinkError::NotALink);
        assert_eq!(fault("ABCD2345"), ClaimLinkError::NotALink);
        assert_eq!(fault("http://a/claim/ABCD2345#x"), ClaimLinkError::NotHttps);
        assert_eq!(fault("https://a/claim/ABCD2345"), ClaimLinkError::Pin);
        assert_eq!(fault("https://a/claim/ABCD2345#short"), ClaimLinkError::Pin);
        assert_eq!(
            fault(&format!("https://a/claim/ABC#{PIN}")),
            ClaimLinkError::Code
        );
        assert_eq!(fault(&format!("https://a#{PIN}")), ClaimLinkError::Code);
        assert_eq!(
            fault(&format!("https://a:0/claim/ABCD2345#{PIN}")),
            ClaimLinkError::Host
        );
        assert_eq!(
            fault(&format!("https://user@a/claim/ABCD2345#{PIN}")),
            ClaimLinkError::Host
        );
        assert_eq!(
            fault(&format!("https://[x]/claim/ABCD2345#{PIN}")),
            ClaimLinkError::Host
        );
    }

    proptest::proptest! {
        #[test]
        fn hostile_links_never_panic(text in "(https://)?.{0,80}") {
            let _ = text.parse::<ClaimLink>();
        }
    }
}
