//! What is refused: forged, expired, replayed, another's, unpaid. Nothing is charged and no grant is signed (F17, F61).

use crate::lab::{Called, Gateway, Lab, code, eur};
use mantel_protocol::api::{
    LicenseAnswer, LicenseRequest, Offer, OrderEntry, ProblemCode, TitleEntry,
};
use mantel_protocol::envelope::{self, OpeningKey};
use mantel_protocol::key::SigningKey;
use mantel_protocol::license::Pass;
use mantel_protocol::manifest::vault_context;
use mantel_protocol::receipt::Receipt;
use mantel_protocol::restriction::{Initiative, Rule, Side};
use mantel_protocol::token::{DeviceLogin, sign};
use reqwest::Method;
use std::time::Duration;

#[tokio::test]
async fn orders_without_funds_above_the_price_agreed_or_with_another_key_hold_nothing() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 399).await);
    let made = anna.offer("Film", 400).await;
    let problem = ben.order(&made, 400).await.expect_err("no funds");
    assert_eq!(
        (problem.code, problem.status),
        (ProblemCode::InsufficientFunds, 402)
    );
    assert_eq!(
        problem.detail,
        "this costs 4.00 EUR, and the account has 3.99 EUR to spend"
    );
    lab.core()
        .ledger
        .credit(ben.customer, eur(1_000), "", "more")
        .await
        .expect("credited");
    lab.core()
        .ledger
        .credit(ben.customer, eur(1_000), "", "more")
        .await
        .expect("booked once");
    assert_eq!(lab.funds(&ben).await, (1_399, 0));

    lab.core()
        .titles
        .set_price(made.title, eur(500))
        .await
        .expect("set");
    assert_eq!(code(ben.order(&made, 400).await), ProblemCode::PriceChanged);
    let again: TitleEntry = anna
        .post("/v1/titles", &anna.catalog_offer(&made, 1))
        .await
        .expect("offered again");
    assert!(
        matches!(again.offered, mantel_protocol::api::Offered::Catalog { price, .. } if price == eur(500)),
        "the operator's price stays"
    );

    let mut other = ben.order_request(&made, 500);
    other.payment.seal_key = OpeningKey::generate().seal_key();
    assert_eq!(
        code(ben.post::<OrderEntry>("/v1/orders", &other).await),
        ProblemCode::Conflict
    );
    let mut large = ben.order_request(&made, 500);
    large.payment.limits.max_bytes = Some(1_000);
    assert_eq!(
        code(ben.post::<OrderEntry>("/v1/orders", &large).await),
        ProblemCode::Conflict
    );
    let mut negative = ben.order_request(&made, -1);
    negative.idempotency_key = "k".repeat(65);
    assert_eq!(
        code(ben.post::<OrderEntry>("/v1/orders", &negative).await),
        ProblemCode::BadRequest
    );
    assert_eq!(
        code(anna.order(&made, 500).await),
        ProblemCode::BadRequest,
        "one's own title"
    );

    let first = ben.order_request(&made, 500);
    let _: OrderEntry = ben.post("/v1/orders", &first).await.expect("ordered");
    assert_eq!(
        code(ben.order(&made, 500).await),
        ProblemCode::Conflict,
        "on its way already"
    );
    let mut changed = first.clone();
    changed.payment.max_price = eur(600);
    assert_eq!(
        code(ben.post::<OrderEntry>("/v1/orders", &changed).await),
        ProblemCode::Conflict,
        "another request"
    );
    assert_eq!(lab.funds(&ben).await, (899, 500));
    lab.assert_balanced().await;
    lab.running.stop().await;
}

#[tokio::test]
async fn forged_expired_foreign_and_missing_logins_are_refused() {
    let lab = Lab::start().await;
    let ben = lab.home("Ben", 0).await;
    let (now, key) = (lab.clock.now(), ben.card.key);
    let old = DeviceLogin::sign(&ben.key, key, now);
    let elsewhere = DeviceLogin::sign(&ben.key, SigningKey::generate().server_key(), now);
    let stranger = DeviceLogin::sign(&SigningKey::generate(), key, now);
    let mut forged = DeviceLogin::sign(&ben.key, key, now);
    let letter = if &forged[20..21] == "A" { "B" } else { "A" };
    forged.replace_range(20..21, letter);
    for login in [
        "",
        "v4.public.AAAA",
        &elsewhere,
        &stranger,
        &forged,
        &"x".repeat(5_000),
    ] {
        let called: Called<Vec<OrderEntry>> =
            ben.call(Method::GET, "/v1/orders", None, login).await;
        assert_eq!(code(called), ProblemCode::BadToken, "{login}");
    }
    let _: Vec<OrderEntry> = ben
        .call(Method::GET, "/v1/orders", None, &old)
        .await
        .expect("fresh");
    lab.clock.advance(Duration::from_mins(10));
    let called: Called<Vec<OrderEntry>> = ben.call(Method::GET, "/v1/orders", None, &old).await;
    assert_eq!(code(called), ProblemCode::BadToken, "expired");
    lab.core().remove_home(ben.home).await.expect("removed");
    assert_eq!(
        code(ben.get::<Vec<OrderEntry>>("/v1/orders").await),
        ProblemCode::BadToken,
        "removed"
    );
    lab.running.stop().await;
}

#[tokio::test]
async fn forged_foreign_and_incomplete_receipts_capture_nothing() {
    let lab = Lab::start().await;
    let (anna, ben, carl) = (
        lab.home("Anna", 0).await,
        lab.home("Ben", 400).await,
        lab.home("Carl", 400).await,
    );
    let made = anna.make("Film", 2);
    let _: TitleEntry = anna
        .post("/v1/titles", &anna.catalog_offer(&made, 400))
        .await
        .expect("offered");
    let order = ben.order(&made, 400).await.expect("ordered");
    let other = carl.order(&made, 400).await.expect("ordered");
    let [first, second] = [made.blobs[0], made.blobs[1]];
    let (_, grant) = ben.grant(&order, first).await;
    let (_, grant2) = ben.grant(&order, second).await;
    let (_, foreign) = carl.grant(&other, first).await;
    let good = ben.receipt(&order, first, &[&grant]);
    let rest = sign(&ben.key, &ben.receipt(&order, second, &[&grant2]));
    let with = |change: &dyn Fn(&mut Receipt)| {
        let mut receipt = good.clone();
        change(&mut receipt);
        vec![sign(&ben.key, &receipt), rest.clone()]
    };
    let by_sender = vec![sign(&anna.key, &good), rest.clone()];
    let by_other = vec![sign(&carl.key, &good), rest.clone()];
    let mut altered = with(&|_| {});
    let letter = if &altered[0][30..31] == "A" { "B" } else { "A" };
    altered[0].replace_range(30..31, letter);
    let cases: Vec<(Vec<String>, ProblemCode)> = vec![
        (by_sender, ProblemCode::BadToken),
        (by_other, ProblemCode::BadToken),
        (altered, ProblemCode::BadToken),
        (
            with(&|it| it.delivery = other.delivery),
            ProblemCode::BadToken,
        ),
        (
            with(&|it| it.receiver = carl.key.device_id()),
            ProblemCode::BadToken,
        ),
        (
            with(&|it| it.grants = vec![foreign.id]),
            ProblemCode::BadToken,
        ),
        (with(&|it| it.bytes -= 1), ProblemCode::BadRequest),
        (
            with(&|it| (it.blob, it.grants) = (second.blob, vec![grant2.id])),
            ProblemCode::BadRequest,
        ),
        (with(&|it| it.blob = second.blob), ProblemCode::BadToken),
        (
            with(&|it| it.grants = vec![grant.id; 17]),
            ProblemCode::BadRequest,
        ),
        (vec![sign(&ben.key, &good)], ProblemCode::BadRequest),
        (vec![], ProblemCode::BadRequest),
        (vec!["v4.public.x".into()], ProblemCode::BadToken),
        (vec!["x".repeat(9_000)], ProblemCode::BadRequest),
    ];
    for (number, (receipts, wanted)) in cases.into_iter().enumerate() {
        assert_eq!(code(ben.hand_in(receipts).await), wanted, "case {number}");
        assert_eq!(lab.funds(&anna).await, (0, 0), "case {number}");
    }
    let whole = with(&|_| {});
    assert_eq!(
        code(carl.hand_in(whole.clone()).await),
        ProblemCode::NotFound,
        "handed in by another home"
    );
    ben.hand_in(whole).await.expect("the good ones settle");
    assert_eq!(lab.funds(&anna).await, (400, 0));
    lab.assert_balanced().await;
    lab.running.stop().await;
}

#[tokio::test]
async fn the_vault_opens_for_the_right_pass_device_and_account_only() {
    let lab = Lab::start().await;
    let (anna, ben, carl) = (
        lab.home("Anna", 0).await,
        lab.home("Ben", 400).await,
        lab.home("Carl", 0).await,
    );
    let made = anna.offer("Film", 400).await;
    let order = ben.order(&made, 400).await.expect("ordered");
    let pass = ben
        .receive(&order)
        .await
        .expect("settled")
        .pass
        .expect("a pass");
    let ask = |pass: &str, key: &OpeningKey| LicenseRequest {
        pass: pass.to_owned(),
        seal_key: key.seal_key(),
    };
    let refused = |called: Called<LicenseAnswer>| code(called);
    assert_eq!(
        refused(carl.post("/v1/licenses", &ask(&pass, &carl.opening)).await),
        ProblemCode::Forbidden
    );
    assert_eq!(
        refused(ben.post("/v1/licenses", &ask(&pass, &carl.opening)).await),
        ProblemCode::Conflict
    );
    let claims: Pass = mantel_protocol::token::peek_unverified(&pass).expect("claims");
    let own = sign(&ben.key, &claims);
    assert_eq!(
        refused(ben.post("/v1/licenses", &ask(&own, &ben.opening)).await),
        ProblemCode::BadToken,
        "self-made"
    );
    let unknown = Pass {
        id: mantel_protocol::ids::PassId::generate(),
        ..claims
    };
    let unknown = sign(lab.core().server.signing_key(), &unknown);
    assert_eq!(
        refused(ben.post("/v1/licenses", &ask(&unknown, &ben.opening)).await),
        ProblemCode::BadToken
    );
    lab.core()
        .suspend(ben.customer, "unpaid")
        .await
        .expect("suspended");
    assert_eq!(
        refused(ben.post("/v1/licenses", &ask(&pass, &ben.opening)).await),
        ProblemCode::Restricted
    );
    lab.core().reopen(ben.customer).await.expect("reopened");
    lab.core()
        .withdraw_title(made.title)
        .await
        .expect("withdrawn");
    let answer: Called<LicenseAnswer> = ben.post("/v1/licenses", &ask(&pass, &ben.opening)).await;
    assert!(answer.is_ok(), "what was paid for stays good");
    lab.running.stop().await;
}

#[tokio::test]
async fn offers_that_could_not_be_delivered_or_opened_are_refused() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 0).await);
    let made = anna.make("Film", 1);
    let offer = |change: &dyn Fn(&mut mantel_protocol::api::PublishRequest)| {
        let mut request = anna.catalog_offer(&made, 100);
        change(&mut request);
        request
    };
    let catalog =
        |request: &mut mantel_protocol::api::PublishRequest, price: i64, poster: Option<String>| {
            if let Offer::Catalog {
                price: p,
                poster: q,
                ..
            } = &mut request.offer
            {
                (*p, *q) = (eur(price), poster);
            }
        };
    let wrong_vault = OpeningKey::generate();
    let other = anna.make("Other", 1);
    let cases = [
        offer(&|it| it.title = other.title),
        offer(&|it| it.blobs = other.blobs.clone()),
        offer(&|it| it.blobs = vec![]),
        offer(&|it| catalog(it, -1, None)),
        offer(&|it| catalog(it, i64::MAX, None)),
        offer(&|it| catalog(it, 1, Some("not base64".into()))),
        offer(&|it| catalog(it, 1, Some("AAAA".into()))),
        offer(&|it| {
            if let Offer::Catalog { keys, .. } = &mut it.offer {
                let context = vault_context(made.title);
                *keys = envelope::seal(&wrong_vault.seal_key(), &context, &made.keys.to_bytes())
                    .expect("a key");
            }
        }),
        offer(&|it| {
            if let Offer::Catalog { keys, .. } = &mut it.offer {
                let context = vault_context(made.title);
                *keys = envelope::seal(&anna.card.vault_key, &context, &other.keys.to_bytes())
                    .expect("a key");
            }
        }),
    ];
    for (number, request) in cases.iter().enumerate() {
        assert_eq!(
            code(anna.post::<TitleEntry>("/v1/titles", request).await),
            ProblemCode::BadRequest,
            "case {number}"
        );
    }
    let stolen = anna.catalog_offer(&made, 1);
    assert_eq!(
        code(ben.post::<TitleEntry>("/v1/titles", &stolen).await),
        ProblemCode::BadRequest,
        "Anna's signature"
    );
    let _: TitleEntry = anna
        .post("/v1/titles", &offer(&|_| {}))
        .await
        .expect("offered");
    let squat = ben.make("Squat", 1);
    let mut taken = Gateway::private_offer(&squat, &[&anna]);
    taken.title = made.title;
    assert_eq!(
        code(ben.post::<TitleEntry>("/v1/titles", &taken).await),
        ProblemCode::Forbidden
    );
    assert_eq!(
        code(
            ben.delete::<()>(&format!("/v1/titles/{}", made.title))
                .await
        ),
        ProblemCode::NotFound
    );
    let () = anna
        .delete(&format!("/v1/titles/{}", made.title))
        .await
        .expect("withdrawn");
    assert_eq!(code(ben.order(&made, 100).await), ProblemCode::NotFound);
    let mut push = ben.order_request(&made, 0);
    push.initiative = Initiative::Push;
    assert_eq!(
        code(ben.post::<OrderEntry>("/v1/orders", &push).await),
        ProblemCode::NotFound
    );
    let quota = Rule::Quota {
        side: Side::Sender,
        bytes: 1,
        period_h: 0,
    };
    assert!(
        lab.core().add_restriction(None, quota, "").await.is_err(),
        "a period of nothing"
    );
    lab.running.stop().await;
}

#[tokio::test]
async fn what_the_operator_withdrew_the_publisher_cannot_offer_again() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 100).await);
    let made = anna.offer("Film", 100).await;
    lab.core()
        .withdraw_title(made.title)
        .await
        .expect("withdrawn");
    let again = anna
        .post::<TitleEntry>("/v1/titles", &anna.catalog_offer(&made, 100))
        .await;
    assert_eq!(code(again), ProblemCode::Forbidden);
    assert_eq!(code(ben.order(&made, 100).await), ProblemCode::NotFound);
    lab.core()
        .titles
        .reoffer(made.title)
        .await
        .expect("offered again");
    let () = anna
        .delete(&format!("/v1/titles/{}", made.title))
        .await
        .expect("withdrawn by itself");
    let own = anna
        .post::<TitleEntry>("/v1/titles", &anna.catalog_offer(&made, 100))
        .await;
    assert!(own.is_ok() && ben.order(&made, 100).await.is_ok());
    lab.running.stop().await;
}
