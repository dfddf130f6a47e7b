//! Media addresses for players that browse a whole library: made by the thousand, so nothing is kept for each.
//!
//! A pass names a title, an end and one network address, and carries a keyed BLAKE3 over them: it cannot be guessed,
//! works from that address only, ends after [`PASS_LIFE_S`] at the latest, and survives a restart. It gives no right of
//! its own: the household's word on the player and the license are judged at each request, and a play is counted once
//! for each pass.

use mantel_protocol::ids::TitleId;
use std::net::IpAddr;

/// How long a pass works at most, seconds; at least half of it.
pub const PASS_LIFE_S: u64 = 12 * 3600;
/// Characters of a pass: 32 of the title, 8 of its end, 32 of the mark.
pub(super) const PASS_CHARS: usize = 72;
/// BLAKE3 derive_key context of the key that marks passes.
pub(super) const CONTEXT: &str = "mantel 2026 media passes";

/// What a pass opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opens {
    /// The title.
    Media,
    /// Its thumbnail.
    Picture,
}

/// The key of all passes of this gateway.
#[derive(Clone)]
pub(super) struct PassKey(blake3::Hasher);

impl PassKey {
    /// From a secret of the gateway that outlasts a restart, so that a player goes on.
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_keyed(secret))
    }

    fn mark(&self, opens: Opens, title: &str, end: &str, address: IpAddr) -> blake3::Hash {
        let mut hasher = self.0.clone();
        hasher.update(match opens {
            Opens::Media => b"media   ",
            Opens::Picture => b"picture ",
        });
        hasher.update(title.as_bytes()).update(end.as_bytes());
        match address.to_canonical() {
            IpAddr::V4(v4) => hasher.update(&v4.octets()),
            IpAddr::V6(v6) => hasher.update(&v6.octets()),
        };
        hasher.finalize()
    }

    /// The title of a pass that `address` may use now; `None`: it is none, another's, or over. `now_s`: Unix time.
    pub(super) fn open(
        &self,
        opens: Opens,
        pass: &str,
        address: IpAddr,
        now_s: u64,
    ) -> Option<TitleId> {
        if pass.len() != PASS_CHARS || !pass.is_ascii() {
            return None;
        }
        let (title, rest) = pass.split_at(32);
        let (end, mark) = rest.split_at(8);
        let mark: [u8; 16] = data_encoding::HEXLOWER
            .decode(mark.as_bytes())
            .ok()?
            .try_into()
            .ok()?;
        let expected = self.mark(opens, title, end, address);
        let same: bool =
            subtle::ConstantTimeEq::ct_eq(&expected.as_bytes()[..16], &mark[..]).into();
        if !same || u64::from_str_radix(end, 16).ok()? <= now_s {
            return None;
        }
        format!("ttl_{title}").parse().ok()
    }
}

/// Writes media addresses for one player.
#[derive(Clone)]
pub struct Passes {
    key: PassKey,
    address: IpAddr,
    end: String,
}

impl Passes {
    /// `now_s`: Unix time. The end is the same for all passes made within half a life, so that a player that lists
    /// twice sees the same addresses.
    pub(super) fn new(key: &PassKey, address: IpAddr, now_s: u64) -> Self {
        let half = PASS_LIFE_S / 2;
        Self {
            key: key.clone(),
            address,
            end: format!("{:08x}", (now_s / half + 2) * half),
        }
    }

    fn write(&self, out: &mut String, opens: Opens, title: &str) {
        let title = title.strip_prefix("ttl_").unwrap_or(title);
        let mark = self.key.mark(opens, title, &self.end, self.address);
        out.push_str(title);
        out.push_str(&self.end);
        data_encoding::HEXLOWER.encode_append(&mark.as_bytes()[..16], out);
    }

    /// The path of a title (`ttl_…`) with this MIME type.
    pub fn media(&self, out: &mut String, title: &str, mime: &str) {
        out.push_str("/media/");
        self.write(out, Opens::Media, title);
        out.push('.');
        out.push_str(super::extension(mime));
    }

    /// The path of a title's thumbnail.
    pub fn picture(&self, out: &mut String, title: &str) {
        out.push_str("/media/picture/");
        self.write(out, Opens::Picture, title);
        out.push_str(".jpg");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_opens_one_title_for_one_address_until_its_end() {
        let key = PassKey::new(&[7; 32]);
        let (title, me) = (TitleId::generate(), IpAddr::from([10, 0, 0, 7]));
        let now = 1_800_000_000;
        let mut path = String::new();
        Passes::new(&key, me, now).media(&mut path, &title.to_string(), "audio/mpeg");
        let pass = path
            .strip_prefix("/media/")
            .and_then(|p| p.strip_suffix(".mp3"))
            .expect("a path");
        let open =
            |key: &PassKey, opens, pass: &str, address, now| key.open(opens, pass, address, now);
        assert_eq!(open(&key, Opens::Media, pass, me, now), Some(title));
        let mapped = "::ffff:10.0.0.7".parse().expect("an address");
        assert_eq!(open(&key, Opens::Media, pass, mapped, now), Some(title));
        assert_eq!(
            open(&key, Opens::Media, pass, me, now + PASS_LIFE_S / 2 - 1),
            Some(title)
        );
        assert_eq!(open(&key, Opens::Media, pass, me, now + PASS_LIFE_S), None);
        assert_eq!(open(&key, Opens::Picture, pass, me, now), None);
        assert_eq!(
            open(&key, Opens::Media, pass, [10, 0, 0, 8].into(), now),
            None
        );
        assert_eq!(
            open(&PassKey::new(&[8; 32]), Opens::Media, pass, me, now),
            None
        );
        for at in 0..pass.len() {
            let mut other = pass.to_owned().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).expect("ASCII");
            assert_eq!(open(&key, Opens::Media, &other, me, now), None, "{at}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_passes_never_panic(text: String, hex in "[0-9a-f]{72}") {
            let key = PassKey::new(&[7; 32]);
            assert_eq!(key.open(Opens::Media, &text, [10, 0, 0, 7].into(), 0), None);
            assert_eq!(key.open(Opens::Media, &hex, [10, 0, 0, 7].into(), 0), None);
        }
    }
}
