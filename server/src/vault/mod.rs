//! The vault (F25, F46): content keys leave it only against a valid pass, sealed to the pass's device.
//!
//! In the database the keys stay as the publisher sealed them; the key that opens them is in `keys/vault.key`. An opened
//! key lives in memory for the moment in which it is sealed again.

use crate::catalog;
use crate::customers::Caller;
use crate::db::{ms, one, parsed, run};
use crate::error::{CoreError, Result, broken, conflict, forbidden, missing, refused};
use crate::identity::Identity;
use crate::passes;
use jiff::Timestamp;
use mantel_protocol::api::{LicenseRequest, ProblemCode};
use mantel_protocol::envelope;
use mantel_protocol::ids::{LicenseId, PassId};
use mantel_protocol::key::DeviceId;
use mantel_protocol::license::{License, Pass};
use mantel_protocol::manifest::{license_context, vault_context};
use mantel_protocol::token::{sign, verify};
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, Schema};
use rusqlite::Connection;
use std::sync::Arc;

/// The tables of this module.
pub const SCHEMA: Schema = Schema {
    module: "vault",
    steps: &[include_str!("schema.sql")],
};

/// The vault; cheap to clone.
#[derive(Clone)]
pub struct Vault {
    db: Db,
    clock: Clock,
    identity: Arc<Identity>,
}

impl Vault {
    /// Over an open database.
    pub fn new(db: Db, clock: Clock, identity: Arc<Identity>) -> Self {
        Self {
            db,
            clock,
            identity,
        }
    }

    /// Redeems a pass. The same device may do so again and gets the same license.
    pub async fn redeem(&self, caller: Caller, request: LicenseRequest) -> Result<String> {
        let now = self.clock.now();
        let pass: Pass = verify(&self.identity.signing().server_key(), &request.pass, now)
            .map_err(|error| {
                refused(
                    ProblemCode::BadToken,
                    format!("the vault did not take this pass: {error}"),
                    "",
                )
            })?;
        if pass.device != caller.device || pass.home != caller.home {
            return Err(forbidden("this pass is for another home's gateway"));
        }
        if !caller.active {
            let detail = "the account is suspended; the vault gives no keys to it";
            return Err(refused(
                ProblemCode::Restricted,
                detail,
                "the pass stays good; ask the operator to reopen the account",
            ));
        }
        if request.seal_key != caller.seal_key {
            let next = "enrol the gateway again if its keys were replaced";
            return Err(conflict(
                "the key to seal to is not the one with which this gateway enrolled",
                next,
            ));
        }
        let identity = Arc::clone(&self.identity);
        self.db
            .write(move |tx| redeem(tx, &identity, &caller, &pass, now))
            .await
    }
}

fn redeem(
    tx: &Connection,
    identity: &Identity,
    caller: &Caller,
    pass: &Pass,
    now: Timestamp,
) -> Result<String> {
    if passes::home_of(tx, pass.id)? != Some(caller.home) {
        return Err(refused(
            ProblemCode::BadToken,
            "this server granted no such pass",
            "nothing was changed",
        ));
    }
    match license_of(tx, pass.id)? {
        Some((device, token)) if device == caller.device => return Ok(token),
        Some(_) => return Err(forbidden("this pass was redeemed by another gateway")),
        None => {}
    }
    let sealed =
        catalog::store::vault_keys(tx, pass.title)?.ok_or_else(|| missing("title in the vault"))?;
    let keys = envelope::open(identity.vault(), &vault_context(pass.title), &sealed).map_err(
        broken("the vault cannot open a title's keys; was keys/vault.key replaced?"),
    )?;
    let context = license_context(pass.title, caller.device);
    let keys = envelope::seal(&caller.seal_key, &context, &keys)
        .map_err(broken("the gateway's key cannot be sealed to"))?;
    let license = License {
        id: LicenseId::generate(),
        pass: pass.id,
        title: pass.title,
        device: caller.device,
        keys,
        terms: pass.terms,
        granted: pass.validity.not_before,
    };
    let token = sign(identity.signing(), &license);
    run(
        tx,
        "INSERT INTO licenses (pass, id, device, token, issued_ms) VALUES ($1, $2, $3, $4, $5)",
        (
            pass.id.to_string(),
            license.id.to_string(),
            license.device.to_string(),
            &token,
            ms(now),
        ),
    )?;
    Ok(token)
}

fn license_of(
    c: &Connection,
    pass: PassId,
) -> std::result::Result<Option<(DeviceId, String)>, CoreError> {
    let sql = "SELECT device, token FROM licenses WHERE pass = $1";
    one(c, sql, [pass.to_string()], |row| {
        Ok((parsed(row, "device")?, row.get("token")?))
    })
}
