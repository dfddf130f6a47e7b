//! A title's manifest: what it is, its assets and which key opens each, signed by its publisher's device key.

use crate::blob::BlobId;
use crate::ids::TitleId;
use crate::key::DeviceId;
use crate::seal::{Cipher, ContentKey, SealError};
use crate::token::{Claims, Validity};
use data_encoding::BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The most assets in one title.
pub const MAX_ASSETS: usize = 64;
/// The longest title, characters.
pub const MAX_NAME_CHARS: usize = 200;

/// What kind of media a title is (F3). Restrictions may name kinds.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    /// Sound alone.
    Audio,
    /// A still image.
    Image,
    /// Moving pictures.
    Video,
    /// Anything else.
    Data,
}

impl MediaKind {
    /// All kinds, in the order in which pages show them.
    pub const ALL: [Self; 4] = [Self::Video, Self::Image, Self::Audio, Self::Data];

    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Image => "image",
            Self::Video => "video",
            Self::Data => "data",
        }
    }

    /// The kind of a word written by [`MediaKind::as_str`].
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The kind that a MIME type (RFC 2045 §5.1) names.
    pub fn of_mime(mime: &str) -> Self {
        match mime.split('/').next().unwrap_or_default() {
            "audio" => Self::Audio,
            "image" => Self::Image,
            "video" => Self::Video,
            _ => Self::Data,
        }
    }
}

/// One encoding of a title.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Asset {
    /// The sealed bytes.
    pub blob: BlobId,
    /// Their size, bytes.
    pub sealed_bytes: u64,
    /// The size of what is inside, bytes.
    pub plain_bytes: u64,
    /// What is inside, e.g. `video/mp4`.
    pub mime: String,
    /// Which AEAD sealed it.
    pub cipher: Cipher,
    /// Running time, milliseconds; `None` for a still image or data.
    pub duration_ms: Option<u64>,
    /// Picture width, pixels.
    pub width: Option<u32>,
    /// Picture height, pixels.
    pub height: Option<u32>,
    /// Codecs as ffprobe names them, e.g. `h264, aac`.
    pub codecs: Option<String>,
}

/// A title, described by its publisher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Manifest {
    /// The work.
    pub title: TitleId,
    /// Its name, at most [`MAX_NAME_CHARS`].
    pub name: String,
    /// Its kind.
    pub kind: MediaKind,
    /// When it was taken or recorded, if known.
    #[schema(value_type = Option<String>)]
    pub recorded: Option<Timestamp>,
    /// Who published it; the signature is this device's.
    pub publisher: DeviceId,
    /// Its encodings, at least one.
    pub assets: Vec<Asset>,
}

impl Claims for Manifest {
    const KIND: &'static str = "mantel/manifest/1";
    fn validity(&self) -> Option<Validity> {
        None
    }
}

impl Manifest {
    /// The size of all sealed assets, bytes: what a delivery moves.
    pub fn sealed_bytes(&self) -> u64 {
        self.assets
            .iter()
            .map(|asset| asset.sealed_bytes)
            .fold(0, u64::saturating_add)
    }

    /// Whether counts and lengths are within the documented limits.
    pub fn is_well_formed(&self) -> bool {
        let name_chars = self.name.chars().count();
        (1..=MAX_NAME_CHARS).contains(&name_chars)
            && (1..=MAX_ASSETS).contains(&self.assets.len())
            && self.assets.iter().all(|asset| {
                asset.mime.len() <= 100
                    && crate::seal::plain_len(asset.sealed_bytes) == Some(asset.plain_bytes)
                    && asset.sealed_bytes <= crate::blob::MAX_BLOB_BYTES
            })
    }
}

/// The content keys of a title, one per asset; what an envelope around them holds.
#[derive(Clone, Serialize, Deserialize)]
pub struct TitleKeys {
    keys: Vec<(BlobId, String)>,
}

impl TitleKeys {
    /// Keys in the order of the manifest's assets.
    pub fn new<'a>(keys: impl IntoIterator<Item = (BlobId, &'a ContentKey)>) -> Self {
        Self {
            keys: keys
                .into_iter()
                .map(|(blob, key)| (blob, BASE64.encode(key.expose())))
                .collect(),
        }
    }

    /// The key of one asset.
    pub fn key_of(&self, blob: BlobId) -> Option<Result<ContentKey, SealError>> {
        let (_, text) = self.keys.iter().find(|(id, _)| *id == blob)?;
        let bytes = BASE64.decode(text.as_bytes()).map(Zeroizing::new);
        Some(
            bytes
                .map_err(|_| SealError::Key)
                .and_then(|bytes| ContentKey::from_bytes(&bytes)),
        )
    }

    /// The plaintext of an envelope.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(serde_json::to_vec(self).expect("keys are plain data"))
    }

    /// Keys from an opened envelope; `None` if they are not.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Drop for TitleKeys {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        for (_, text) in &mut self.keys {
            text.zeroize();
        }
    }
}

/// What a private share's envelope holds for one home (F64): the server sees neither name nor keys.
#[derive(Clone, Serialize, Deserialize)]
pub struct PrivateShare {
    /// The [`Manifest`] as the publisher signed it.
    pub manifest: String,
    /// The content keys.
    pub keys: TitleKeys,
}

/// The HPKE context of a title's keys sealed to the vault (F46).
pub fn vault_context(title: TitleId) -> Vec<u8> {
    format!("vault {title}").into_bytes()
}

/// The HPKE context of a private share sealed to one device (F64).
pub fn share_context(title: TitleId, receiver: DeviceId) -> Vec<u8> {
    format!("share {title} {receiver}").into_bytes()
}

/// The HPKE context of a license's keys sealed to one device (F25).
pub fn license_context(title: TitleId, receiver: DeviceId) -> Vec<u8> {
    format!("license {title} {receiver}").into_bytes()
}
