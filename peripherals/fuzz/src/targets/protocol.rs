//! What gateway and server, and two gateways, say to each other.

use std::sync::OnceLock;

use jiff::Timestamp;
use mantel_protocol::blob::{self, BlobId, CHUNK_BYTES, HashList, ranges_len};
use mantel_protocol::chunk::{Answer, Request, decode, encode};
use mantel_protocol::envelope::{self, Envelope, OpeningKey};
use mantel_protocol::grant::{AnyGrant, Grant};
use mantel_protocol::ids::{HomeId, OrderId, TitleId};
use mantel_protocol::key::{DeviceId, ServerKey, SigningKey};
use mantel_protocol::license::{License, Pass, Use};
use mantel_protocol::manifest::{Manifest, MediaKind, PrivateShare, TitleKeys};
use mantel_protocol::money::{Currency, Money};
use mantel_protocol::receipt::Receipt;
use mantel_protocol::relay::{Admission, Welcome};
use mantel_protocol::restriction::{Exchange, Initiative, Party, RestrictionSet, judge};
use mantel_protocol::seal::{self, Cipher, ContentKey, HEADER_BYTES, Opener};
use mantel_protocol::token::{self, Claims, DeviceLogin, ServerTime};
use mantel_protocol::{api as calls, bus as topics, words};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{lines, number};

pub fn chunk(data: &[u8]) {
    if let Some(request) = again::<Request>(data)
        && let Request::Want { ranges } = request
    {
        for size in [1, CHUNK_BYTES + 1, u64::MAX] {
            let wanted = ranges_len(size, &ranges);
            assert!(ranges.len() != 1 || wanted <= size);
        }
    }
    again::<Answer>(data);
    again::<Admission>(data);
    again::<Welcome>(data);
}

/// Reads a message; what was read is the same when it is sent on.
fn again<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) -> Option<M> {
    let message = decode::<M>(data).ok()?;
    let frame = encode(&message);
    assert_eq!(decode::<M>(&frame[4..]).as_ref(), Ok(&message));
    Some(message)
}

pub fn bus(data: &[u8]) {
    json::<topics::Command>(data);
    json::<topics::Event>(data);
    json::<topics::Presence>(data);
    let text = String::from_utf8_lossy(data);
    if let Some((device, word)) = topics::parse_topic(&text) {
        assert!(word != "cmd" || topics::cmd_topic(&device).len() == text.len());
        let own = topics::ev_topic(&device);
        assert_eq!(topics::parse_topic(&own), Some((device, "ev")));
    }
}

/// Reads JSON; what was read can be written and read again.
fn json<M: Serialize + DeserializeOwned>(data: &[u8]) -> Option<M> {
    let message: M = serde_json::from_slice(data).ok()?;
    let text = serde_json::to_vec(&message).expect("it was JSON");
    assert!(serde_json::from_slice::<M>(&text).is_ok());
    Some(message)
}

pub fn api(data: &[u8]) {
    json::<calls::Problem>(data);
    json::<calls::EnrolRequest>(data);
    json::<calls::Enrolled>(data);
    json::<calls::PresenceReport>(data);
    json::<calls::HomeEntry>(data);
    json::<calls::PublishRequest>(data);
    json::<calls::TitleEntry>(data);
    json::<calls::OrderRequest>(data);
    json::<calls::OrderEntry>(data);
    json::<calls::GrantRequest>(data);
    json::<calls::GrantAnswer>(data);
    json::<calls::ProblemReport>(data);
    json::<calls::SendTask>(data);
    json::<calls::ReceiptRequest>(data);
    json::<calls::LicenseRequest>(data);
    json::<calls::AccountAnswer>(data);
}

fn server() -> ServerKey {
    static KEY: OnceLock<ServerKey> = OnceLock::new();
    *KEY.get_or_init(|| {
        let key = SigningKey::from_seed(&[7; 32]).expect("a seed");
        key.server_key()
    })
}

/// Nothing that does not come from the server's key is believed.
pub fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let made = format!("v4.public.{}", data_encoding::BASE64URL_NOPAD.encode(data));
    for text in [&*text, &made] {
        let _ = token::peek_unverified::<ServerTime>(text);
        let _ = token::peek_unverified::<Manifest>(text);
        assert!(token::verify::<Grant>(&server(), text, Timestamp::UNIX_EPOCH).is_err());
        assert!(AnyGrant::verify(&server(), text, Timestamp::UNIX_EPOCH).is_err());
        assert!(DeviceLogin::verify(text, &server(), Timestamp::UNIX_EPOCH).is_err());
    }
}

/// Claims whose signature is good but whose content is anything.
pub fn claims(data: &[u8]) {
    let now = Timestamp::from_second(1_800_000_000).expect("in range");
    if let Some(grant) = signed::<Grant>(data) {
        let _ = (grant.max_bytes(), grant.covers(0), grant.covers(u64::MAX));
    }
    if let Some(manifest) = signed::<Manifest>(data) {
        let _ = (manifest.sealed_bytes(), manifest.is_well_formed());
    }
    if let Some(license) = signed::<License>(data) {
        let used = Use {
            first_play: Some(license.granted),
            plays: 1,
        };
        let _ = (license.judge(Use::default(), now), license.judge(used, now));
    }
    signed::<Receipt>(data);
    signed::<Pass>(data);
    if let Some(set) = signed::<RestrictionSet>(data) {
        let party = Party {
            home: set.home,
            active: true,
        };
        let exchange = Exchange {
            initiative: Initiative::Push,
            sender: party,
            receiver: party,
            kind: MediaKind::Video,
            bytes: u64::MAX,
        };
        if let Err(denial) = judge(&set.restrictions, &exchange, |_, _, _| u64::MAX) {
            let _ = denial.to_string();
        }
    }
    if let Some(keys) = TitleKeys::from_bytes(data) {
        let _ = keys.key_of(BlobId([0; 32])).map(|key| key.is_ok());
    }
    let _ = serde_json::from_slice::<PrivateShare>(data).is_ok();
}

fn signed<C: Claims>(data: &[u8]) -> Option<C> {
    let claims = json::<C>(data)?;
    let _ = claims.validity();
    Some(claims)
}

/// Three numbers, then a header and records.
pub fn sealed(mut data: &[u8]) {
    let [plain, told, offset] = std::array::from_fn(|_| u64::from_le_bytes(number(&mut data)));
    let plain = plain >> 4;
    assert_eq!(seal::plain_len(seal::sealed_len(plain)), Some(plain));
    if let Some(inside) = seal::plain_len(told) {
        assert_eq!(seal::sealed_len(inside), told);
    }
    let key = ContentKey::from_bytes(&[9; 32]).expect("32 bytes");
    let header = data.get(..HEADER_BYTES).unwrap_or(data);
    if let Ok(opener) = Opener::new(&key, header, told) {
        let at = opener.record_at(offset % opener.plain_len().max(1));
        assert!(at.sealed_len <= seal::RECORD_BYTES + seal::TAG_BYTES);
        assert!(at.sealed_offset + at.sealed_len as u64 <= told);
    }
    assert!(seal::open(&key, data).is_err(), "nobody has the key");
    // The one expensive step is done for some inputs only.
    if told % 64 == 63 {
        let again = seal::seal(&key, Cipher::default(), data);
        assert_eq!(seal::open(&key, &again).as_deref(), Ok(data));
        let text = data_encoding::BASE64.encode(data);
        for text in [text, String::from_utf8_lossy(data).into_owned()] {
            let opened = envelope::open(opening_key(), b"title", &Envelope::from_text(text));
            assert!(opened.is_err(), "nobody sealed it");
        }
    }
}

fn opening_key() -> &'static OpeningKey {
    static KEY: OnceLock<OpeningKey> = OnceLock::new();
    KEY.get_or_init(|| OpeningKey::from_bytes(&[5; 32]).expect("32 bytes are a key"))
}

/// A blob of one chunk, and lists of hashes that lie.
pub fn blob(data: &[u8]) {
    if !data.is_empty() {
        let hash = *blake3::hash(data).as_bytes();
        let size = data.len() as u64;
        let list = HashList::verified(BlobId(hash), size, vec![hash]).expect("it is its own hash");
        assert_eq!(list.verify_chunk(0, data), Ok(()));
        assert!(list.verify_chunk(0, &data[1..]).is_err() && list.verify_chunk(1, data).is_err());
    }
    let mut rest = data;
    let size = u64::from_le_bytes(number(&mut rest)) % (1 << 41);
    let hashes: Vec<[u8; 32]> = rest.as_chunks().0.to_vec();
    for size in [size, hashes.len() as u64 * CHUNK_BYTES] {
        // A blob of one chunk has its own name for a list: the fuzzer guesses that.
        let guessed = hashes == [[1; 32]];
        assert!(guessed || HashList::verified(BlobId([1; 32]), size, hashes.clone()).is_err());
        let last = blob::chunk_count(size).saturating_sub(1);
        assert!(blob::chunk_len(size, last).is_none_or(|len| (1..=CHUNK_BYTES).contains(&len)));
        assert_eq!(blob::chunk_len(size, last + 1), None);
    }
}

pub fn ids(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    fn same<T: std::str::FromStr + ToString + PartialEq + std::fmt::Debug>(text: &str) {
        if let Ok(id) = text.parse::<T>() {
            assert_eq!(id.to_string().parse::<T>().ok(), Some(id));
        }
    }
    same::<HomeId>(&text);
    same::<TitleId>(&text);
    same::<OrderId>(&text);
    same::<DeviceId>(&text);
    same::<BlobId>(&text);
    if let Some(id) = DeviceId::from_spki_der(data) {
        assert_eq!(id.spki_der(), data);
    }
    let [amount, currency] = lines(&text);
    let currency = Currency::try_from(currency.to_owned()).unwrap_or(Currency::EUR);
    if let Ok(money) = Money::parse(amount, currency) {
        assert!(money.minor >= 0);
        let shown = money.to_string();
        let plain = shown.split(' ').next().unwrap_or_default();
        assert_eq!(Money::parse(plain, currency), Ok(money));
    }
    let _ = (MediaKind::of_mime(&text), MediaKind::from_word(&text));
    let mut data = data;
    let _ = words::size(u64::from_le_bytes(number(&mut data)));
}
