//! The ledger (F14): double entry in integer minor units. Prepaid credit; funds are held when an order is made, and
//! captured or released once, when it ends.

pub mod store;

use crate::customers;
use crate::error::{MAX_NOTE_CHARS, Result, bad, clean, conflict, missing, refused};
use crate::notice::Notices;
use jiff::Timestamp;
use mantel_protocol::api::{BillLine, ProblemCode};
use mantel_protocol::ids::{CustomerId, EntryId, GrantId, OrderId};
use mantel_protocol::money::{Currency, Money};
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

/// The most lines of a bill.
pub const MAX_BILL_LINES: u32 = 200;
/// The most that is credited at once, minor units: a typing error costs no more.
pub const MAX_CREDIT_MINOR: i64 = 10_000_000;
/// The longest idempotency key of a credit, characters.
pub const MAX_KEY_CHARS: usize = 64;

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A customer paid in.
    Credit,
    /// An order's price was set aside.
    Hold,
    /// What was set aside went to the publisher (and the operator's share to the operator).
    Capture,
    /// What was set aside went back.
    Release,
}

/// An account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// What a customer may spend.
    Available(CustomerId),
    /// What is set aside for a customer's orders.
    Held(CustomerId),
    /// What customers paid in, seen from their side: never positive.
    Cash,
    /// The operator's share of sales.
    Fees,
}

impl Account {
    fn id(self) -> String {
        match self.customer() {
            Some(customer) => format!("{customer}/{}", self.role()),
            None => format!("operator/{}", self.role()),
        }
    }

    fn role(self) -> &'static str {
        match self {
            Self::Available(_) => "available",
            Self::Held(_) => "held",
            Self::Cash => "cash",
            Self::Fees => "fees",
        }
    }

    fn customer(self) -> Option<CustomerId> {
        match self {
            Self::Available(customer) | Self::Held(customer) => Some(customer),
            Self::Cash | Self::Fees => None,
        }
    }
}

/// One line of an entry to be booked.
pub struct Line {
    /// Where.
    pub account: Account,
    /// How much, minor units, signed.
    pub amount: i64,
    /// What for, in the words of the account's owner.
    pub text: String,
}

/// An entry to be booked.
pub struct Posting<'a> {
    /// Books once.
    pub key: String,
    /// What for.
    pub kind: EntryKind,
    /// The order.
    pub order: Option<OrderId>,
    /// Under which grants it was delivered.
    pub grants: &'a [GrantId],
    /// The receipts' BLAKE3 hashes, hex.
    pub receipts: &'a [String],
    /// What adds up to 0.
    pub lines: Vec<Line>,
}

/// An account as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// Whose; `None`: the operator's.
    pub customer: Option<CustomerId>,
    /// The customer's name, or what the operator's account is for.
    pub name: String,
    /// What may be spent; of an operator's account, its balance.
    pub available: Money,
    /// What is set aside.
    pub held: Money,
}

/// A line as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineRow {
    /// Of which entry.
    pub entry: EntryId,
    /// When.
    pub at: Timestamp,
    /// What the entry is for.
    pub kind: EntryKind,
    /// In words.
    pub text: String,
    /// Owner and role of the account.
    pub account: String,
    /// Signed.
    pub amount: Money,
    /// The order.
    pub order: Option<OrderId>,
    /// Under which grants it was delivered (F67).
    pub grants: Vec<GrantId>,
    /// The receipts' BLAKE3 hashes, hex (F67).
    pub receipts: Vec<String>,
}

/// Sets an order's price aside, or says what is missing.
pub fn hold(
    tx: &Connection,
    order: OrderId,
    payer: CustomerId,
    price: Money,
    text: &str,
    now: Timestamp,
) -> Result<EntryId> {
    let has = store::balance(tx, Account::Available(payer))?;
    if has < price.minor {
        let has = Money::new(has, price.currency);
        let detail = format!("this costs {price}, and the account has {has} to spend");
        return Err(refused(
            ProblemCode::InsufficientFunds,
            detail,
            "nothing was charged or ordered; ask the operator to add credit, then order again",
        ));
    }
    let line = |account, amount| Line {
        account,
        amount,
        text: text.to_owned(),
    };
    let lines = vec![
        line(Account::Available(payer), -price.minor),
        line(Account::Held(payer), price.minor),
    ];
    let posting = Posting {
        key: format!("hold:{order}"),
        kind: EntryKind::Hold,
        order: Some(order),
        grants: &[],
        receipts: &[],
        lines,
    };
    store::post(tx, &posting, price.currency, now)
}

/// Gives back what was set aside. An order is closed once: by this or by [`capture`].
pub fn release(
    tx: &Connection,
    order: OrderId,
    payer: CustomerId,
    price: Money,
    text: &str,
    now: Timestamp,
) -> Result<EntryId> {
    let line = |account, amount| Line {
        account,
        amount,
        text: text.to_owned(),
    };
    let lines = vec![
        line(Account::Held(payer), -price.minor),
        line(Account::Available(payer), price.minor),
    ];
    let posting = Posting {
        key: format!("close:{order}"),
        kind: EntryKind::Release,
        order: Some(order),
        grants: &[],
        receipts: &[],
        lines,
    };
    store::post(tx, &posting, price.currency, now)
}

/// A sale to be captured.
pub struct Sale<'a> {
    /// The order.
    pub order: OrderId,
    /// Who pays.
    pub payer: CustomerId,
    /// Who earns.
    pub publisher: CustomerId,
    /// What was set aside.
    pub price: Money,
    /// The operator's share, thousandths.
    pub fee_permille: u16,
    /// For the payer, e.g. `Bought “Sea” from Home of Anna`.
    pub bought: String,
    /// For the publisher, e.g. `Sold “Sea” to Home of Ben`.
    pub sold: String,
    /// Under which grants it was delivered.
    pub grants: &'a [GrantId],
    /// The receipts' BLAKE3 hashes.
    pub receipts: &'a [String],
}

/// Pays the publisher from what was set aside. An order is closed once: by this or by [`release`].
pub fn capture(tx: &Connection, sale: &Sale<'_>, now: Timestamp) -> Result<EntryId> {
    let fee = sale.price.minor * i64::from(sale.fee_permille.min(1_000)) / 1_000;
    let mut lines = vec![
        Line {
            account: Account::Held(sale.payer),
            amount: -sale.price.minor,
            text: sale.bought.clone(),
        },
        Line {
            account: Account::Available(sale.publisher),
            amount: sale.price.minor - fee,
            text: sale.sold.clone(),
        },
    ];
    if fee != 0 {
        lines.push(Line {
            account: Account::Fees,
            amount: fee,
            text: format!("Share of: {}", sale.sold),
        });
    }
    let posting = Posting {
        key: format!("close:{}", sale.order),
        kind: EntryKind::Capture,
        order: Some(sale.order),
        grants: sale.grants,
        receipts: sale.receipts,
        lines,
    };
    store::post(tx, &posting, sale.price.currency, now)
}

/// The ledger; cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    db: Db,
    clock: Clock,
    notices: Notices,
    currency: Currency,
}

impl Ledger {
    /// Over an open database.
    pub fn new(db: Db, clock: Clock, notices: Notices, currency: Currency) -> Self {
        Self {
            db,
            clock,
            notices,
            currency,
        }
    }

    /// Refuses to start in another currency than the one that was booked.
    pub async fn check_currency(&self) -> Result<()> {
        let currency = self.currency;
        match self
            .db
            .read(move |c| store::other_currency(c, currency))
            .await?
        {
            None => Ok(()),
            Some(booked) => {
                let detail = format!(
                    "the configuration says {currency}, but the ledger is kept in {booked}"
                );
                Err(conflict(
                    detail,
                    format!("set currency = \"{booked}\" under [money]"),
                ))
            }
        }
    }

    /// Customers' accounts, then the operator's.
    pub async fn accounts(&self) -> Result<Vec<AccountRow>> {
        let currency = self.currency;
        self.db.read(move |c| store::accounts(c, currency)).await
    }

    /// Lines of all accounts or of one customer's, newest first.
    pub async fn lines(&self, customer: Option<CustomerId>, limit: u32) -> Result<Vec<LineRow>> {
        let currency = self.currency;
        self.db
            .read(move |c| store::lines(c, customer, currency, limit.min(10_000)))
            .await
    }

    /// A customer's bill, newest first, at most [`MAX_BILL_LINES`].
    pub async fn bill(&self, customer: CustomerId) -> Result<Vec<BillLine>> {
        let currency = self.currency;
        self.db
            .read(move |c| store::bill(c, customer, currency, MAX_BILL_LINES))
            .await
    }

    /// Books what a customer paid in. Repeating it with the same key books nothing and returns the same entry.
    pub async fn credit(
        &self,
        customer: CustomerId,
        amount: Money,
        note: &str,
        idempotency_key: &str,
    ) -> Result<EntryId> {
        if amount.currency != self.currency || !(1..=MAX_CREDIT_MINOR).contains(&amount.minor) {
            let most = Money::new(MAX_CREDIT_MINOR, self.currency);
            return Err(bad(format!(
                "a credit is more than nothing and at most {most}"
            )));
        }
        let key = format!(
            "credit:{customer}:{}",
            clean(idempotency_key, MAX_KEY_CHARS, "the form's key")?
        );
        let note = crate::error::clean_note(note, MAX_NOTE_CHARS, "the note")?;
        let text = if note.is_empty() {
            "Credit".to_owned()
        } else {
            format!("Credit: {note}")
        };
        let now = self.clock.now();
        let entry = self
            .db
            .write(move |tx| {
                if let Some(booked) = store::entry_of_key(tx, &key)? {
                    return Ok(booked);
                }
                if customers::store::customers(tx, Some(customer), amount.currency)?.is_empty() {
                    return Err(missing("customer"));
                }
                let line = |account, amount| Line {
                    account,
                    amount,
                    text: text.clone(),
                };
                let lines = vec![
                    line(Account::Cash, -amount.minor),
                    line(Account::Available(customer), amount.minor),
                ];
                let posting = Posting {
                    key,
                    kind: EntryKind::Credit,
                    order: None,
                    grants: &[],
                    receipts: &[],
                    lines,
                };
                store::post(tx, &posting, amount.currency, now)
            })
            .await?;
        self.notices.changed();
        Ok(entry)
    }

    /// Whether all accounts add up to 0 and each is the sum of its lines.
    pub async fn balanced(&self) -> Result<bool> {
        self.db.read(store::balanced).await
    }
}
