//! Hostile requests: whatever comes, the answer is a problem, never a fault of the server.

use crate::lab::{Gateway, Lab};
use mantel_protocol::api::MAX_BODY_BYTES;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,40}".prop_map(Value::from),
        Just(json!("v4.public.AAAAAAAA")),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::hash_map("[a-z_]{1,12}", inner, 0..6).prop_map(Value::from_iter),
        ]
    })
}

/// Puts a hostile value somewhere into a good request.
fn spoilt(good: &Value, at: usize, hostile: Value) -> Value {
    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Object(map) => map.values().map(count).sum(),
            Value::Array(list) => list.iter().map(count).sum(),
            _ => 0,
        }
    }
    fn place(value: &mut Value, at: &mut usize, hostile: &mut Option<Value>) {
        if *at == 0 {
            if let Some(hostile) = hostile.take() {
                *value = hostile;
            }
            return;
        }
        *at -= 1;
        let children: Vec<&mut Value> = match value {
            Value::Object(map) => map.values_mut().collect(),
            Value::Array(list) => list.iter_mut().collect(),
            _ => return,
        };
        for child in children {
            place(child, at, hostile);
            if hostile.is_none() {
                return;
            }
        }
    }
    let mut value = good.clone();
    let mut at = at % count(good);
    place(&mut value, &mut at, &mut Some(hostile));
    value
}

async fn send(gateway: &Gateway, path: &str, body: Vec<u8>) -> u16 {
    let method = if path == "/v1/presence" {
        reqwest::Method::PUT
    } else {
        reqwest::Method::POST
    };
    let request = gateway
        .client
        .request(method, format!("{}{path}", gateway.base))
        .bearer_auth(gateway.login());
    let response = request
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .expect("answered");
    response.status().as_u16()
}

#[tokio::test]
async fn no_json_makes_the_server_fail() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 1_000_000).await);
    let made = anna.offer("Film", 1).await;
    let order = ben.order(&made, 1).await.expect("ordered");
    let grant = json!({ "blob": made.blobs[0].blob, "chunks": [{ "start": 0, "count": 1 }] });
    let receipt = mantel_protocol::token::sign(&ben.key, &ben.receipt(&order, made.blobs[0], &[]));
    let delivery = format!("/v1/deliveries/{}", order.delivery);
    let to_value = |value: &dyn erased::Json| value.json();
    let requests: Vec<(&Gateway, String, Value)> = vec![
        (
            &anna,
            "/v1/titles".into(),
            to_value(&anna.catalog_offer(&anna.make("New", 1), 5)),
        ),
        (
            &anna,
            "/v1/titles".into(),
            to_value(&Gateway::private_offer(&anna.make("Mine", 1), &[&ben])),
        ),
        (
            &ben,
            "/v1/orders".into(),
            to_value(&ben.order_request(&made, 5)),
        ),
        (
            &ben,
            "/v1/enrol".into(),
            to_value(&ben.enrolment("00000000")),
        ),
        (
            &ben,
            "/v1/presence".into(),
            json!({ "addresses": ["1.2.3.4:5"], "free_bytes": 1, "version": "1" }),
        ),
        (&ben, format!("{delivery}/grant"), grant),
        (
            &ben,
            format!("{delivery}/problem"),
            json!({ "detail": "slow", "fatal": false }),
        ),
        (
            &ben,
            "/v1/receipts".into(),
            json!({ "receipts": [receipt] }),
        ),
        (
            &ben,
            "/v1/licenses".into(),
            json!({ "pass": "v4.public.AAAA", "seal_key": ben.opening.seal_key() }),
        ),
    ];
    let mut runner = TestRunner::default();
    let hostile = (json_value(), any::<usize>(), any::<bool>());
    for round in 0..60 {
        for (gateway, path, good) in &requests {
            let (value, at, whole) = hostile.new_tree(&mut runner).expect("a value").current();
            let body = if whole {
                value
            } else {
                spoilt(good, at, value)
            };
            let status = send(gateway, path, body.to_string().into_bytes()).await;
            assert!(status < 500, "round {round} {path} {status}: {body}");
        }
    }
    assert!(lab.core().ledger.balanced().await.expect("read"));
    lab.running.stop().await;
}

/// Any request as JSON.
mod erased {
    pub trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).expect("plain data")
        }
    }
}

#[tokio::test]
async fn oversized_broken_and_misplaced_requests_are_problems() {
    let lab = Lab::start().await;
    let ben = lab.home("Ben", 0).await;
    assert_eq!(
        send(&ben, "/v1/orders", vec![b' '; MAX_BODY_BYTES + 1]).await,
        413
    );
    assert_eq!(send(&ben, "/v1/orders", b"{".to_vec()).await, 400);
    assert_eq!(
        send(&ben, "/v1/orders", "[".repeat(100_000).into_bytes()).await,
        422
    );
    assert_eq!(send(&ben, "/v1/orders", vec![0xff; 100]).await, 400);
    assert_eq!(
        send(&ben, "/v1/deliveries/nonsense/grant", b"{}".to_vec()).await,
        400
    );
    assert_eq!(send(&ben, "/v1/nothing", b"{}".to_vec()).await, 404);
    assert_eq!(send(&ben, "/v1/homes", b"{}".to_vec()).await, 405);
    let health = ben
        .client
        .get(format!("{}/healthz", ben.base))
        .send()
        .await
        .expect("answered");
    assert_eq!(health.status().as_u16(), 200);
    let text = ben
        .client
        .get(format!("{}/openapi.json", ben.base))
        .send()
        .await
        .expect("answered")
        .text()
        .await;
    let description: Value = serde_json::from_str(&text.expect("whole")).expect("JSON");
    assert!(description["components"]["schemas"]["OrderEntry"].is_object());
    lab.running.stop().await;
}
