//! Performs what [`super::decide`] decided: every action of a step in the one transaction of its caller.

use super::decide::{Action, Decision, Event, Refusal, Standing, step};
use super::receipts::Verified;
use super::store::{self, NewGrant, Order};
use crate::catalog::TitleMode;
use crate::customers::{self, Home};
use crate::error::{CoreError, Result, conflict, refused};
use crate::identity::Identity;
use crate::notice::Outbox;
use crate::{ledger, passes, restrictions};
use jiff::{SignedDuration, Timestamp};
use mantel_protocol::api::{OrderState, ProblemCode};
use mantel_protocol::blob::{BlobId, ChunkRange};
use mantel_protocol::bus::Command;
use mantel_protocol::grant::Grant;
use mantel_protocol::ids::{EntryId, GrantId, HomeId, OrderId, PassId};
use mantel_protocol::license::Pass;
use mantel_protocol::manifest::MediaKind;
use mantel_protocol::money::{Currency, Money};
use mantel_protocol::restriction::{Denial, Exchange, Initiative, Party, Restriction, Side, judge};
use mantel_protocol::token::{Validity, sign};
use rusqlite::Connection;
use std::cell::RefCell;
use std::sync::Arc;

/// How long a grant holds, seconds. Short, so that a gateway out of reach cannot be served long after the end.
pub const GRANT_HOLDS_S: i64 = 600;

/// What steps need beside the database; cheap to clone.
#[derive(Clone)]
pub struct Desk {
    /// The server's keys.
    pub identity: Arc<Identity>,
    /// Of all prices.
    pub currency: Currency,
    /// The operator's share, thousandths.
    pub fee_permille: u16,
}

/// What an event brings along.
pub enum Work {
    /// Nothing.
    None,
    /// Chunks of a blob that a grant shall cover.
    Chunks {
        /// Which blob.
        blob: BlobId,
        /// Its size.
        blob_bytes: u64,
        /// Sorted, not overlapping, within the blob.
        chunks: Vec<ChunkRange>,
    },
    /// Receipts, verified.
    Receipts(Vec<Verified>),
}

/// What a step made.
#[derive(Default)]
pub struct Made {
    /// A grant token.
    pub grant: Option<String>,
}

impl Order {
    /// What the decider knows of it.
    pub fn standing(&self) -> Standing {
        Standing {
            state: self.state,
            priced: self.price_minor != 0,
            catalog: self.mode == TitleMode::Catalog,
            direct_only: self.path_limit == Some(mantel_protocol::receipt::Path::Direct),
            grants_issued: self.grants_issued,
        }
    }

    /// What it is called in a bill or message.
    pub fn title_text(&self) -> String {
        self.title_name
            .as_ref()
            .map_or_else(|| "a shared title".to_owned(), |name| format!("“{name}”"))
    }
}

/// Where a step happens: a transaction, the clock, and what is told after the commit.
pub struct Scene<'a> {
    /// The transaction.
    pub tx: &'a Connection,
    /// Keys and money.
    pub desk: &'a Desk,
    /// Now.
    pub now: Timestamp,
    /// Told after the commit.
    pub outbox: &'a mut Outbox,
}

impl Scene<'_> {
    /// Decides and performs the next step of an order.
    pub fn apply(&mut self, order: &Order, event: &Event, work: &Work) -> Result<Made> {
        let decision = step(&order.standing(), event).map_err(refusal)?;
        self.perform(order, &decision, work)
    }

    /// Performs a decision.
    pub fn perform(&mut self, order: &Order, decision: &Decision, work: &Work) -> Result<Made> {
        let mut made = Made::default();
        let mut entry = None;
        if decision.state != order.state || !decision.actions.is_empty() {
            store::set_state(self.tx, order.id, decision.state, self.now)?;
        }
        for action in &decision.actions {
            self.act(order, decision.state, action, work, &mut entry, &mut made)?;
        }
        Ok(made)
    }

    fn act(
        &mut self,
        order: &Order,
        state: OrderState,
        action: &Action,
        work: &Work,
        entry: &mut Option<EntryId>,
        made: &mut Made,
    ) -> Result<()> {
        let price = Money::new(order.price_minor, self.desk.currency);
        match action {
            Action::Hold => {
                let text = format!("Set aside for {}", order.title_text());
                ledger::hold(
                    self.tx,
                    order.id,
                    order.payer_customer,
                    price,
                    &text,
                    self.now,
                )?;
            }
            Action::Release => {
                let text = format!("Given back for {}: {}", order.title_text(), state.as_str());
                ledger::release(
                    self.tx,
                    order.id,
                    order.payer_customer,
                    price,
                    &text,
                    self.now,
                )?;
            }
            Action::Capture => *entry = Some(self.capture(order, price)?),
            Action::Grant => made.grant = Some(self.grant(order, work)?),
            Action::EndGrants => store::end_grants(
                self.tx,
                order.id,
                &format!("the order was {}", state.as_str()),
                self.now,
            )?,
            Action::WantRelay => {
                if !store::want_relay(self.tx, order.id, self.now)? {
                    return Err(refusal(Refusal::NoGrant));
                }
            }
            Action::KeepReceipts => {
                let Work::Receipts(receipts) = work else {
                    return Err(lacking());
                };
                for receipt in receipts {
                    store::add_receipt(self.tx, order.id, &receipt.row)?;
                    store::set_path(self.tx, order.id, receipt.row.path)?;
                }
            }
            Action::Pass => self.pass(order, *entry)?,
            Action::Problem(problem) => store::set_problem(self.tx, order.id, problem.as_deref())?,
            Action::Revoke => self.outbox.revoke(order.sender_device, order.delivery),
            Action::TellSender => self.outbox.tell(order.sender_device, Command::Deliveries),
            Action::TellOrders => {
                self.outbox.tell(order.receiver_device, Command::Orders);
                self.outbox.tell(order.sender_device, Command::Orders);
                if order.payer != order.receiver
                    && let Some(payer) = customers::store::by_id(self.tx, order.payer)?
                {
                    self.outbox.tell(payer.device, Command::Orders);
                }
            }
        }
        Ok(())
    }

    fn grant(&mut self, order: &Order, work: &Work) -> Result<String> {
        let Work::Chunks {
            blob,
            blob_bytes,
            chunks,
        } = work
        else {
            return Err(lacking());
        };
        let grant = Grant {
            id: GrantId::generate(),
            order: order.id,
            delivery: order.delivery,
            title: order.title,
            blob: *blob,
            blob_bytes: *blob_bytes,
            sender: order.sender_device,
            receiver: order.receiver_device,
            chunks: chunks.clone(),
            validity: Validity::from_now(self.now, GRANT_HOLDS_S),
        };
        let token = sign(self.desk.identity.signing(), &grant);
        let new = NewGrant {
            id: grant.id,
            order: order.id,
            blob: *blob,
            max_bytes: grant.max_bytes(),
            done_bytes: blob_bytes.saturating_sub(grant.max_bytes()),
            token: &token,
            expires: grant.validity.expires,
        };
        store::add_grant(self.tx, &new, self.now)?;
        Ok(token)
    }

    fn capture(&mut self, order: &Order, price: Money) -> Result<EntryId> {
        let name = |home: HomeId| -> Result<String> {
            Ok(customers::store::name_of(self.tx, home)?.unwrap_or_else(|| home.to_string()))
        };
        let grants: Vec<GrantId> = store::grants(self.tx, order.id)?
            .iter()
            .map(|grant| grant.id)
            .collect();
        let receipts: Vec<String> = store::receipts(self.tx, order.id)?
            .into_iter()
            .map(|receipt| receipt.hash)
            .collect();
        let gift = if order.payer == order.receiver {
            String::new()
        } else {
            format!(" for {}", name(order.receiver)?)
        };
        let sale = ledger::Sale {
            order: order.id,
            payer: order.payer_customer,
            publisher: order.publisher_customer,
            price,
            fee_permille: self.desk.fee_permille,
            bought: format!(
                "Bought {} from {}{gift}",
                order.title_text(),
                name(order.sender)?
            ),
            sold: format!("Sold {} to {}", order.title_text(), name(order.receiver)?),
            grants: &grants,
            receipts: &receipts,
        };
        ledger::capture(self.tx, &sale, self.now)
    }

    fn pass(&mut self, order: &Order, entry: Option<EntryId>) -> Result<()> {
        let pass = Pass {
            id: PassId::generate(),
            title: order.title,
            order: order.id,
            entry,
            home: order.receiver,
            device: order.receiver_device,
            terms: order.terms,
            validity: Validity::from_now(self.now, passes::PASS_HOLDS_S),
        };
        passes::grant(self.tx, self.desk.identity.signing(), &pass, self.now)?;
        Ok(())
    }

    /// Ends every active order that is no longer allowed: restrictions, suspended accounts, removed homes, oldest first,
    /// so that a quota keeps what it has room for.
    pub fn end_forbidden(&mut self) -> Result<usize> {
        let mut ended = 0;
        for order in store::active(self.tx)? {
            let question = Question::of_order(&order);
            if let Err(denial) = question.judge(self.tx, self.now)? {
                self.apply(&order, &Event::Fail(denial.to_string()), &Work::None)?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Ends the active orders that `condemned` picks.
    pub fn end_those(&mut self, why: &str, condemned: impl Fn(&Order) -> bool) -> Result<()> {
        for order in store::active(self.tx)?
            .iter()
            .filter(|order| condemned(order))
        {
            self.apply(order, &Event::Fail(why.to_owned()), &Work::None)?;
        }
        Ok(())
    }
}

/// The wire's word for a step that cannot be.
pub fn refusal(refusal: Refusal) -> CoreError {
    let detail = refusal.to_string();
    match refusal {
        Refusal::Over(_) => conflict(
            detail,
            "look at the order again; order the title anew if it is still wanted",
        ),
        Refusal::NoGrant | Refusal::DirectOnly => conflict(detail, "nothing was changed"),
        Refusal::TooManyGrants => refused(
            ProblemCode::TooMany,
            detail,
            "cancel the order and make a new one",
        ),
    }
}

fn lacking() -> CoreError {
    CoreError::Broken {
        what: "a step was taken without what it needs",
        source: None,
    }
}

/// An exchange to be judged.
pub struct Question {
    /// Who starts it.
    pub initiative: Initiative,
    /// Who sends.
    pub sender: HomeId,
    /// Who receives.
    pub receiver: HomeId,
    /// What kind.
    pub kind: MediaKind,
    /// How large.
    pub bytes: u64,
    /// Orders under way count if they are older than this one; `None`: all count.
    pub order: Option<OrderId>,
}

impl Question {
    /// The exchange of an order under way.
    pub fn of_order(order: &Order) -> Self {
        Self {
            initiative: order.initiative,
            sender: order.sender,
            receiver: order.receiver,
            kind: order.kind,
            bytes: order.total_bytes,
            order: Some(order.id),
        }
    }

    /// Judges it by all restrictions and real use.
    pub fn judge(&self, c: &Connection, now: Timestamp) -> Result<std::result::Result<(), Denial>> {
        let rules = restrictions::store::for_homes(c, &[self.sender, self.receiver])?;
        let party = |home: HomeId| -> Result<Party> {
            let active = customers::store::by_id(c, home)?.is_some_and(|home: Home| home.active);
            Ok(Party { home, active })
        };
        self.judge_by(c, now, &rules, party(self.sender)?, party(self.receiver)?)
    }

    /// Judges it by these restrictions.
    pub fn judge_by(
        &self,
        c: &Connection,
        now: Timestamp,
        rules: &[Restriction],
        sender: Party,
        receiver: Party,
    ) -> Result<std::result::Result<(), Denial>> {
        let exchange = Exchange {
            initiative: self.initiative,
            sender,
            receiver,
            kind: self.kind,
            bytes: self.bytes,
        };
        let failed = RefCell::new(None);
        let used = |home: HomeId, side: Side, period_h: u32| {
            let since = now
                .saturating_sub(SignedDuration::from_hours(i64::from(period_h)))
                .unwrap_or(Timestamp::MIN);
            store::used(c, home, side, since, self.order).unwrap_or_else(|error| {
                failed.borrow_mut().get_or_insert(error);
                u64::MAX
            })
        };
        let verdict = judge(rules, &exchange, used);
        match failed.into_inner() {
            Some(error) => Err(error),
            None => Ok(verdict),
        }
    }
}
