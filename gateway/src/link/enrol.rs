//! Enrolment (F33): a claim link makes this gateway a home of a server.

use super::api::{ApiError, server_client};
use super::claim::{ClaimLink, ClaimLinkError};
use super::store::{self, Enrolment};
use super::{Link, presence};
use mantel_protocol::api::EnrolRequest;
use mantel_protocol::token::DeviceLogin;
use mantel_runtime::db::DbError;

/// The longest name of a home, characters.
pub const MAX_HOME_NAME_CHARS: usize = 80;

/// Why this gateway was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The link is not one.
    #[error(transparent)]
    Link(#[from] ClaimLinkError),
    /// The name is missing or too long.
    #[error("give your home a name of 1 to {MAX_HOME_NAME_CHARS} characters")]
    Name,
    /// It is a home of a server already.
    #[error(
        "this gateway is enrolled already, as \"{home_name}\"; to join another server it must forget everything first \
         (on an appliance: Admin, Forget everything)"
    )]
    Already {
        /// What it is called there.
        home_name: String,
    },
    /// The server was not reached, or is another than the link says.
    #[error(
        "the server {host} did not answer as the one that the link names; check the address, and that this box is \
             on the network. The code in the link is still good"
    )]
    Unreachable {
        /// Where it was looked for.
        host: String,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// The server said no.
    #[error("the server did not accept the claim link: {0}")]
    Refused(#[source] ApiError),
    /// The database failed.
    #[error(
        "the enrolment was made but could not be stored; free some space and enter the link again"
    )]
    Store(#[from] DbError),
}

pub(super) async fn enrol(
    link: &Link,
    claim_link: &str,
    home_name: &str,
) -> Result<Enrolment, EnrolError> {
    let claim: ClaimLink = claim_link.parse()?;
    let home_name = home_name.trim();
    let chars = home_name.chars().count();
    if !(1..=MAX_HOME_NAME_CHARS).contains(&chars) || home_name.chars().any(char::is_control) {
        return Err(EnrolError::Name);
    }
    if let Some(enrolment) = link.enrolment() {
        return Err(EnrolError::Already {
            home_name: enrolment.home_name.clone(),
        });
    }
    let client = server_client(&claim.host, claim.port, claim.pin, link.inner.clock.clone());
    let unreachable = |source| EnrolError::Unreachable {
        host: claim.host.clone(),
        source,
    };
    let client = client.map_err(unreachable)?;
    let (card, clock) = client.server_card_and_clock().await.map_err(unreachable)?;
    let identity = link.identity();
    let request = EnrolRequest {
        claim_code: claim.code.clone(),
        device: link.device(),
        seal_key: identity.seal.seal_key(),
        proof: DeviceLogin::sign(&identity.device, card.key, clock),
        home_name: home_name.to_owned(),
        serial: presence::serial(),
        macs: presence::macs(),
    };
    let enrolled = client.enrol(&request).await.map_err(|error| match error {
        ApiError::Problem(_) => EnrolError::Refused(error),
        other => unreachable(other),
    })?;
    if enrolled.server.key != card.key || enrolled.server.vault_key != card.vault_key {
        return Err(EnrolError::Refused(ApiError::Answer));
    }
    let enrolment = Enrolment {
        home: enrolled.home,
        home_name: home_name.to_owned(),
        customer: enrolled.customer,
        customer_name: enrolled.customer_name,
        server: enrolled.server,
        host: claim.host,
        api_port: claim.port,
        pin: claim.pin,
    };
    store::set_enrolment(&link.inner.db, &enrolment).await?;
    tracing::info!(home = %enrolment.home, server = %enrolment.server.name, "enrolled");
    Ok(enrolment)
}
