//! The life of an order, decided without I/O: what happened in, the new state and what to do out.
//!
//! ```text
//! place ─▶ held ──grant──▶ delivering ──receipts──▶ settled      capture, pass
//!           │  └──────────receipts─────────────────▶ settled     (the bytes were here already)
//!           └────────────────┴── cancel / fail ────▶ cancelled, failed     release, revoke
//! ```
//! Settled, cancelled and failed are ends: nothing leads out of them, so that a hold is closed exactly once.

use mantel_protocol::api::OrderState;

/// The most grants for one order: a receiver that asks more often is broken, or drains the relay.
pub const MAX_GRANTS: u32 = 5_000;

/// What the decider knows of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Where it is.
    pub state: OrderState,
    /// Whether there is something to pay.
    pub priced: bool,
    /// Whether its title needs a pass.
    pub catalog: bool,
    /// Whether the requester allows a direct path only.
    pub direct_only: bool,
    /// How many grants it has had.
    pub grants_issued: u32,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The receiver asks for a grant.
    GrantAsked,
    /// The receiver found no direct path.
    RelayAsked,
    /// The receiver reports trouble that may pass.
    Trouble(String),
    /// All receipts are in, and good.
    Arrived,
    /// Receiver, payer or operator calls it off.
    Cancel(String),
    /// It cannot or may not be delivered.
    Fail(String),
}

/// What to do, in this order, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Set the price aside.
    Hold,
    /// Pay the publisher.
    Capture,
    /// Give the price back.
    Release,
    /// Sign a grant; it supersedes the older one of its blob.
    Grant,
    /// End all grants.
    EndGrants,
    /// Note that the receiver waits at the relay.
    WantRelay,
    /// Store the receipts.
    KeepReceipts,
    /// Grant a pass.
    Pass,
    /// Show a problem, or none.
    Problem(Option<String>),
    /// Stop the sender and the relay now.
    Revoke,
    /// Tell receiver, payer and sender to look at their orders.
    TellOrders,
    /// Tell the sender to look at its deliveries.
    TellSender,
}

/// Where the order goes, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The new state.
    pub state: OrderState,
    /// What to do.
    pub actions: Vec<Action>,
}

/// Why an event cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is over.
    #[error("this order is over: it was {}", .0.as_str())]
    Over(OrderState),
    /// No grant was issued, so nobody can wait at the relay.
    #[error("the relay serves a delivery only under a grant; ask for one first")]
    NoGrant,
    /// The requester allows a direct path only.
    #[error("this order allows a direct path only")]
    DirectOnly,
    /// [`MAX_GRANTS`] are used.
    #[error("this order has had {MAX_GRANTS} grants, which no sound delivery needs")]
    TooManyGrants,
}

/// A new order.
pub fn place(priced: bool) -> Decision {
    let mut actions = vec![Action::TellOrders, Action::TellSender];
    if priced {
        actions.insert(0, Action::Hold);
    }
    Decision {
        state: OrderState::Held,
        actions,
    }
}

/// The next step of an order.
pub fn step(order: &Standing, event: &Event) -> Result<Decision, Refusal> {
    use OrderState::{Cancelled, Delivering, Failed, Settled};
    let same = |actions| {
        Ok(Decision {
            state: order.state,
            actions,
        })
    };
    match (order.state, event) {
        // Repeated after a lost answer: done already.
        (Settled, Event::Arrived) | (Cancelled, Event::Cancel(_)) | (Failed, Event::Fail(_)) => {
            same(vec![])
        }
        (state, _) if state.is_final() => Err(Refusal::Over(state)),
        (_, Event::GrantAsked) if order.grants_issued >= MAX_GRANTS => Err(Refusal::TooManyGrants),
        (state, Event::GrantAsked) => {
            let mut actions = vec![Action::Grant, Action::Problem(None)];
            if state != Delivering {
                actions.extend([Action::TellOrders, Action::TellSender]);
            }
            Ok(Decision {
                state: Delivering,
                actions,
            })
        }
        (_, Event::RelayAsked) if order.direct_only => Err(Refusal::DirectOnly),
        (Delivering, Event::RelayAsked) => same(vec![Action::WantRelay, Action::TellSender]),
        (_, Event::RelayAsked) => Err(Refusal::NoGrant),
        (_, Event::Trouble(why)) => {
            same(vec![Action::Problem(Some(why.clone())), Action::TellOrders])
        }
        (_, Event::Arrived) => {
            let mut actions = vec![Action::KeepReceipts];
            if order.priced {
                actions.push(Action::Capture);
            }
            if order.catalog {
                actions.push(Action::Pass);
            }
            let rest = [
                Action::EndGrants,
                Action::Problem(None),
                Action::TellOrders,
                Action::TellSender,
            ];
            actions.extend(rest);
            Ok(Decision {
                state: Settled,
                actions,
            })
        }
        (_, Event::Cancel(why)) => Ok(end(*order, Cancelled, why)),
        (_, Event::Fail(why)) => Ok(end(*order, Failed, why)),
    }
}

fn end(order: Standing, state: OrderState, why: &str) -> Decision {
    let mut actions = vec![
        Action::EndGrants,
        Action::Revoke,
        Action::Problem(Some(why.to_owned())),
    ];
    if order.priced {
        actions.push(Action::Release);
    }
    actions.extend([Action::TellOrders, Action::TellSender]);
    Decision { state, actions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::GrantAsked),
            Just(Event::RelayAsked),
            Just(Event::Trouble("slow".into())),
            Just(Event::Arrived),
            Just(Event::Cancel("called off".into())),
            Just(Event::Fail("gone".into())),
        ]
    }

    proptest! {
        #[test]
        fn a_hold_is_closed_at_most_once_and_exactly_at_the_end(
            events in proptest::collection::vec(event(), 0..40),
            priced in any::<bool>(),
            catalog in any::<bool>(),
            direct_only in any::<bool>(),
        ) {
            let mut order = Standing { state: OrderState::Held, priced, catalog, direct_only, grants_issued: 0 };
            let first = place(priced);
            prop_assert_eq!(first.actions.contains(&Action::Hold), priced);
            let (mut closed, mut passes) = (0, 0);
            for event in events {
                let before = order.state;
                let Ok(decision) = step(&order, &event) else { continue };
                order.state = decision.state;
                let count = |wanted: &[Action]| decision.actions.iter().filter(|a| wanted.contains(a)).count();
                closed += count(&[Action::Capture, Action::Release]);
                passes += count(&[Action::Pass]);
                order.grants_issued += count(&[Action::Grant]) as u32;
                prop_assert!(!before.is_final() || decision.actions.is_empty(), "an end is an end");
                if !before.is_final() && order.state.is_final() {
                    prop_assert_eq!(count(&[Action::EndGrants]), 1);
                }
                prop_assert!(!(direct_only && count(&[Action::WantRelay]) > 0));
            }
            prop_assert_eq!(closed, usize::from(priced && order.state.is_final()));
            prop_assert_eq!(passes, usize::from(catalog && order.state == OrderState::Settled));
        }
    }

    #[test]
    fn refuses_what_comes_after_the_end_and_endless_grants() {
        let mut order = Standing {
            state: OrderState::Settled,
            priced: true,
            catalog: true,
            direct_only: false,
            grants_issued: 1,
        };
        assert_eq!(
            step(&order, &Event::Cancel(String::new())),
            Err(Refusal::Over(OrderState::Settled))
        );
        assert_eq!(
            step(&order, &Event::GrantAsked),
            Err(Refusal::Over(OrderState::Settled))
        );
        order.state = OrderState::Held;
        assert_eq!(step(&order, &Event::RelayAsked), Err(Refusal::NoGrant));
        order.grants_issued = MAX_GRANTS;
        assert_eq!(
            step(&order, &Event::GrantAsked),
            Err(Refusal::TooManyGrants)
        );
    }
}
