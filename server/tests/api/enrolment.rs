//! Claim codes (F33), signed time, and the operator's log-in.

use crate::lab::{Lab, code};
use mantel_protocol::api::{Enrolled, ProblemCode, TimeAnswer};
use mantel_protocol::key::SigningKey;
use mantel_protocol::token::{DeviceLogin, ServerTime, verify};
use mantel_server::customers::ENROLMENTS_PER_MINUTE;
use std::net::IpAddr;
use std::time::Duration;

#[tokio::test]
async fn a_claim_code_works_once_and_for_a_week() {
    let lab = Lab::start().await;
    let customer = lab.customer("Anna", 0).await;
    let issued = lab.core().homes.claim_code(customer).await.expect("a code");
    let gateway = lab.stranger(customer, "Home of Anna").await;
    let request = gateway.enrolment(&issued.code.to_lowercase());
    let first: Enrolled = gateway.post("/v1/enrol", &request).await.expect("enrolled");
    let again: Enrolled = gateway
        .post("/v1/enrol", &request)
        .await
        .expect("a lost reply costs nothing");
    assert_eq!(
        (first.home, &first.customer_name),
        (again.home, &"Anna".to_owned())
    );
    assert!(
        lab.core()
            .homes
            .open_codes(customer)
            .await
            .expect("listed")
            .is_empty()
    );
    let second = lab.stranger(customer, "Thief").await;
    assert_eq!(
        code(
            second
                .post::<Enrolled>("/v1/enrol", &second.enrolment(&issued.code))
                .await
        ),
        ProblemCode::BadToken
    );

    let late = lab.core().homes.claim_code(customer).await.expect("a code");
    lab.clock.advance(Duration::from_hours(7 * 24));
    assert_eq!(
        code(
            second
                .post::<Enrolled>("/v1/enrol", &second.enrolment(&late.code))
                .await
        ),
        ProblemCode::BadToken
    );

    let fresh = lab.core().homes.claim_code(customer).await.expect("a code");
    let mut forged = second.enrolment(&fresh.code);
    forged.proof = DeviceLogin::sign(&SigningKey::generate(), second.card.key, lab.clock.now());
    assert_eq!(
        code(second.post::<Enrolled>("/v1/enrol", &forged).await),
        ProblemCode::BadToken
    );
    let other = lab.customer("Ben", 0).await;
    let foreign = lab.core().homes.claim_code(other).await.expect("a code");
    let moved = gateway.enrolment(&foreign.code);
    assert_eq!(
        code(gateway.post::<Enrolled>("/v1/enrol", &moved).await),
        ProblemCode::Conflict
    );
    let mut renamed = gateway.clone();
    renamed.name = "Anna's new name".into();
    let same: Enrolled = renamed
        .post("/v1/enrol", &renamed.enrolment(&fresh.code))
        .await
        .expect("enrolled anew");
    assert_eq!(same.home, first.home, "the same gateway keeps its home");
    lab.running.stop().await;
}

#[tokio::test]
async fn guessing_codes_is_slowed_down() {
    let lab = Lab::start().await;
    let customer = lab.customer("Anna", 0).await;
    let gateway = lab.stranger(customer, "Guess").await;
    for _ in 0..ENROLMENTS_PER_MINUTE {
        let guess = gateway.enrolment("00000000");
        assert_eq!(
            code(gateway.post::<Enrolled>("/v1/enrol", &guess).await),
            ProblemCode::BadToken
        );
    }
    let real = lab
        .core()
        .homes
        .claim_code(customer)
        .await
        .expect("a code")
        .code;
    let problem = gateway
        .post::<Enrolled>("/v1/enrol", &gateway.enrolment(&real))
        .await
        .expect_err("too many");
    assert_eq!((problem.code, problem.status), (ProblemCode::TooMany, 429));
    lab.clock.advance(Duration::from_secs(61));
    assert!(
        gateway
            .post::<Enrolled>("/v1/enrol", &gateway.enrolment(&real))
            .await
            .is_ok()
    );
    lab.running.stop().await;
}

#[tokio::test]
async fn time_is_signed_with_the_askers_word() {
    let lab = Lab::start().await;
    let gateway = lab.home("Anna", 0).await;
    let answer: TimeAnswer = gateway.get("/v1/time?nonce=abc").await.expect("answered");
    let time: ServerTime =
        verify(&gateway.card.key, &answer.token, lab.clock.now()).expect("signed");
    assert_eq!((time.now, time.nonce.as_str()), (lab.clock.now(), "abc"));
    for query in ["", "?nonce=", &format!("?nonce={}", "x".repeat(65))] {
        assert_eq!(
            code(gateway.get::<TimeAnswer>(&format!("/v1/time{query}")).await),
            ProblemCode::BadRequest
        );
    }
    lab.running.stop().await;
}

#[tokio::test]
async fn the_operator_sets_a_password_once_and_logs_in_with_it() {
    let lab = Lab::start().await;
    let here = IpAddr::from([127, 0, 0, 1]);
    let link = lab.running.setup_link.clone().expect("a first start");
    let token = link.rsplit_once('#').expect("a fragment").1.to_owned();
    let operator = lab.core().operator.clone();
    assert!(operator.needs_setup().await.expect("read"));
    assert!(operator.log_in("anything at all", here).await.is_err());
    assert!(
        operator
            .set_up("wrong", "correct horse", here)
            .await
            .is_err()
    );
    assert!(operator.set_up(&token, "short", here).await.is_err());
    let cookie = operator
        .set_up(&token, "correct horse", here)
        .await
        .expect("set");
    assert!(
        operator
            .set_up(&token, "another password", here)
            .await
            .is_err(),
        "the link works once"
    );
    assert!(operator.session(&cookie).await.expect("read").is_some());
    assert!(operator.session("guess").await.expect("read").is_none());
    assert!(operator.log_in("wrong horse!", here).await.is_err());
    let second = operator
        .log_in("correct horse", here)
        .await
        .expect("logged in");
    operator.log_out(&second).await.expect("logged out");
    assert!(operator.session(&second).await.expect("read").is_none());

    let lab = lab.restart().await;
    assert_eq!(
        lab.running.setup_link, None,
        "no link once a password is set"
    );
    assert!(!lab.core().server.setup_link_path().exists());
    let operator = lab.core().operator.clone();
    assert!(
        operator.session(&cookie).await.expect("read").is_some(),
        "sessions survive a restart"
    );
    lab.clock.advance(Duration::from_hours(11));
    assert!(
        operator.session(&cookie).await.expect("read").is_some(),
        "use moves the end on"
    );
    lab.clock.advance(Duration::from_hours(11));
    assert!(operator.session(&cookie).await.expect("read").is_some());
    lab.clock.advance(Duration::from_hours(13));
    assert!(
        operator.session(&cookie).await.expect("read").is_none(),
        "twelve hours without use"
    );
    let mut refused = None;
    for _ in 0..20 {
        refused = operator
            .log_in("guess guess", here)
            .await
            .err()
            .map(|error| error.problem().code);
    }
    assert_eq!(refused, Some(ProblemCode::TooMany));
    lab.running.stop().await;
}
