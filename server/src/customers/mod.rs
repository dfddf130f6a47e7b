//! Customers, their homes and the claim codes by which gateways enrol (F33); the operator's log-in.

pub mod operator;
pub mod store;

use crate::error::{MAX_NAME_CHARS, Result, bad, clean, clean_note, conflict, missing, refused};
use crate::limit::Limit;
use crate::notice::Notices;
use jiff::{SignedDuration, Timestamp};
use mantel_protocol::api::{EnrolRequest, ProblemCode};
use mantel_protocol::ids::{CustomerId, HomeId};
use mantel_protocol::key::{DeviceId, SealKey, ServerKey};
use mantel_protocol::money::{Currency, Money};
use mantel_protocol::token::DeviceLogin;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use std::net::IpAddr;
use std::time::Duration;

/// The most customers that a list shows.
pub const MAX_CUSTOMERS: i64 = 1_000;
/// The most homes that a list shows.
pub const MAX_HOMES: i64 = 1_000;
/// How long a claim code may be used.
pub const CLAIM_CODE_DAYS: i64 = 7;
/// Characters of a claim code: 40 bits.
pub const CLAIM_CODE_CHARS: usize = 8;
/// Enrolments that one address may try in a minute: guessing a code would take centuries.
pub const ENROLMENTS_PER_MINUTE: u32 = 10;
/// Requests that one gateway may make in a minute: far more than a sound one makes.
pub const REQUESTS_PER_MINUTE: u32 = 3_000;
/// The most MAC addresses of a gateway.
pub const MAX_MACS: usize = 16;
/// The longest serial number, characters.
pub const MAX_SERIAL_CHARS: usize = 64;
/// The longest way to reach a customer, characters.
pub const MAX_CONTACT_CHARS: usize = 200;

/// Crockford's base32: no I, L, O, U, which are misread.
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Whether an account is in good standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may exchange.
    Active,
    /// Nothing moves to or from its homes (F17).
    Suspended,
}

/// A customer as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerRow {
    /// Which.
    pub id: CustomerId,
    /// What they are called.
    pub name: String,
    /// How to reach them; may be empty.
    pub contact: String,
    /// Whether the account is in good standing.
    pub standing: Standing,
    /// Why it is suspended.
    pub note: String,
    /// How many homes they have.
    pub homes: u32,
    /// What may be spent.
    pub available: Money,
    /// What is held for orders under way.
    pub held: Money,
    /// Since when.
    pub created: Timestamp,
}

/// An enrolled home; of a request: who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Which.
    pub home: HomeId,
    /// Whose.
    pub customer: CustomerId,
    /// Their name.
    pub customer_name: String,
    /// What the household calls itself.
    pub name: String,
    /// Its gateway.
    pub device: DeviceId,
    /// The gateway's key for encryption.
    pub seal_key: SealKey,
    /// Whether the account is in good standing.
    pub active: bool,
}

/// The home that calls.
pub type Caller = Home;

/// A claim code: whoever types it enrols a gateway for its customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimCode {
    /// Eight characters.
    pub code: String,
    /// For whom.
    pub customer: CustomerId,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// The customers' accounts; cheap to clone.
#[derive(Clone)]
pub struct Customers {
    db: Db,
    clock: Clock,
    notices: Notices,
    currency: Currency,
}

impl Customers {
    /// Over an open database.
    pub fn new(db: Db, clock: Clock, notices: Notices, currency: Currency) -> Self {
        Self {
            db,
            clock,
            notices,
            currency,
        }
    }

    /// Adds a customer.
    pub async fn create(&self, name: &str, contact: &str) -> Result<CustomerId> {
        let name = clean(name, MAX_NAME_CHARS, "the customer's name")?;
        let contact = clean_note(contact, MAX_CONTACT_CHARS, "the contact")?;
        let (id, now) = (CustomerId::generate(), self.clock.now());
        self.db
            .write(move |tx| store::add_customer(tx, id, &name, &contact, now))
            .await?;
        self.notices.changed();
        Ok(id)
    }

    /// All customers by name, at most [`MAX_CUSTOMERS`].
    pub async fn list(&self) -> Result<Vec<CustomerRow>> {
        let currency = self.currency;
        self.db
            .read(move |c| store::customers(c, None, currency))
            .await
    }

    /// One customer.
    pub async fn find(&self, id: CustomerId) -> Result<Option<CustomerRow>> {
        let currency = self.currency;
        self.db
            .read(move |c| Ok(store::customers(c, Some(id), currency)?.pop()))
            .await
    }

    /// Changes name and contact.
    pub async fn edit(&self, id: CustomerId, name: &str, contact: &str) -> Result<()> {
        let name = clean(name, MAX_NAME_CHARS, "the customer's name")?;
        let contact = clean_note(contact, MAX_CONTACT_CHARS, "the contact")?;
        let found = self
            .db
            .write(move |tx| store::edit_customer(tx, id, &name, &contact))
            .await?;
        self.notices.changed();
        if found {
            Ok(())
        } else {
            Err(missing("customer"))
        }
    }
}

/// Homes, and how gateways enrol and log in; cheap to clone.
#[derive(Clone)]
pub struct Homes {
    db: Db,
    clock: Clock,
    notices: Notices,
    server: ServerKey,
    enrolments: Limit<IpAddr>,
    requests: Limit<DeviceId>,
}

impl Homes {
    /// Over an open database. `server` is the key that log-ins must name.
    pub fn new(db: Db, clock: Clock, notices: Notices, server: ServerKey) -> Self {
        let minute = Duration::from_mins(1);
        let enrolments = Limit::new(clock.clone(), ENROLMENTS_PER_MINUTE, minute);
        let requests = Limit::new(clock.clone(), REQUESTS_PER_MINUTE, minute);
        Self {
            db,
            clock,
            notices,
            server,
            enrolments,
            requests,
        }
    }

    /// Makes a claim code for one more home of a customer.
    pub async fn claim_code(&self, customer: CustomerId) -> Result<ClaimCode> {
        let now = self.clock.now();
        let expires = now
            .saturating_add(SignedDuration::from_hours(24 * CLAIM_CODE_DAYS))
            .unwrap_or(now);
        let made = self
            .db
            .write(move |tx| {
                let known = crate::db::one(
                    tx,
                    "SELECT 1 FROM customers WHERE id = $1",
                    [customer.to_string()],
                    |_| Ok(()),
                )?;
                known.ok_or_else(|| missing("customer"))?;
                loop {
                    let it = ClaimCode {
                        code: random_code(),
                        customer,
                        created: now,
                        expires,
                    };
                    if store::add_code(tx, &it)? {
                        return Ok::<_, crate::error::CoreError>(it);
                    }
                }
            })
            .await?;
        self.notices.changed();
        Ok(made)
    }

    /// A customer's codes that may still be used.
    pub async fn open_codes(&self, customer: CustomerId) -> Result<Vec<ClaimCode>> {
        let now = self.clock.now();
        self.db
            .read(move |c| store::open_codes(c, customer, now))
            .await
    }

    /// Takes back a code that nobody used.
    pub async fn revoke_code(&self, code: &str) -> Result<()> {
        let code = read_code(code).ok_or_else(|| missing("claim code"))?;
        let found = self
            .db
            .write(move |tx| store::remove_code(tx, &code))
            .await?;
        self.notices.changed();
        if found {
            Ok(())
        } else {
            Err(missing("claim code"))
        }
    }

    /// Changes what a home is called.
    pub async fn rename(&self, home: HomeId, name: &str) -> Result<()> {
        let name = clean(name, MAX_NAME_CHARS, "the home's name")?;
        let found = self
            .db
            .write(move |tx| store::rename_home(tx, home, &name))
            .await?;
        self.notices.changed();
        if found { Ok(()) } else { Err(missing("home")) }
    }

    /// The home of a gateway; `None`: not enrolled, or removed.
    pub async fn device_home(&self, device: DeviceId) -> Result<Option<HomeId>> {
        self.db
            .read(move |c| Ok(store::by_device(c, device)?.map(|home| home.home)))
            .await
    }

    /// Who holds this log-in. A suspended customer's gateway may log in: it is told so, and gets nothing else.
    pub async fn authenticate(&self, token: &str) -> Result<Caller> {
        let device =
            DeviceLogin::verify(token, &self.server, self.clock.now()).map_err(|error| {
                refused(
                    ProblemCode::BadToken,
                    error.to_string(),
                    "sign a new log-in",
                )
            })?;
        let home = self
            .db
            .read(move |c| store::by_device(c, device))
            .await?
            .ok_or_else(|| {
                let next = "type a claim code from the operator into the gateway";
                refused(
                    ProblemCode::BadToken,
                    "this gateway is not enrolled at this server",
                    next,
                )
            })?;
        if !self.requests.allow(device) {
            let detail = "this gateway asks more often than the server answers";
            return Err(refused(
                ProblemCode::TooMany,
                detail,
                "nothing was changed; wait a minute",
            ));
        }
        Ok(home)
    }

    /// Enrols a gateway. Repeating it with the same code and device gives the same answer (a lost reply).
    pub async fn enrol(&self, request: EnrolRequest, from: IpAddr) -> Result<Caller> {
        if !self.enrolments.allow(from) {
            let detail = "too many enrolments were tried from this address";
            return Err(refused(
                ProblemCode::TooMany,
                detail,
                "wait a minute and type the code again",
            ));
        }
        let device = DeviceLogin::verify(&request.proof, &self.server, self.clock.now()).map_err(
            |error| {
                refused(
                    ProblemCode::BadToken,
                    error.to_string(),
                    "check the gateway's clock",
                )
            },
        )?;
        if device != request.device {
            let detail = "the proof was signed by another device than the one that enrols";
            return Err(refused(
                ProblemCode::BadToken,
                detail,
                "nothing was changed",
            ));
        }
        let wanted = Wanted::read(request)?;
        let now = self.clock.now();
        let home = self.db.write(move |tx| wanted.enrol(tx, now)).await?;
        self.notices.changed();
        Ok(home)
    }
}

/// An enrolment whose fields are within their limits.
struct Wanted {
    code: String,
    device: DeviceId,
    seal_key: SealKey,
    name: String,
    serial: Option<String>,
    macs: Vec<String>,
}

impl Wanted {
    fn read(request: EnrolRequest) -> Result<Self> {
        let code = read_code(&request.claim_code).ok_or_else(bad_code)?;
        if request.macs.len() > MAX_MACS {
            return Err(bad(format!(
                "a gateway has at most {MAX_MACS} MAC addresses"
            )));
        }
        let macs = request
            .macs
            .iter()
            .map(|mac| read_mac(mac).ok_or_else(|| bad("a MAC address is malformed")));
        let serial = request
            .serial
            .map(|serial| clean(&serial, MAX_SERIAL_CHARS, "the serial number"))
            .transpose()?;
        Ok(Self {
            code,
            device: request.device,
            seal_key: request.seal_key,
            name: clean(&request.home_name, MAX_NAME_CHARS, "the home's name")?,
            serial,
            macs: macs.collect::<Result<_>>()?,
        })
    }

    fn enrol(&self, tx: &rusqlite::Transaction<'_>, now: Timestamp) -> Result<Home> {
        let (code, used_by) = store::code(tx, &self.code)?.ok_or_else(bad_code)?;
        let known = store::by_device(tx, self.device)?;
        match (used_by, &known) {
            (Some(used), Some(home)) if used == home.home => return Ok(home.clone()),
            (Some(_), _) => return Err(bad_code()),
            (None, _) if now >= code.expires => return Err(bad_code()),
            (None, Some(home)) if home.customer != code.customer => {
                let detail = "this gateway belongs to another customer's account";
                return Err(conflict(
                    detail,
                    "ask the operator to remove it there first; the code can still be used",
                ));
            }
            (None, _) => {}
        }
        let home = known.map_or_else(HomeId::generate, |home| home.home);
        store::enrol(
            tx,
            &store::Enrolment {
                home,
                customer: code.customer,
                name: &self.name,
                device: self.device,
                seal_key: &self.seal_key.to_string(),
                serial: self.serial.as_deref(),
                macs: &self.macs,
                code: &self.code,
                now,
            },
        )?;
        store::by_id(tx, home)?.ok_or_else(|| missing("home"))
    }
}

fn bad_code() -> crate::error::CoreError {
    let detail = "this claim code is not known, was used, or has expired";
    refused(
        ProblemCode::BadToken,
        detail,
        "check it, or ask the operator for a new one",
    )
}

fn random_code() -> String {
    let bytes: [u8; CLAIM_CODE_CHARS] = rand::random();
    bytes
        .iter()
        .map(|byte| CROCKFORD[usize::from(byte % 32)] as char)
        .collect()
}

/// Reads a typed code: any case, blanks and hyphens ignored, misread letters mended (Crockford).
pub fn read_code(text: &str) -> Option<String> {
    if text.len() > 64 {
        return None;
    }
    let code: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        })
        .collect();
    let good = code.len() == CLAIM_CODE_CHARS && code.bytes().all(|byte| CROCKFORD.contains(&byte));
    good.then_some(code)
}

/// Reads a MAC address: twelve hex digits, with `:`, `-` or nothing between; `aa:bb:cc:dd:ee:ff` comes out.
pub fn read_mac(text: &str) -> Option<String> {
    if text.len() > 17 {
        return None;
    }
    let digits: String = text
        .chars()
        .filter(|c| !matches!(c, ':' | '-'))
        .collect::<String>()
        .to_ascii_lowercase();
    if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pairs: Vec<&str> = (0..6).map(|i| &digits[2 * i..2 * i + 2]).collect();
    Some(pairs.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_typed_codes_and_macs() {
        assert_eq!(read_code(" o1ab-cdef "), Some("01ABCDEF".into()));
        for text in [
            "",
            "1234567",
            "123456789",
            "UUUUUUUU",
            "1234567é",
            &"1".repeat(100),
        ] {
            assert_eq!(read_code(text), None, "{text}");
        }
        assert_eq!(read_code(&random_code()).map(|code| code.len()), Some(8));
        assert_eq!(
            read_mac("AA-bb:0c1D2e3F").as_deref(),
            Some("aa:bb:0c:1d:2e:3f")
        );
        for text in [
            "",
            "aa:bb",
            "gg:00:00:00:00:00",
            "aa:bb:cc:dd:ee:ff:00",
            "éééééé",
        ] {
            assert_eq!(read_mac(text), None, "{text}");
        }
    }
}
