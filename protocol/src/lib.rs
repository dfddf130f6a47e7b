//! What gateway and server say to each other.
//!
//! Types and pure functions only: no I/O, no clock, no async. Time and randomness come in as arguments or from the
//! crypto library. Both daemons link this crate, so that client, server and wire cannot drift apart.
//!
//! A tour, in the order in which a title lives:
//! - [`ids`]: newtype identifiers. [`key`]: a device's Ed25519 and X25519 keys, its [`key::DeviceId`].
//! - [`blob`]: how sealed bytes are cut into chunks and verified against the BLAKE3 tree (F45).
//! - [`seal`]: how plaintext becomes sealed bytes, openable by range (F26). [`envelope`]: HPKE around a content key.
//! - [`manifest`]: a title's assets, signed by its publisher.
//! - [`restriction`]: typed rules and the one pure function that judges them on both sides (F17).
//! - [`token`]: PASETO v4.public; [`grant`], [`receipt`], [`license`]: what is signed (F25, F61, F67).
//! - [`api`]: requests and answers of the HTTPS API. [`bus`]: MQTT topics and payloads.
//! - [`chunk`]: the exchange between two gateways. [`relay`]: admission to the relay (F8). [`words`]: sizes for people.
//! - [`update`]: versions of the appliance and what came of an update.

pub mod api;
pub mod blob;
pub mod bus;
pub mod chunk;
pub mod envelope;
pub mod grant;
pub mod ids;
pub mod key;
pub mod license;
pub mod manifest;
pub mod money;
pub mod receipt;
pub mod relay;
pub mod restriction;
pub mod seal;
pub mod token;
pub mod update;
pub mod words;
