//! The whole life of a title, from claim code to license (F12, F14, F25, F33, F61, F67).

use crate::lab::{Gateway, Lab, code, eur};
use mantel_protocol::api::{
    AccountAnswer, LicenseAnswer, LicenseRequest, Offered, OrderEntry, OrderState, ProblemCode,
    SendTask, TitleEntry,
};
use mantel_protocol::envelope;
use mantel_protocol::license::{License, Pass};
use mantel_protocol::manifest::{TitleKeys, license_context};
use mantel_protocol::restriction::Initiative;
use mantel_protocol::token::{sign, verify, verify_ignoring_time};
use mantel_server::relay::Admission;
use std::time::Duration;

#[tokio::test]
async fn a_priced_title_is_ordered_delivered_paid_once_and_opened() {
    let lab = Lab::with_fee(100).await;
    let anna = lab.home("Anna", 0).await;
    let ben = lab.home("Ben", 1_000).await;
    let made = anna.make("The sea", 2);
    let entry: TitleEntry = anna
        .post("/v1/titles", &anna.catalog_offer(&made, 400))
        .await
        .expect("offered");
    assert_eq!(entry.publisher, anna.home);

    let listed: Vec<TitleEntry> = ben.get("/v1/titles").await.expect("listed");
    assert!(
        matches!(&listed[..], [TitleEntry { offered: Offered::Catalog { price, .. }, .. }] if *price == eur(400))
    );

    let request = ben.order_request(&made, 400);
    let order: OrderEntry = ben.post("/v1/orders", &request).await.expect("ordered");
    assert_eq!(
        (order.state, order.price, order.total_bytes),
        (OrderState::Held, eur(400), 2 * made.blobs[0].sealed_bytes)
    );
    assert_eq!(lab.funds(&ben).await, (600, 400));
    let again: OrderEntry = ben.post("/v1/orders", &request).await.expect("the same");
    assert_eq!(again.order, order.order);
    assert_eq!(lab.funds(&ben).await, (600, 400), "held once");

    let (first_token, first) = ben.grant(&order, made.blobs[0]).await;
    assert_eq!(
        (first.sender, first.receiver),
        (anna.key.device_id(), ben.key.device_id())
    );
    let tasks: Vec<SendTask> = anna.get("/v1/deliveries").await.expect("listed");
    assert!(
        matches!(&tasks[..], [task] if task.delivery == order.delivery && task.relay_grant.is_none())
    );
    let () = ben
        .post(&format!("/v1/deliveries/{}/relay", order.delivery), &())
        .await
        .expect("asked");
    let tasks: Vec<SendTask> = anna.get("/v1/deliveries").await.expect("listed");
    assert_eq!(tasks[0].relay_grant.as_deref(), Some(first_token.as_str()));

    let (_, second) = ben.grant(&order, made.blobs[1]).await;
    let receipts: Vec<String> = [(made.blobs[0], &first), (made.blobs[1], &second)]
        .map(|(blob, grant)| sign(&ben.key, &ben.receipt(&order, blob, &[grant])))
        .to_vec();
    let settled = ben.hand_in(receipts.clone()).await.expect("settled");
    assert_eq!(settled.state, OrderState::Settled);
    let repeated = ben
        .hand_in(receipts.clone())
        .await
        .expect("the same answer");
    assert_eq!(repeated.pass, settled.pass);
    assert_eq!(
        (lab.funds(&ben).await, lab.funds(&anna).await),
        ((600, 0), (360, 0)),
        "captured once, less the share"
    );
    lab.assert_balanced().await;

    let account: AccountAnswer = ben.get("/v1/account").await.expect("read");
    let paid = &account.lines[0];
    assert_eq!((paid.amount, paid.order), (eur(-400), Some(order.order)));
    assert_eq!(paid.text, "Bought “The sea” from Anna");
    assert_eq!(paid.grants, [first.id, second.id]);
    let mut hashes: Vec<String> = receipts
        .iter()
        .map(|receipt| blake3::hash(receipt.as_bytes()).to_hex().to_string())
        .collect();
    let mut billed = paid.receipts.clone();
    hashes.sort();
    billed.sort();
    assert_eq!(billed, hashes, "the bill cites the receipts");

    let refused = lab
        .core()
        .grants
        .admit(&first_token, ben.key.device_id())
        .await;
    assert!(refused.is_err(), "no grant outlives its order");

    let pass = settled.pass.expect("a pass");
    let opened: Pass = verify(&ben.card.key, &pass, lab.clock.now()).expect("signed");
    assert_eq!(
        (opened.home, opened.device),
        (ben.home, ben.key.device_id())
    );
    let ask = LicenseRequest {
        pass,
        seal_key: ben.opening.seal_key(),
    };
    let answer: LicenseAnswer = ben.post("/v1/licenses", &ask).await.expect("licensed");
    let twice: LicenseAnswer = ben.post("/v1/licenses", &ask).await.expect("licensed");
    assert_eq!(answer.license, twice.license);
    let license: License = verify_ignoring_time(&ben.card.key, &answer.license).expect("signed");
    let context = license_context(made.title, ben.key.device_id());
    let keys =
        envelope::open(&ben.opening, &context, &license.keys).expect("sealed to this gateway");
    let keys = TitleKeys::from_bytes(&keys).expect("keys");
    for blob in &made.blobs {
        let same = |keys: &TitleKeys| {
            *keys
                .key_of(blob.blob)
                .expect("there")
                .expect("a key")
                .expose()
        };
        assert_eq!(same(&keys), same(&made.keys));
    }
    assert_eq!(license.terms.viewing_window_s, Some(172_800));
    let seen: OrderEntry = anna
        .get(&format!("/v1/orders/{}", order.order))
        .await
        .expect("the publisher sees it");
    assert_eq!(seen.pass, None, "the pass is for the receiver only");
    lab.running.stop().await;
}

#[tokio::test]
async fn cancelling_gives_the_hold_back_and_stops_the_delivery() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 500).await);
    let made = anna.offer("Clip", 500).await;
    let order = ben.order(&made, 500).await.expect("ordered");
    let (token, _) = ben.grant(&order, made.blobs[0]).await;
    let mut revoked = lab.core().grants.revocations();
    assert!(
        lab.core()
            .grants
            .admit(&token, anna.key.device_id())
            .await
            .is_ok()
    );
    let path = format!("/v1/orders/{}", order.order);
    assert_eq!(
        code(anna.delete::<OrderEntry>(&path).await),
        ProblemCode::Forbidden,
        "the sender cannot"
    );
    let cancelled: OrderEntry = ben.delete(&path).await.expect("cancelled");
    assert_eq!(
        (cancelled.state, cancelled.pass),
        (OrderState::Cancelled, None)
    );
    assert_eq!(revoked.recv().await, Ok(order.delivery));
    assert!(
        lab.core()
            .grants
            .admit(&token, anna.key.device_id())
            .await
            .is_err()
    );
    assert_eq!(lab.funds(&ben).await, (500, 0));
    let again: OrderEntry = ben.delete(&path).await.expect("the same answer");
    assert_eq!(again.state, OrderState::Cancelled);
    assert_eq!(
        code(ben.ask_grant(&order, made.blobs[0]).await),
        ProblemCode::Conflict
    );
    assert_eq!(
        code(ben.receive_after_end(&order, &made).await),
        ProblemCode::Conflict
    );
    assert_eq!(lab.funds(&ben).await, (500, 0));

    let order = ben.order(&made, 500).await.expect("ordered anew");
    ben.receive(&order).await.expect("settled");
    let late = code(
        ben.delete::<OrderEntry>(&format!("/v1/orders/{}", order.order))
            .await,
    );
    assert_eq!(late, ProblemCode::Conflict, "not after it was settled");
    assert_eq!(
        (lab.funds(&ben).await, lab.funds(&anna).await),
        ((0, 0), (500, 0))
    );
    lab.assert_balanced().await;
    lab.running.stop().await;
}

#[tokio::test]
async fn trouble_that_passes_is_shown_and_fatal_trouble_releases() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 500).await);
    let made = anna.offer("Clip", 300).await;
    let order = ben.order(&made, 300).await.expect("ordered");
    ben.grant(&order, made.blobs[0]).await;
    let report =
        |detail: &str, fatal: bool| serde_json::json!({ "detail": detail, "fatal": fatal });
    let path = format!("/v1/deliveries/{}/problem", order.delivery);
    let () = ben
        .post(&path, &report("the line is slow", false))
        .await
        .expect("taken");
    let seen: OrderEntry = ben
        .get(&format!("/v1/orders/{}", order.order))
        .await
        .expect("read");
    assert_eq!(
        (seen.state, seen.problem.as_deref()),
        (OrderState::Delivering, Some("the line is slow"))
    );
    assert_eq!(
        code(anna.post::<()>(&path, &report("no", true)).await),
        ProblemCode::NotFound
    );
    let () = ben
        .post(&path, &report("the disk is full", true))
        .await
        .expect("taken");
    let seen: OrderEntry = ben
        .get(&format!("/v1/orders/{}", order.order))
        .await
        .expect("read");
    assert_eq!(
        (seen.state, seen.problem.as_deref()),
        (OrderState::Failed, Some("the disk is full"))
    );
    assert_eq!(lab.funds(&ben).await, (500, 0));
    lab.running.stop().await;
}

#[tokio::test]
async fn private_shares_are_free_and_for_their_audience_only() {
    let lab = Lab::start().await;
    let (anna, ben, carl) = (
        lab.home("Anna", 0).await,
        lab.home("Ben", 0).await,
        lab.home("Carl", 0).await,
    );
    let made = anna.make("Birthday", 1);
    let _: TitleEntry = anna
        .post("/v1/titles", &Gateway::private_offer(&made, &[&ben]))
        .await
        .expect("shared");
    let listed: Vec<TitleEntry> = carl.get("/v1/titles").await.expect("listed");
    assert!(listed.is_empty(), "not even that it exists");
    assert_eq!(code(carl.order(&made, 0).await), ProblemCode::NotFound);
    let rows = lab.core().titles.list().await.expect("listed");
    assert_eq!(
        (rows[0].name.as_deref(), rows[0].audience),
        (None, 1),
        "the server knows no name"
    );

    let mut push = ben.order_request(&made, 0);
    push.initiative = Initiative::Push;
    push.payment.payer = anna.home;
    assert_eq!(
        code(ben.post::<OrderEntry>("/v1/orders", &push).await),
        ProblemCode::Forbidden
    );
    let order: OrderEntry = anna.post("/v1/orders", &push).await.expect("pushed");
    assert_eq!(
        (order.price, order.receiver, order.initiative),
        (eur(0), ben.home, Initiative::Push)
    );
    let settled = ben.receive(&order).await.expect("arrived");
    assert_eq!((settled.state, settled.pass), (OrderState::Settled, None));

    let second = anna.make("Holiday", 1);
    let both = Gateway::private_offer(&second, &[&ben, &carl]);
    let _: TitleEntry = anna.post("/v1/titles", &both).await.expect("shared");
    let order = carl.order(&second, 0).await.expect("pulled");
    let only_ben = Gateway::private_offer(&second, &[&ben]);
    let _: TitleEntry = anna
        .post("/v1/titles", &only_ben)
        .await
        .expect("shared with fewer");
    let seen: OrderEntry = carl
        .get(&format!("/v1/orders/{}", order.order))
        .await
        .expect("read");
    assert_eq!(seen.state, OrderState::Failed, "no longer shared");
    lab.assert_balanced().await;
    lab.running.stop().await;
}

#[tokio::test]
async fn a_gift_is_paid_by_the_giver_and_only_at_his_own_expense() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 900).await);
    let carl = lab.home("Carl", 0).await;
    let made = anna.offer("Film", 300).await;
    let mut gift = carl.order_request(&made, 300);
    gift.payment.payer = ben.home;
    assert_eq!(
        code(carl.post::<OrderEntry>("/v1/orders", &gift).await),
        ProblemCode::Forbidden,
        "not at Ben's expense"
    );
    let order: OrderEntry = ben.post("/v1/orders", &gift).await.expect("given");
    assert_eq!(lab.funds(&ben).await, (600, 300));
    let settled = carl.receive(&order).await.expect("arrived");
    assert!(settled.pass.is_some());
    let bill: AccountAnswer = ben.get("/v1/account").await.expect("read");
    assert_eq!(bill.lines[0].text, "Bought “Film” from Anna for Carl");

    let second_home = lab.gateway(ben.customer, "Ben's cottage").await;
    let mut request = second_home.order_request(&made, 300);
    request.payment.payer = ben.home;
    let order: OrderEntry = second_home
        .post("/v1/orders", &request)
        .await
        .expect("same customer");
    second_home.receive(&order).await.expect("arrived");
    assert_eq!(
        (lab.funds(&ben).await, lab.funds(&anna).await),
        ((300, 0), (600, 0))
    );

    let own = lab.gateway(anna.customer, "Anna's cottage").await;
    let order = own.order(&made, 0).await.expect("nobody pays himself");
    assert_eq!(own.receive(&order).await.expect("arrived").price, eur(0));
    lab.assert_balanced().await;
    lab.running.stop().await;
}

#[tokio::test]
async fn newer_grants_end_older_ones_and_relayed_bytes_are_bounded() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 0).await);
    let made = anna.offer("Free", 0).await;
    let order = ben.order(&made, 0).await.expect("ordered");
    let (old, _) = ben.grant(&order, made.blobs[0]).await;
    let (new, grant) = ben.grant(&order, made.blobs[0]).await;
    let grants = &lab.core().grants;
    assert!(
        grants.admit(&old, ben.key.device_id()).await.is_err(),
        "superseded"
    );
    let admitted = grants
        .admit(&new, ben.key.device_id())
        .await
        .expect("admitted");
    assert!(
        grants
            .admit(&new, lab.core().server.signing_key().device_id())
            .await
            .is_err(),
        "a third party"
    );
    grants.relayed(grant.id, 1_000);
    let then = grants
        .admit(&new, anna.key.device_id())
        .await
        .expect("admitted");
    assert_eq!(
        admitted.remaining_bytes - then.remaining_bytes,
        1_000,
        "counted before it is written"
    );
    grants.flush().await;
    let after = grants
        .admit(&new, anna.key.device_id())
        .await
        .expect("admitted");
    assert_eq!(after.remaining_bytes, then.remaining_bytes, "and after");
    grants.relayed(grant.id, after.remaining_bytes);
    assert!(
        grants.admit(&new, anna.key.device_id()).await.is_err(),
        "used up"
    );
    grants.flush().await;
    let rows = lab
        .core()
        .orders
        .view(order.order)
        .await
        .expect("read")
        .expect("there");
    assert!(rows.row.relayed_bytes > 1_000 && rows.grants.len() == 2);

    let (token, _) = ben.grant(&order, made.blobs[0]).await;
    lab.clock.advance(Duration::from_secs(601));
    assert!(
        grants.admit(&token, ben.key.device_id()).await.is_err(),
        "expired"
    );
    lab.running.stop().await;
}

impl Gateway {
    /// Hands in a good receipt for an order that is over.
    async fn receive_after_end(
        &self,
        order: &OrderEntry,
        made: &crate::lab::Made,
    ) -> crate::lab::Called<OrderEntry> {
        self.hand_in(vec![sign(
            &self.key,
            &self.receipt(order, made.blobs[0], &[]),
        )])
        .await
    }
}
