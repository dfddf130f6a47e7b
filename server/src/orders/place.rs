//! Making an order: who asks, who receives, who pays, at what price, and whether the restrictions allow it. All in one
//! transaction with the hold.

use super::decide;
use super::steps::{Question, Scene, Work};
use super::store::{self, Order};
use crate::catalog::{self, Title, TitleMode, TitleState};
use crate::customers::{self, Caller, Home};
use crate::error::{Result, bad, clean, conflict, forbidden, missing, refused};
use mantel_protocol::api::{OrderRequest, OrderState, ProblemCode};
use mantel_protocol::ids::{DeliveryId, OrderId};
use mantel_protocol::money::Money;
use mantel_protocol::restriction::{Denial, Initiative};

/// The longest idempotency key, characters.
pub const MAX_KEY_CHARS: usize = 64;
/// The most active orders of one receiving home.
pub const MAX_ACTIVE_PER_HOME: u64 = 1_000;

/// A denial as the wire says it.
pub fn denied(denial: &Denial) -> crate::error::CoreError {
    refused(
        ProblemCode::Restricted,
        denial.to_string(),
        "nothing was charged or sent",
    )
}

/// Places an order, or returns the one that the same request made before.
pub fn place(scene: &mut Scene<'_>, caller: &Caller, request: &OrderRequest) -> Result<OrderId> {
    let key = clean(
        &request.idempotency_key,
        MAX_KEY_CHARS,
        "the idempotency key",
    )?;
    let hash = blake3::hash(crate::db::to_json(request).as_bytes())
        .to_hex()
        .to_string();
    if let Some((order, before)) = store::of_key(scene.tx, caller.home, &key)? {
        if before == hash {
            return Ok(order);
        }
        return Err(conflict(
            "this idempotency key was used for another order",
            "nothing was changed; use a new key",
        ));
    }
    let title = catalog::store::find(scene.tx, request.title)?
        .filter(|title| title.state == TitleState::Offered)
        .ok_or_else(|| missing("title on offer"))?;
    let order = draft(scene, caller, request, &title)?;
    let question = Question {
        order: None,
        ..Question::of_order(&order)
    };
    question
        .judge(scene.tx, scene.now)?
        .map_err(|denial| denied(&denial))?;
    check_price(scene, request, order.price_minor)?;
    store::insert(scene.tx, &order, &key, &hash)?;
    scene.perform(&order, &decide::place(order.price_minor != 0), &Work::None)?;
    Ok(order.id)
}

fn draft(
    scene: &Scene<'_>,
    caller: &Caller,
    request: &OrderRequest,
    title: &Title,
) -> Result<Order> {
    let find = |id| customers::store::by_id(scene.tx, id)?.ok_or_else(|| missing("home"));
    let (sender, receiver, payer): (Home, Home, Home) = (
        find(title.publisher)?,
        find(request.receiver)?,
        find(request.payment.payer)?,
    );
    check_parties(scene, caller, request, title, [&sender, &receiver, &payer])?;
    if request
        .payment
        .limits
        .max_bytes
        .is_some_and(|most| title.total_bytes > most)
    {
        let detail = format!(
            "the title has {} bytes, more than the order allows",
            title.total_bytes
        );
        return Err(conflict(
            detail,
            "nothing was ordered; allow more, or free some space",
        ));
    }
    if store::active_of(scene.tx, title.id, receiver.home)?.is_some() {
        let next = "nothing was ordered twice; wait for it, or cancel it first";
        return Err(conflict(
            "this title is on its way to this home already",
            next,
        ));
    }
    if store::active_count(scene.tx, receiver.home)? >= MAX_ACTIVE_PER_HOME {
        let detail = format!("{MAX_ACTIVE_PER_HOME} orders are on their way to this home already");
        return Err(refused(
            ProblemCode::TooMany,
            detail,
            "wait until some have arrived",
        ));
    }
    // Nobody pays himself: a publisher's gift, or a title for another home of the same customer.
    let free = title.mode == TitleMode::Private || payer.customer == sender.customer;
    Ok(Order {
        id: OrderId::generate(),
        delivery: DeliveryId::generate(),
        initiator: caller.home,
        title: title.id,
        mode: title.mode,
        kind: title.kind,
        title_name: if title.mode == TitleMode::Catalog {
            title.name.clone()
        } else {
            None
        },
        sender: sender.home,
        // The gateway that enrolled for the home now; it serves what the home published.
        sender_device: sender.device,
        receiver: receiver.home,
        receiver_device: receiver.device,
        payer: payer.home,
        payer_customer: payer.customer,
        publisher_customer: sender.customer,
        initiative: request.initiative,
        price_minor: if free { 0 } else { title.price_minor },
        terms: title.terms,
        path_limit: request.payment.limits.path,
        state: OrderState::Held,
        problem: None,
        total_bytes: title.total_bytes,
        done_bytes: 0,
        grants_issued: 0,
        created: scene.now,
        updated: scene.now,
        blobs: title.blobs.clone(),
    })
}

fn check_parties(
    scene: &Scene<'_>,
    caller: &Caller,
    request: &OrderRequest,
    title: &Title,
    [sender, receiver, payer]: [&Home; 3],
) -> Result<()> {
    if sender.home == receiver.home {
        return Err(bad("a home does not order its own title"));
    }
    if request.payment.device != receiver.device || request.payment.seal_key != receiver.seal_key {
        let next = "look at the list of homes again; the gateway may have been replaced";
        return Err(conflict(
            "the payment information names another device or key than the receiving home's",
            next,
        ));
    }
    if payer.customer != caller.customer {
        return Err(forbidden(
            "only the customer who pays may order at this home's expense",
        ));
    }
    if !payer.active {
        return Err(refused(
            ProblemCode::Restricted,
            "the paying account is suspended; its owner can ask the operator to reopen it",
            "nothing was charged or ordered",
        ));
    }
    if request.initiative == Initiative::Push && caller.home != sender.home {
        return Err(forbidden("only the home that offers a title may push it"));
    }
    if title.mode == TitleMode::Private {
        let shared = catalog::store::envelope(scene.tx, title.id, receiver.home)?.is_some();
        if !shared {
            // The title is not known to exist, except to its publisher.
            return Err(if caller.home == sender.home {
                conflict(
                    "this title is not shared with that home",
                    "share it with the home first, then push it",
                )
            } else {
                missing("title on offer")
            });
        }
        if caller.home != sender.home && caller.home != receiver.home {
            return Err(missing("title on offer"));
        }
    }
    Ok(())
}

fn check_price(scene: &Scene<'_>, request: &OrderRequest, minor: i64) -> Result<()> {
    let (price, most) = (
        Money::new(minor, scene.desk.currency),
        request.payment.max_price,
    );
    if most.minor < 0 {
        return Err(bad("the highest price is below nothing"));
    }
    if most.currency != price.currency {
        return Err(bad(format!(
            "prices at this server are in {}",
            price.currency
        )));
    }
    if price.minor > most.minor {
        return Err(refused(
            ProblemCode::PriceChanged,
            format!("the price is now {price}, and the order allows at most {most}"),
            "nothing was charged or ordered; look at the title again and agree to its price",
        ));
    }
    Ok(())
}
