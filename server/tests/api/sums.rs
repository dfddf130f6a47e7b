//! Whatever happens in whatever order: the ledger adds up to nothing, what is held is what active orders cost, and no
//! order is captured twice (F14).

use crate::lab::{Gateway, Lab, Made};
use mantel_protocol::api::{OrderEntry, OrderState};
use mantel_protocol::restriction::Rule;
use mantel_server::ledger::EntryKind;
use mantel_server::orders::OrderFilter;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::HashMap;

#[derive(Debug, Clone)]
enum Act {
    Order { who: usize, title: usize },
    Grant { nth: usize },
    Arrive { nth: usize },
    Cancel { nth: usize },
    Fail { nth: usize },
    OperatorCancel { nth: usize },
    Price { title: usize, minor: i64 },
    Suspend { who: usize },
    Reopen { who: usize },
    Block { who: usize },
    Unblock,
    Credit { who: usize, minor: i64 },
}

fn act() -> impl Strategy<Value = Act> {
    let nth = 0usize..100;
    prop_oneof![
        6 => (0usize..3, 0usize..3).prop_map(|(who, title)| Act::Order { who, title }),
        4 => nth.clone().prop_map(|nth| Act::Grant { nth }),
        4 => nth.clone().prop_map(|nth| Act::Arrive { nth }),
        2 => nth.clone().prop_map(|nth| Act::Cancel { nth }),
        1 => nth.clone().prop_map(|nth| Act::Fail { nth }),
        1 => nth.prop_map(|nth| Act::OperatorCancel { nth }),
        1 => (0usize..3, 0i64..900).prop_map(|(title, minor)| Act::Price { title, minor }),
        1 => (0usize..3).prop_map(|who| Act::Suspend { who }),
        2 => (0usize..3).prop_map(|who| Act::Reopen { who }),
        1 => (0usize..3).prop_map(|who| Act::Block { who }),
        2 => Just(Act::Unblock),
        1 => (0usize..3, 1i64..500).prop_map(|(who, minor)| Act::Credit { who, minor }),
    ]
}

struct World {
    lab: Lab,
    homes: Vec<Gateway>,
    titles: Vec<Made>,
    orders: Vec<(usize, OrderEntry)>,
}

impl World {
    async fn new() -> Self {
        let lab = Lab::with_fee(125).await;
        let mut homes = Vec::new();
        for (name, credit) in [("Anna", 700), ("Ben", 1_500), ("Carl", 300)] {
            homes.push(lab.home(name, credit).await);
        }
        let mut titles = Vec::new();
        for (number, home) in homes.iter().enumerate() {
            titles.push(
                home.offer(&format!("Title {number}"), 199 * number as i64)
                    .await,
            );
        }
        Self {
            lab,
            homes,
            titles,
            orders: Vec::new(),
        }
    }

    fn nth(&self, nth: usize) -> Option<(&Gateway, &OrderEntry)> {
        let (who, order) = self.orders.get(nth.checked_rem(self.orders.len())?)?;
        Some((&self.homes[*who], order))
    }

    /// Refusals are fine: only the sums are judged.
    async fn perform(&mut self, act: &Act) {
        let core = self.lab.core();
        match act {
            Act::Order { who, title } => {
                if let Ok(order) = self.homes[*who].order(&self.titles[*title], 10_000).await {
                    self.orders.push((*who, order));
                }
            }
            Act::Grant { nth } => {
                if let Some((home, order)) = self.nth(*nth) {
                    let _ = home.ask_grant(order, order.blobs[0]).await;
                }
            }
            Act::Arrive { nth } => {
                if let Some((home, order)) = self.nth(*nth) {
                    let receipt = home.receipt(order, order.blobs[0], &[]);
                    let _ = home
                        .hand_in(vec![mantel_protocol::token::sign(&home.key, &receipt)])
                        .await;
                }
            }
            Act::Cancel { nth } => {
                if let Some((home, order)) = self.nth(*nth) {
                    let _ = home
                        .delete::<OrderEntry>(&format!("/v1/orders/{}", order.order))
                        .await;
                }
            }
            Act::Fail { nth } => {
                if let Some((home, order)) = self.nth(*nth) {
                    let report = serde_json::json!({ "detail": "gone", "fatal": true });
                    let _ = home
                        .post::<()>(
                            &format!("/v1/deliveries/{}/problem", order.delivery),
                            &report,
                        )
                        .await;
                }
            }
            Act::OperatorCancel { nth } => {
                if let Some((_, order)) = self.nth(*nth) {
                    let _ = core.orders.operator_cancel(order.order, "").await;
                }
            }
            Act::Price { title, minor } => {
                let price = crate::lab::eur(*minor);
                core.titles
                    .set_price(self.titles[*title].title, price)
                    .await
                    .expect("set");
            }
            Act::Suspend { who } => core
                .suspend(self.homes[*who].customer, "late")
                .await
                .expect("suspended"),
            Act::Reopen { who } => core
                .reopen(self.homes[*who].customer)
                .await
                .expect("reopened"),
            Act::Block { who } => {
                let rule = Rule::Block {
                    peers: vec![],
                    initiative: None,
                    side: None,
                };
                core.add_restriction(Some(self.homes[*who].home), rule, "")
                    .await
                    .expect("added");
            }
            Act::Unblock => {
                for row in core.restrictions.list().await.expect("listed") {
                    core.remove_restriction(row.restriction.id)
                        .await
                        .expect("removed");
                }
            }
            Act::Credit { who, minor } => {
                let key = format!("more-{}", crate::lab::unique());
                let amount = crate::lab::eur(*minor);
                core.ledger
                    .credit(self.homes[*who].customer, amount, "", &key)
                    .await
                    .expect("credited");
            }
        }
    }

    async fn judge(&self, after: &Act) {
        let core = self.lab.core();
        assert!(
            core.ledger.balanced().await.expect("read"),
            "after {after:?}"
        );
        let accounts = core.ledger.accounts().await.expect("read");
        let held: i64 = accounts.iter().map(|account| account.held.minor).sum();
        let rows = core
            .orders
            .list_all(OrderFilter::All, 10_000)
            .await
            .expect("read");
        let active: i64 = rows
            .iter()
            .filter(|row| !row.state.is_final())
            .map(|row| row.price.minor)
            .sum();
        assert_eq!(
            held, active,
            "held is what active orders cost, after {after:?}"
        );
        let mut closed: HashMap<_, (usize, usize)> = HashMap::new();
        let mut entries: Vec<_> = core.ledger.lines(None, 10_000).await.expect("read");
        entries.sort_by_key(|line| line.entry);
        entries.dedup_by_key(|line| line.entry);
        for line in entries {
            let Some(order) = line.order else { continue };
            let counts = closed.entry(order).or_default();
            counts.0 += usize::from(line.kind == EntryKind::Capture);
            counts.1 += usize::from(line.kind == EntryKind::Release);
        }
        for row in rows.iter().filter(|row| row.price.minor != 0) {
            let expected = match row.state {
                OrderState::Settled => (1, 0),
                OrderState::Cancelled | OrderState::Failed => (0, 1),
                OrderState::Held | OrderState::Delivering => (0, 0),
            };
            assert_eq!(
                closed.get(&row.order).copied().unwrap_or_default(),
                expected,
                "{row:?} after {after:?}"
            );
        }
    }
}

async fn run(seed: u8) {
    eprintln!("seed {seed}");
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let acts = proptest::collection::vec(act(), 60)
        .new_tree(&mut runner)
        .expect("acts")
        .current();
    let mut world = World::new().await;
    for act in &acts {
        world.perform(act).await;
        world.judge(act).await;
    }
    let settled = world
        .lab
        .core()
        .orders
        .list_all(OrderFilter::All, 1_000)
        .await
        .expect("read");
    eprintln!("{} orders", settled.len());
    world.lab.running.stop().await;
}

#[tokio::test]
async fn random_lives_never_leak_a_hold_or_capture_twice() {
    for seed in 1..=6 {
        run(seed).await;
    }
}
