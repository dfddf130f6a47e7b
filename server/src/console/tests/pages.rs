//! Every page's forms do what they say (F14, F17, F25, F33, F67).

use super::*;

#[tokio::test]
async fn a_customer_is_created_credited_suspended_and_reopened() {
    let rig = Rig::start().await;
    let created = rig
        .post(
            "/console/customers",
            &[("name", " Family Meyer "), ("contact", "m@example.org")],
        )
        .await;
    let id = rig.core.customers.list().await.expect("listed")[0].id;
    created.leads_to(&format!("/console/customers/{id}?notice=created"));
    let page = format!("/console/customers/{id}");
    rig.get(&format!("{page}?notice=created"))
        .await
        .shows(&["Family Meyer", "The customer was created."]);
    let named = rig.post("/console/customers", &[("name", "  ")]).await;
    assert_eq!(named.status, 400);
    assert!(named.text.contains("That was not done"), "{}", named.text);
    rig.post(
        &format!("{page}/edit"),
        &[("name", "Meyer"), ("contact", "")],
    )
    .await
    .leads_to(&format!("{page}?notice=saved"));
    let credit = |amount, key| {
        let fields = [
            ("amount", amount),
            ("note", "Transfer of 12 May"),
            ("key", key),
        ];
        let path = format!("{page}/credit");
        let rig = &rig;
        async move { rig.post(&path, &fields).await }
    };
    credit("20,50", "one")
        .await
        .leads_to(&format!("{page}?notice=credited"));
    credit("20,50", "one")
        .await
        .leads_to(&format!("{page}?notice=credited"));
    for amount in ["", "-5", "1.234", "abc", "0"] {
        assert_eq!(credit(amount, "two").await.status, 400, "{amount}");
    }
    rig.get(&page).await.shows(&[
        "20.50 EUR",
        "+20.50 EUR",
        "Transfer of 12 May",
        "name=\"key\"",
    ]);
    rig.post(&format!("{page}/suspend"), &[("note", "unpaid")])
        .await
        .leads_to(&format!("{page}?notice=suspended"));
    rig.get(&page)
        .await
        .shows(&["This account is suspended: unpaid", "Reopen account"]);
    rig.get("/console/customers")
        .await
        .shows(&["Suspended", "unpaid"]);
    rig.post(&format!("{page}/reopen"), &[])
        .await
        .leads_to(&format!("{page}?notice=reopened"));
    assert!(
        rig.core
            .customers
            .find(id)
            .await
            .expect("found")
            .expect("a customer")
            .standing
            == Standing::Active
    );
    rig.get(&format!("/console/ledger?customer={id}"))
        .await
        .shows(&["Balanced", "of Meyer", "+20.50 EUR"]);
    for path in ["/console/customers/cust_0", "/console/customers/x%00y"] {
        assert_eq!(rig.get(path).await.status, 404, "{path}");
    }
    let unknown = format!("/console/customers/{}", CustomerId::generate());
    assert_eq!(rig.get(&unknown).await.status, 404);
    assert_eq!(
        rig.post(
            &format!("{unknown}/credit"),
            &[("amount", "1"), ("key", "k")]
        )
        .await
        .status,
        404
    );
}

#[tokio::test]
async fn a_claim_code_is_shown_as_link_and_qr_code_and_can_be_revoked() {
    let rig = Rig::start().await;
    let customer = rig.customer("Meyer").await;
    let made = rig
        .post(&format!("/console/customers/{customer}/codes"), &[])
        .await;
    assert_eq!(made.status, 303);
    let page = made.header("location").to_owned();
    let code = rig.core.homes.open_codes(customer).await.expect("listed")[0]
        .code
        .clone();
    assert_eq!(page, format!("/console/customers/{customer}/codes/{code}"));
    let link = format!(
        "https://{}/claim/{code}#{}",
        rig.host,
        rig.core.server.pin_text()
    );
    rig.get(&page)
        .await
        .shows(&[&link, "<svg xmlns", "Works once, until"]);
    rig.get(&format!("/console/customers/{customer}"))
        .await
        .shows(&[&code, "Open claim code"]);
    // What the household sees when it opens the link; without a log-in.
    let mut visitor = rig;
    visitor.cookie = None;
    visitor.get(&format!("/claim/{code}")).await.shows(&[
        &link,
        "http://mantel.local:8080",
        "<svg xmlns",
    ]);
    visitor
        .get("/claim/ZZZZ9999")
        .await
        .shows(&["Connect your gateway"]);
    for bad in [
        "/claim/%3Cscript%3E",
        "/claim/AAAAAAAAAAAAAAAAA",
        "/claim/a.b",
    ] {
        assert_eq!(visitor.get(bad).await.status, 404, "{bad}");
    }
    visitor
        .post(&format!("{page}/revoke"), &[])
        .await
        .leads_to("/console/login");
    let entered = visitor
        .post("/console/login", &[("password", PASSWORD)])
        .await;
    visitor.take_cookie(&entered);
    let back = format!("/console/customers/{customer}?notice=revoked");
    visitor
        .post(&format!("{page}/revoke"), &[])
        .await
        .leads_to(&back);
    assert_eq!(visitor.get(&page).await.status, 404);
    assert!(
        visitor
            .core
            .homes
            .open_codes(customer)
            .await
            .expect("listed")
            .is_empty()
    );
}

#[tokio::test]
async fn a_home_is_found_renamed_and_removed() {
    let rig = Rig::start().await;
    let customer = rig.customer("Meyer").await;
    let (home, key) = rig.home(customer, "Meyers").await;
    let page = format!("/console/homes/{}", home.home);
    rig.get("/console/homes")
        .await
        .shows(&["Meyers", "Offline", "never yet"]);
    rig.core.directory.online(key.device_id());
    rig.get(&page).await.shows(&[
        "Online",
        &key.device_id().to_string(),
        "SN-1",
        "02:00:00:00:00:01",
    ]);
    rig.get("/console/homes?q=02:00:00:00:00:01")
        .await
        .shows(&["Meyers"]);
    rig.get("/console/homes?q=nobody")
        .await
        .shows(&["No home fits “nobody”"]);
    rig.post(&format!("{page}/rename"), &[("name", "First floor")])
        .await
        .leads_to(&format!("{page}?notice=saved"));
    rig.get(&format!("/console/customers/{customer}"))
        .await
        .shows(&["First floor"]);
    rig.post(&format!("{page}/remove"), &[])
        .await
        .leads_to("/console/homes?notice=removed");
    assert_eq!(
        rig.core
            .homes
            .device_home(key.device_id())
            .await
            .expect("asked"),
        None
    );
    assert_eq!(rig.post("/console/homes/x/remove", &[]).await.status, 404);
}

#[tokio::test]
async fn titles_get_prices_terms_and_an_end() {
    let rig = Rig::start().await;
    let (home, key) = rig.home(rig.customer("Meyer").await, "Meyers").await;
    let jpeg = vec![0xff, 0xd8, 0xff, 0xe0, 0, 0xff, 0xd9];
    let title = rig
        .title(&home, &key, "Lantern walk", 250, Some(jpeg.clone()))
        .await;
    let page = format!("/console/titles/{title}");
    rig.get("/console/titles").await.shows(&[
        "Lantern walk",
        "2.50 EUR",
        "In the catalog",
        "to keep",
    ]);
    let poster = rig
        .send(rig.http.get(format!("http://{}{page}/poster", rig.host)))
        .await;
    assert_eq!(
        (poster.status, poster.header("content-type")),
        (200, "image/jpeg")
    );
    rig.post(&format!("{page}/price"), &[("amount", "3,99")])
        .await
        .leads_to(&format!("{page}?notice=price"));
    assert_eq!(
        rig.post(&format!("{page}/price"), &[("amount", "3.999")])
            .await
            .status,
        400
    );
    let terms = [("start_days", "30"), ("window_hours", "48"), ("plays", "")];
    rig.post(&format!("{page}/terms"), &terms)
        .await
        .leads_to(&format!("{page}?notice=terms"));
    rig.get(&page).await.shows(&[
        "3.99 EUR",
        "start within 30 days, watch for 48 h",
        "value=\"3.99\"",
        "value=\"48\"",
    ]);
    let row = rig
        .core
        .titles
        .find(title)
        .await
        .expect("found")
        .expect("a title");
    let wanted = Terms {
        start_within_s: Some(30 * 86_400),
        viewing_window_s: Some(48 * 3_600),
        plays: None,
    };
    assert_eq!(
        (row.price, row.terms),
        (Some(Money::new(399, Currency::EUR)), Some(wanted))
    );
    for bad in [
        ("start_days", "0"),
        ("start_days", "99999"),
        ("plays", "-1"),
        ("window_hours", "many"),
    ] {
        assert_eq!(
            rig.post(&format!("{page}/terms"), &[bad]).await.status,
            400,
            "{bad:?}"
        );
    }
    rig.post(&format!("{page}/withdraw"), &[])
        .await
        .leads_to(&format!("{page}?notice=withdrawn"));
    rig.get(&page).await.shows(&["Withdrawn", "Offer it again"]);
    rig.post(&format!("{page}/reoffer"), &[])
        .await
        .leads_to(&format!("{page}?notice=reoffered"));
    let plain = rig.title(&home, &key, "No poster", 0, None).await;
    assert_eq!(
        rig.get(&format!("/console/titles/{plain}/poster"))
            .await
            .status,
        404
    );
    rig.get(&format!("/console/titles/{plain}"))
        .await
        .shows(&["free"]);
}

#[tokio::test]
async fn each_kind_of_restriction_has_its_form() {
    let rig = Rig::start().await;
    let (first, _) = rig.home(rig.customer("Meyer").await, "Meyers").await;
    let (second, _) = rig.home(rig.customer("Schulz").await, "Schulzes").await;
    let (bound, peer) = (first.home.to_string(), second.home.to_string());
    let base = "/console/restrictions";
    let add = async |kind: &str, fields: &[(&str, &str)]| {
        rig.post(&format!("{base}/{kind}"), fields).await
    };
    let block = [
        ("home", bound.as_str()),
        ("peers", &peer),
        ("initiative", "push"),
        ("side", "receiver"),
        ("note", "quarrel"),
    ];
    let allow = [
        ("home", ""),
        ("peers", bound.as_str()),
        ("peers", &peer),
        ("initiative", ""),
        ("side", ""),
    ];
    let kinds = [
        ("home", bound.as_str()),
        ("kinds", "video"),
        ("kinds", "image"),
    ];
    let size = [("home", ""), ("amount", "20"), ("unit", "gb")];
    let quota = [
        ("home", bound.as_str()),
        ("side", "sender"),
        ("amount", "500"),
        ("unit", "mb"),
        ("period_h", "24"),
    ];
    for (kind, fields) in [
        ("block", &block[..]),
        ("allow", &allow[..]),
        ("kinds", &kinds[..]),
        ("size", &size[..]),
        ("quota", &quota[..]),
    ] {
        add(kind, fields)
            .await
            .leads_to("/console/restrictions?notice=restricted");
    }
    let rows = rig.core.restrictions.list().await.expect("listed");
    let has = |home, rule: Rule| {
        rows.iter()
            .any(|row| row.restriction.home == home && row.restriction.rule == rule)
    };
    let (initiative, side) = (Some(Initiative::Push), Some(Side::Receiver));
    assert!(has(
        Some(first.home),
        Rule::Block {
            peers: vec![second.home],
            initiative,
            side
        }
    ));
    let peers = vec![first.home, second.home];
    assert!(has(
        None,
        Rule::AllowOnly {
            peers,
            initiative: None,
            side: None
        }
    ));
    assert!(has(
        Some(first.home),
        Rule::Kinds {
            allowed: vec![MediaKind::Video, MediaKind::Image]
        }
    ));
    assert!(has(
        None,
        Rule::MaxTitleBytes {
            bytes: 20_000_000_000
        }
    ));
    assert!(has(
        Some(first.home),
        Rule::Quota {
            side: Side::Sender,
            bytes: 500_000_000,
            period_h: 24
        }
    ));
    rig.get(base)
        .await
        .shows(&["Meyers", "Every home", "quarrel"]);
    for (kind, fields) in [
        ("block", &[("home", "home_x")][..]),
        ("block", &[("peers", "x")]),
        ("block", &[("initiative", "both")]),
        ("allow", &[("home", "")]),
        ("kinds", &[("kinds", "smell")]),
        ("kinds", &[]),
        ("size", &[("amount", "0"), ("unit", "gb")]),
        ("size", &[("amount", "5"), ("unit", "kb")]),
        ("size", &[("amount", "99999999999"), ("unit", "gb")]),
        (
            "quota",
            &[
                ("side", ""),
                ("amount", "5"),
                ("unit", "gb"),
                ("period_h", "24"),
            ],
        ),
        (
            "quota",
            &[
                ("side", "sender"),
                ("amount", "5"),
                ("unit", "gb"),
                ("period_h", "0"),
            ],
        ),
    ] {
        assert_eq!(add(kind, fields).await.status, 400, "{kind} {fields:?}");
    }
    for row in rows {
        let path = format!("{base}/{}/remove", row.restriction.id);
        rig.post(&path, &[])
            .await
            .leads_to("/console/restrictions?notice=unrestricted");
    }
    rig.get(base).await.shows(&["No restrictions"]);
}

#[tokio::test]
async fn a_delivery_is_seen_live_and_cancelled() {
    let rig = Rig::start().await;
    let (sender, key) = rig.home(rig.customer("Meyer").await, "Meyers").await;
    let buyer = rig.customer("Schulz").await;
    let (receiver, _) = rig.home(buyer, "Schulzes").await;
    rig.core
        .ledger
        .credit(buyer, Money::new(1_000, Currency::EUR), "cash", "k")
        .await
        .expect("credited");
    let title = rig.title(&sender, &key, "Lantern walk", 250, None).await;
    let events = rig
        .http
        .get(format!("http://{}/console/deliveries/events", rig.host));
    let mut stream = events
        .header("cookie", rig.cookie.clone().expect("logged in"))
        .send()
        .await
        .expect("a stream");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let order = rig.order(&receiver, title).await;
    let mut seen = String::new();
    while !seen.contains(&order.to_string()) {
        let chunk = tokio::time::timeout(DEADLINE, stream.chunk())
            .await
            .expect("in time")
            .expect("unbroken");
        seen.push_str(std::str::from_utf8(&chunk.expect("goes on")).expect("text"));
    }
    assert!(
        seen.contains("event: deliveries") && seen.contains("Lantern walk"),
        "{seen}"
    );
    rig.get("/console")
        .await
        .shows(&["Lantern walk", "Meyers → Schulzes", "2.50 EUR", "7.50 EUR"]);
    rig.get("/console/deliveries")
        .await
        .shows(&["Lantern walk", "Waiting"]);
    let page = format!("/console/deliveries/{order}");
    rig.get(&page).await.shows(&[
        "Meyers",
        "Schulzes",
        "2.50 EUR",
        "Hold",
        "Cancel this delivery",
    ]);
    let cancelled = rig
        .post(&format!("{page}/cancel"), &[("why", "by telephone")])
        .await;
    cancelled.leads_to(&format!("{page}?notice=cancelled"));
    let shown = rig.get(&page).await;
    shown.shows(&["Cancelled", "Release"]);
    assert!(!shown.text.contains("Cancel this delivery"));
    // Sent twice, it is cancelled once.
    rig.post(&format!("{page}/cancel"), &[])
        .await
        .leads_to(&format!("{page}?notice=cancelled"));
    let row = &rig
        .core
        .orders
        .list_all(OrderFilter::All, 10)
        .await
        .expect("listed")[0];
    assert_eq!(row.state, OrderState::Cancelled);
    rig.get("/console/deliveries?show=all")
        .await
        .shows(&["Cancelled"]);
    rig.get("/console/ledger")
        .await
        .shows(&["Balanced", "Hold", "Release", "10.00 EUR"]);
    // A stop of the server ends the live page instead of waiting for it.
    rig.tasks.shut_down(DEADLINE).await;
    while let Ok(Some(_)) = tokio::time::timeout(DEADLINE, stream.chunk())
        .await
        .expect("in time")
    {}
}
