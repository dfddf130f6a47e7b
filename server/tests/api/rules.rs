//! Restrictions (F17): before an order, at the grant, and against deliveries under way.

use crate::lab::{Gateway, Lab, Made, code, eur};
use mantel_protocol::api::{
    HomeEntry, OrderEntry, OrderState, ProblemCode, RestrictionsAnswer, TitleEntry,
};
use mantel_protocol::manifest::MediaKind;
use mantel_protocol::receipt::Path;
use mantel_protocol::restriction::{Initiative, RestrictionSet, Rule, Side};
use mantel_protocol::token::verify;
use mantel_server::relay::Admission;
use std::time::Duration;

fn block(peers: Vec<mantel_protocol::ids::HomeId>) -> Rule {
    Rule::Block {
        peers,
        initiative: None,
        side: None,
    }
}

async fn state(gateway: &Gateway, order: &OrderEntry) -> OrderEntry {
    gateway
        .get(&format!("/v1/orders/{}", order.order))
        .await
        .expect("read")
}

#[tokio::test]
async fn blocked_pairs_see_neither_titles_nor_addresses_and_cannot_order() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 500).await);
    let made = anna.offer("Film", 100).await;
    let report = serde_json::json!({ "addresses": ["127.0.0.1:4000", "0.0.0.0:1"], "free_bytes": 5, "version": "1" });
    let seen: mantel_protocol::api::PresenceAnswer =
        anna.put("/v1/presence", &report).await.expect("taken");
    assert_eq!(seen.observed, "127.0.0.1");
    let homes: Vec<HomeEntry> = ben.get("/v1/homes").await.expect("listed");
    let of_anna = |homes: &[HomeEntry]| {
        homes
            .iter()
            .find(|home| home.home == anna.home)
            .cloned()
            .expect("there")
    };
    let open = of_anna(&homes);
    assert!(
        open.may_push && open.may_pull && open.online && open.addresses.len() == 1,
        "{open:?}"
    );
    for address in [
        "anna",
        "127.0.0.1",
        "02:00:00:00:00:0a",
        "SN-Anna",
        &anna.home.to_string(),
        &anna.key.device_id().to_string(),
    ] {
        let found: Vec<HomeEntry> = ben
            .get(&format!("/v1/directory?address={address}"))
            .await
            .expect("answered");
        assert!(found.iter().any(|home| home.home == anna.home), "{address}");
    }
    let none: Vec<HomeEntry> = ben
        .get("/v1/directory?address=nobody")
        .await
        .expect("answered");
    assert!(none.is_empty());

    let rule = lab
        .core()
        .add_restriction(Some(ben.home), block(vec![anna.home]), "quarrel")
        .await
        .expect("added");
    let shut = of_anna(
        &ben.get::<Vec<HomeEntry>>("/v1/homes")
            .await
            .expect("listed"),
    );
    assert!(!shut.may_push && !shut.may_pull && shut.addresses.is_empty());
    assert!(
        ben.get::<Vec<TitleEntry>>("/v1/titles")
            .await
            .expect("listed")
            .is_empty()
    );
    let problem = ben.order(&made, 100).await.expect_err("blocked");
    assert_eq!(
        (problem.code, problem.status),
        (ProblemCode::Restricted, 403)
    );
    assert!(problem.detail.contains("quarrel"));
    assert_eq!(lab.funds(&ben).await, (500, 0));
    let answer: RestrictionsAnswer = ben.get("/v1/restrictions").await.expect("read");
    let set: RestrictionSet =
        verify(&ben.card.key, &answer.token, lab.clock.now()).expect("signed");
    assert!(set.active && set.restrictions.len() == 1 && set.restrictions[0].id == rule);
    let answer: RestrictionsAnswer = anna.get("/v1/restrictions").await.expect("read");
    let set: RestrictionSet =
        verify(&anna.card.key, &answer.token, lab.clock.now()).expect("signed");
    assert!(
        set.restrictions.is_empty(),
        "another home's rules are not told"
    );
    lab.core().remove_restriction(rule).await.expect("removed");
    assert!(ben.order(&made, 100).await.is_ok());
    lab.running.stop().await;
}

#[tokio::test]
async fn a_new_restriction_or_a_suspension_ends_what_is_under_way() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 900).await);
    let made = anna.offer("Film", 300).await;
    let causes: [&str; 4] = ["block", "suspend sender", "suspend receiver", "withdraw"];
    for cause in causes {
        let order = ben.order(&made, 300).await.expect("ordered");
        let (token, _) = ben.grant(&order, made.blobs[0]).await;
        let mut revoked = lab.core().grants.revocations();
        let core = lab.core();
        match cause {
            "block" => {
                let rule = core
                    .add_restriction(Some(anna.home), block(vec![]), "")
                    .await
                    .expect("added");
                core.remove_restriction(rule).await.expect("removed");
            }
            "suspend sender" => core
                .suspend(anna.customer, "late")
                .await
                .expect("suspended"),
            "suspend receiver" => core.suspend(ben.customer, "late").await.expect("suspended"),
            _ => core.withdraw_title(made.title).await.expect("withdrawn"),
        }
        assert_eq!(revoked.recv().await, Ok(order.delivery), "{cause}");
        assert!(
            core.grants
                .admit(&token, anna.key.device_id())
                .await
                .is_err(),
            "{cause}"
        );
        assert_eq!(
            state(&ben, &order).await.state,
            OrderState::Failed,
            "{cause}"
        );
        assert_eq!(lab.funds(&ben).await, (900, 0), "{cause}");
        if cause.starts_with("suspend") {
            assert_eq!(
                code(ben.order(&made, 300).await),
                ProblemCode::Restricted,
                "{cause}"
            );
        }
        core.reopen(anna.customer).await.expect("reopened");
        core.reopen(ben.customer).await.expect("reopened");
    }
    lab.assert_balanced().await;
    lab.running.stop().await;
}

#[tokio::test]
async fn quotas_count_what_is_under_way_and_what_arrived() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 0).await);
    let mut titles: Vec<Made> = Vec::new();
    for number in 0..3 {
        titles.push(anna.offer(&format!("Clip {number}"), 0).await);
    }
    let bytes = titles[0].blobs[0].sealed_bytes;
    let quota = Rule::Quota {
        side: Side::Receiver,
        bytes: 2 * bytes,
        period_h: 24,
    };
    let rule = lab
        .core()
        .add_restriction(Some(ben.home), quota, "")
        .await
        .expect("added");
    let first = ben.order(&titles[0], 0).await.expect("room for one");
    ben.receive(&first).await.expect("arrived");
    let second = ben.order(&titles[1], 0).await.expect("room for two");
    assert_eq!(
        code(ben.order(&titles[2], 0).await),
        ProblemCode::Restricted,
        "no room for three"
    );
    ben.grant(&second, titles[1].blobs[0]).await;
    let _: OrderEntry = ben
        .delete(&format!("/v1/orders/{}", second.order))
        .await
        .expect("cancelled");
    let third = ben
        .order(&titles[2], 0)
        .await
        .expect("what did not arrive does not count");
    lab.core().remove_restriction(rule).await.expect("removed");
    let fourth = ben.order(&titles[1], 0).await.expect("no quota");
    let tight = Rule::Quota {
        side: Side::Receiver,
        bytes: 2 * bytes,
        period_h: 24,
    };
    lab.core()
        .add_restriction(None, tight, "")
        .await
        .expect("added");
    assert_eq!(
        state(&ben, &third).await.state,
        OrderState::Held,
        "the older one has room"
    );
    assert_eq!(
        state(&ben, &fourth).await.state,
        OrderState::Failed,
        "the newer one has none"
    );
    lab.clock.advance(Duration::from_hours(25));
    assert!(ben.order(&titles[0], 0).await.is_ok(), "the day is over");
    lab.running.stop().await;
}

#[tokio::test]
async fn kinds_sizes_directions_and_paths_are_kept() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 0).await);
    let made = anna.offer("Clip", 0).await;
    let core = lab.core();
    let rules = [
        Rule::Kinds {
            allowed: vec![MediaKind::Image],
        },
        Rule::MaxTitleBytes { bytes: 1_000 },
        Rule::AllowOnly {
            peers: vec![],
            initiative: Some(Initiative::Pull),
            side: None,
        },
    ];
    for rule in rules {
        let id = core
            .add_restriction(Some(ben.home), rule.clone(), "")
            .await
            .expect("added");
        assert_eq!(
            code(ben.order(&made, 0).await),
            ProblemCode::Restricted,
            "{rule:?}"
        );
        core.remove_restriction(id).await.expect("removed");
    }
    let no_pull = Rule::AllowOnly {
        peers: vec![],
        initiative: Some(Initiative::Pull),
        side: None,
    };
    core.add_restriction(Some(ben.home), no_pull, "")
        .await
        .expect("added");
    let mut push = ben.order_request(&made, 0);
    (push.initiative, push.payment.payer) = (Initiative::Push, anna.home);
    push.payment.limits.path = Some(Path::Direct);
    let order: OrderEntry = anna
        .post("/v1/orders", &push)
        .await
        .expect("a push is allowed");
    assert_eq!(order.price, eur(0));
    ben.grant(&order, made.blobs[0]).await;
    let asked = ben
        .post::<()>(&format!("/v1/deliveries/{}/relay", order.delivery), &())
        .await;
    assert_eq!(code(asked), ProblemCode::Conflict, "a direct path only");
    lab.running.stop().await;
}
