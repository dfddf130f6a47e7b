//! A restart in each state of an order: what was acknowledged is there, and it goes on.

use crate::lab::{Gateway, Lab};
use mantel_protocol::api::{LicenseAnswer, LicenseRequest, OrderEntry, OrderState, ServerCard};
use mantel_protocol::token::sign;

async fn restarted(lab: Lab, gateways: &mut [&mut Gateway]) -> Lab {
    let lab = lab.restart().await;
    for gateway in gateways {
        gateway.moved(&lab);
    }
    lab
}

#[tokio::test]
async fn an_order_survives_a_restart_in_every_state() {
    let lab = Lab::start().await;
    let (mut anna, mut ben) = (lab.home("Anna", 0).await, lab.home("Ben", 1_000).await);
    let made = anna.offer("Film", 400).await;
    let pin = lab.core().server.pin();

    let order = ben.order(&made, 400).await.expect("ordered");
    let lab = restarted(lab, &mut [&mut anna, &mut ben]).await;
    assert_eq!(lab.core().server.pin(), pin, "the same certificate key");
    let card: ServerCard = ben.get("/v1/server").await.expect("answered");
    assert_eq!(
        (card.key, card.vault_key),
        (ben.card.key, ben.card.vault_key)
    );
    assert_eq!(lab.funds(&ben).await, (600, 400), "held");
    assert_eq!(
        ben.get::<Vec<OrderEntry>>("/v1/orders")
            .await
            .expect("listed"),
        std::slice::from_ref(&order)
    );

    let (_, grant) = ben.grant(&order, made.blobs[0]).await;
    let lab = restarted(lab, &mut [&mut anna, &mut ben]).await;
    let seen: OrderEntry = ben
        .get(&format!("/v1/orders/{}", order.order))
        .await
        .expect("read");
    assert_eq!(seen.state, OrderState::Delivering);
    let receipt = sign(&ben.key, &ben.receipt(&order, made.blobs[0], &[&grant]));
    let settled = ben
        .hand_in(vec![receipt.clone()])
        .await
        .expect("an older grant still counts");

    let lab = restarted(lab, &mut [&mut anna, &mut ben]).await;
    let repeated = ben
        .hand_in(vec![receipt])
        .await
        .expect("the same answer after a lost reply");
    assert_eq!(repeated, settled);
    assert_eq!(
        (lab.funds(&ben).await, lab.funds(&anna).await),
        ((600, 0), (400, 0)),
        "captured once"
    );
    let pass = settled.pass.expect("a pass");
    let ask = LicenseRequest {
        pass,
        seal_key: ben.opening.seal_key(),
    };
    let first: LicenseAnswer = ben.post("/v1/licenses", &ask).await.expect("licensed");

    let order = ben.order(&made, 400).await.expect("once more");
    let _: OrderEntry = ben
        .delete(&format!("/v1/orders/{}", order.order))
        .await
        .expect("cancelled");
    let lab = restarted(lab, &mut [&mut anna, &mut ben]).await;
    let again: LicenseAnswer = ben.post("/v1/licenses", &ask).await.expect("licensed");
    assert_eq!(first.license, again.license);
    let seen: OrderEntry = ben
        .get(&format!("/v1/orders/{}", order.order))
        .await
        .expect("read");
    assert_eq!(seen.state, OrderState::Cancelled);
    assert_eq!(lab.funds(&ben).await, (600, 0));
    lab.assert_balanced().await;
    lab.running.stop().await;
}
