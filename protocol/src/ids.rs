//! Newtype identifiers. Each is `prefix_` + a UUID version 7 (RFC 9562 §5.7) in 32 hex digits: sortable by age,
//! and recognisable in a log or a support call.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// A text that is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{got}\" is not a {kind} id; it should look like {prefix}_ followed by 32 hex digits")]
pub struct IdError {
    /// What was expected, e.g. `order`.
    kind: &'static str,
    prefix: &'static str,
    /// What was given, shortened to 80 characters.
    got: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(Uuid);

        impl $name {
            /// A new identifier, unique without coordination.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .filter(|rest| rest.len() == 32)
                    .and_then(|rest| Uuid::try_parse(rest).ok())
                    .map(Self)
                    .ok_or_else(|| IdError {
                        kind: $kind,
                        prefix: $prefix,
                        got: text.chars().take(80).collect(),
                    })
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

id!(/// A paying household's account at the server.
    CustomerId, "customer", "cust");
id!(/// A household with its gateway.
    HomeId, "home", "home");
id!(/// A work: photo, film, album track, recording.
    TitleId, "title", "ttl");
id!(/// One entry of a home's list of wanted titles, with its payment.
    OrderId, "order", "ord");
id!(/// One transfer of one title to one home, made for an order.
    DeliveryId, "delivery", "dlv");
id!(/// The server's signed leave for (a part of) one delivery.
    GrantId, "grant", "grt");
id!(/// Paid right to a title.
    PassId, "pass", "pass");
id!(/// Content key and terms for one device.
    LicenseId, "license", "lic");
id!(/// A rule set at the server.
    RestrictionId, "restriction", "rst");
id!(/// One balanced entry in the ledger.
    EntryId, "ledger entry", "ent");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_another_kind() {
        let id = HomeId::generate();
        assert_eq!(id.to_string().parse::<HomeId>(), Ok(id));
        assert!(id.to_string().parse::<OrderId>().is_err());
        assert!("home_".parse::<HomeId>().is_err());
        let json = serde_json::to_string(&id).expect("a string serialises");
        assert_eq!(
            serde_json::from_str::<HomeId>(&json).expect("round trip"),
            id
        );
    }
}
