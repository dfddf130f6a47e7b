//! The door: setup, log-in, foreign forms, hostile text, what browsers may do (DESIGN §10).

use super::*;

#[tokio::test]
async fn the_first_operator_sets_his_password_with_the_one_time_token() {
    let mut rig = Rig::fresh().await;
    rig.get("/").await.leads_to("/console");
    rig.get("/console").await.leads_to("/console/setup");
    rig.get("/console/login").await.leads_to("/console/setup");
    let token = rig.token.clone();
    rig.get(&format!("/console/setup?token={token}"))
        .await
        .shows(&[&token, "at least 10 characters"]);
    let setup = async |token: &str, password: &str, again: &str| {
        rig.post(
            "/console/setup",
            &[("token", token), ("password", password), ("again", again)],
        )
        .await
    };
    assert_eq!(setup("wrong", PASSWORD, PASSWORD).await.status, 401);
    assert_eq!(setup(&token, "too short", "too short").await.status, 400);
    let differs = setup(&token, PASSWORD, "right horse batterie").await;
    assert_eq!(differs.status, 400);
    assert!(differs.text.contains("The two passwords differ.") && differs.text.contains(&token));
    let done = setup(&token, PASSWORD, PASSWORD).await;
    done.leads_to("/console");
    let cookie = done.header("set-cookie");
    assert!(cookie.starts_with("__Host-mantel-console="), "{cookie}");
    for word in ["Path=/", "Secure", "HttpOnly", "SameSite=Strict"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    setup(&token, "another password", "another password")
        .await
        .leads_to("/console");
    rig.get("/console/setup").await.leads_to("/console");
    rig.get("/console")
        .await
        .leads_to("/console/login?next=/console");
    rig.take_cookie(&done);
    rig.get("/console")
        .await
        .shows(&["ready for its first customer", "Haven &#38; Co"]);
}

#[tokio::test]
async fn log_in_and_out_and_no_guessing() {
    let mut rig = Rig::start().await;
    rig.get("/console").await.shows(&["Overview"]);
    let out = rig.post("/console/logout", &[]).await;
    out.leads_to("/console/login");
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    // The session is over at the server, too.
    rig.get("/console")
        .await
        .leads_to("/console/login?next=/console");
    rig.cookie = None;
    let wrong = rig
        .post(
            "/console/login",
            &[("password", "wrong"), ("next", "/console/homes")],
        )
        .await;
    assert_eq!(wrong.status, 401);
    assert!(
        wrong.text.contains("This is not the password.") && wrong.text.contains("/console/homes")
    );
    let right = rig
        .post(
            "/console/login",
            &[("password", PASSWORD), ("next", "/console/homes")],
        )
        .await;
    right.leads_to("/console/homes");
    let away = rig
        .post(
            "/console/login",
            &[("password", PASSWORD), ("next", "//evil.example/console/")],
        )
        .await;
    away.leads_to("/console");
    let mut refused = 0;
    for _ in 0..20 {
        match rig
            .post("/console/login", &[("password", "guess")])
            .await
            .status
        {
            429 => refused += 1,
            status => assert_eq!(status, 401),
        }
    }
    assert!(
        refused >= 10,
        "{refused} of 20 guesses were refused unheard"
    );
    assert_eq!(
        rig.post("/console/login", &[("password", PASSWORD)])
            .await
            .status,
        429
    );
    rig.take_cookie(&right);
    rig.get("/console").await.shows(&["Overview"]);
}

#[tokio::test]
async fn every_page_and_form_needs_a_log_in() {
    let mut rig = Rig::start().await;
    let customer = rig.customer("Meyer").await;
    let (home, key) = rig.home(customer, "Meyers").await;
    let title = rig.title(&home, &key, "Film", 100, None).await;
    for cookie in [
        None,
        Some("__Host-mantel-console=guessed".to_owned()),
        Some("mantel=1".to_owned()),
    ] {
        rig.cookie = cookie;
        for page in PAGES.iter().copied().map(str::to_owned).chain([
            format!("/console/customers/{customer}"),
            format!("/console/homes/{}", home.home),
            format!("/console/titles/{title}"),
            format!("/console/titles/{title}/poster"),
            "/console/deliveries/events".to_owned(),
            format!("/console/deliveries/{}", OrderId::generate()),
            "/console/nowhere".to_owned(),
        ]) {
            let answer = rig.get(&page).await;
            assert_eq!(answer.status, 303, "{page}");
            assert!(
                answer.header("location").starts_with("/console/login"),
                "{page}"
            );
        }
        for form in [
            "/console/customers".to_owned(),
            format!("/console/customers/{customer}/edit"),
            format!("/console/customers/{customer}/credit"),
            format!("/console/customers/{customer}/suspend"),
            format!("/console/customers/{customer}/codes"),
            format!("/console/homes/{}/rename", home.home),
            format!("/console/homes/{}/remove", home.home),
            format!("/console/titles/{title}/price"),
            format!("/console/titles/{title}/withdraw"),
            "/console/restrictions/block".to_owned(),
            "/console/settings/password".to_owned(),
        ] {
            let fields = [
                ("name", "x"),
                ("amount", "5"),
                ("key", "k"),
                ("note", "n"),
                ("old", PASSWORD),
            ];
            rig.post(&form, &fields).await.leads_to("/console/login");
        }
    }
    let rows = rig.core.customers.list().await.expect("listed");
    assert_eq!(
        (rows.len(), rows[0].name.as_str(), rows[0].available.minor),
        (1, "Meyer", 0)
    );
    assert!(rows[0].standing == Standing::Active && rows[0].homes == 1);
    assert!(
        rig.core
            .restrictions
            .list()
            .await
            .expect("listed")
            .is_empty()
    );
    assert_eq!(
        rig.core
            .titles
            .find(title)
            .await
            .expect("found")
            .expect("a title")
            .price,
        Some(Money::new(100, Currency::EUR))
    );
}

#[tokio::test]
async fn forms_from_other_sites_are_refused() {
    let rig = Rig::start().await;
    let own = format!("https://{}", rig.host);
    for headers in [
        vec![],
        vec![("origin", "https://evil.example")],
        vec![("origin", "null")],
        vec![("origin", own.as_str()), ("sec-fetch-site", "cross-site")],
        vec![("sec-fetch-site", "same-site")],
    ] {
        for path in [
            "/console/customers",
            "/console/login",
            "/console/logout",
            "/console/setup",
        ] {
            let mut request = rig.form(path, &[("name", "Forged"), ("password", PASSWORD)]);
            for (name, value) in &headers {
                request = request.header(*name, *value);
            }
            let answer = rig.send(request).await;
            assert_eq!(answer.status, 403, "{path} {headers:?}");
            assert!(
                answer.text.contains("not sent from this server"),
                "{}",
                answer.text
            );
        }
    }
    assert!(rig.core.customers.list().await.expect("listed").is_empty());
    rig.get("/console").await.shows(&["Overview"]);
}

#[tokio::test]
async fn browsers_are_told_to_load_nothing_foreign_and_keep_nothing() {
    let rig = Rig::start().await;
    for path in [
        "/",
        "/console",
        "/console/login",
        "/console/nowhere",
        "/claim/ABCD2345",
        "/console/assets/console.css",
    ] {
        let answer = rig.get(path).await;
        let policy = answer.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
            "{path}: {policy}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        let keep = answer.header("cache-control");
        assert_eq!(
            keep == "no-store",
            !path.contains("assets"),
            "{path}: {keep}"
        );
    }
    for page in PAGES {
        let answer = rig.get(page).await;
        answer.shows(&["<main id=\"main\">"]);
        for foreign in [
            "<style",
            " style=",
            " onclick=",
            "javascript:",
            "src=\"http",
            "href=\"//",
        ] {
            assert!(!answer.text.contains(foreign), "{foreign} on {page}");
        }
        assert!(
            !answer.text.replace(".js?", "").contains("<script>"),
            "an inline script on {page}"
        );
    }
    let style = rig.get("/console/assets/console.css").await;
    assert!(!style.text.contains("url(") && !style.text.contains("@import"));
    let missing = rig.get("/console/nowhere").await;
    assert_eq!(missing.status, 404);
    assert!(missing.text.contains("There is no such page."));
}

#[tokio::test]
async fn hostile_names_are_text_on_every_page() {
    let rig = Rig::start().await;
    let customer = rig.customer(HOSTILE).await;
    rig.core
        .customers
        .edit(customer, HOSTILE, HOSTILE)
        .await
        .expect("edited");
    rig.core
        .ledger
        .credit(customer, Money::new(5_000, Currency::EUR), HOSTILE, "k")
        .await
        .expect("credited");
    let (sender, key) = rig.home(rig.customer("Meyer").await, HOSTILE).await;
    let (receiver, _) = rig.home(customer, HOSTILE).await;
    let title = rig.title(&sender, &key, HOSTILE, 250, None).await;
    let order = rig.order(&receiver, title).await;
    rig.core
        .add_restriction(
            Some(receiver.home),
            Rule::Kinds {
                allowed: vec![MediaKind::Video],
            },
            HOSTILE,
        )
        .await
        .expect("added");
    let more = [
        format!("/console/customers/{customer}"),
        format!("/console/homes/{}", receiver.home),
        format!("/console/titles/{title}"),
        format!("/console/deliveries/{order}"),
        format!("/console/homes?q={}", encoded(HOSTILE)),
        format!("/console/homes?q={}", encoded("<script>alert(2)</script>")),
        format!("/console?notice={}", encoded(HOSTILE)),
        format!("/console/ledger?customer={}", encoded(HOSTILE)),
        format!("/console/login?next={}", encoded(HOSTILE)),
    ];
    for path in PAGES.iter().copied().chain(more.iter().map(String::as_str)) {
        let text = rig.get(path).await.text;
        for raw in ["<script>alert", "<img src=x", "\"'>", "{{49}}"] {
            assert!(!text.contains(raw), "{raw} stands on {path}: {text}");
        }
    }
    rig.post(
        &format!("/console/customers/{customer}/suspend"),
        &[("note", HOSTILE)],
    )
    .await;
    for path in [
        format!("/console/customers/{customer}"),
        "/console".into(),
        format!("/console/deliveries/{order}"),
    ] {
        let text = rig.get(&path).await.text;
        assert!(
            !text.contains("<script>alert") && text.contains("&#60;script&#62;"),
            "{path}: {text}"
        );
    }
}

#[tokio::test]
async fn the_password_is_changed_and_other_browsers_are_logged_out() {
    let mut rig = Rig::start().await;
    rig.get("/console/settings").await.shows(&[
        "Haven &#38; Co",
        "0.0 %",
        &rig.core.server.pin_text(),
    ]);
    let path = "/console/settings/password";
    let new = "another long password";
    let other = rig.post("/console/login", &[("password", PASSWORD)]).await;
    assert_eq!(
        rig.post(path, &[("old", "wrong"), ("new", new), ("again", new)])
            .await
            .status,
        401
    );
    assert_eq!(
        rig.post(path, &[("old", PASSWORD), ("new", new), ("again", "other")])
            .await
            .status,
        400
    );
    let done = rig
        .post(path, &[("old", PASSWORD), ("new", new), ("again", new)])
        .await;
    done.leads_to("/console/settings?notice=password");
    rig.take_cookie(&other);
    rig.get("/console")
        .await
        .leads_to("/console/login?next=/console");
    rig.take_cookie(&done);
    rig.get("/console/settings?notice=password")
        .await
        .shows(&["The password was changed."]);
}

#[tokio::test]
async fn oversized_and_malformed_forms_are_refused() {
    let rig = Rig::start().await;
    let big = "x".repeat(form::MAX_FORM_BYTES);
    assert_eq!(
        rig.post("/console/customers", &[("name", &big)])
            .await
            .status,
        400
    );
    let own = format!("https://{}", rig.host);
    let json = rig
        .http
        .post(format!("http://{}/console/customers", rig.host))
        .header("origin", own)
        .body("{}");
    assert_eq!(rig.send(json).await.status, 400);
    assert_eq!(rig.get("/console/customers/not-an-id").await.status, 404);
    assert!(rig.core.customers.list().await.expect("listed").is_empty());
}
