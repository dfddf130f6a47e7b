//! Versions of the appliance: put here, rolled out, reported on, withdrawn.

use super::*;
use mantel_protocol::api::{UpdateOutcome, UpdateQuestion};
use mantel_protocol::update::{Outcome, Version};

fn version(text: &str) -> Version {
    text.parse().expect("a version")
}

fn form(version: &str, bundle: &str) -> String {
    let head = "--b\r\nContent-Disposition: form-data; name=";
    format!(
        "{head}\"version\"\r\n\r\n{version}\r\n{head}\"bundle\"; filename=\"m.raucb\"\r\n\r\n{bundle}\r\n--b--\r\n"
    )
}

async fn put(rig: &Rig, body: String) -> Answer {
    let request = rig
        .http
        .post(format!("http://{}/console/updates", rig.host))
        .header("content-type", "multipart/form-data; boundary=b")
        .header("origin", format!("https://{}", rig.host))
        .header("sec-fetch-site", "same-origin")
        .body(body);
    rig.send(request).await
}

fn files(rig: &Rig) -> usize {
    let folder = rig.folder.path().join("releases");
    std::fs::read_dir(folder).expect("a folder").count()
}

#[tokio::test]
async fn a_version_is_put_here_rolled_out_and_withdrawn() {
    let rig = Rig::start().await;
    let customer = rig.customer("Meyer").await;
    let (anna, _) = rig.home(customer, "Anna").await;
    let (ben, _) = rig.home(customer, "Ben").await;
    rig.get("/console/updates")
        .await
        .shows(&["No version is here yet."]);

    // More than a form may have: a bundle has a limit of its own.
    let bundle = "b".repeat(300_000);
    put(&rig, form("1.2.0", &bundle))
        .await
        .leads_to("/console/updates/1.2.0?notice=bundle");
    let hash = blake3::hash(bundle.as_bytes()).to_string();
    rig.get("/console/updates/1.2.0")
        .await
        .shows(&[&hash, "nobody yet", "300 kB"]);
    for (body, words) in [
        (form("1.2.0", "other"), "already"),
        (form("1.2", "other"), "three numbers"),
        (form("1.3.0", ""), "empty"),
        (form("1.3.0", "other").replace("--b--", "--"), "whole"),
        (
            form("1.3.0", "other").replace("\"version\"", "\"x\""),
            "version is missing",
        ),
        (
            form("1.3.0", "other").replace("\"bundle\"", "\"x\""),
            "bundle is missing",
        ),
    ] {
        let refused = put(&rig, body).await;
        assert!(
            matches!(refused.status, 400 | 409) && refused.text.contains(words),
            "{words}: {} {}",
            refused.status,
            refused.text
        );
    }
    assert_eq!(files(&rig), 1, "nothing is kept of what was refused");

    let ask = async |caller: &Caller, running| {
        let question = UpdateQuestion {
            running: version(running),
            holds: None,
        };
        let answer = rig
            .core
            .releases
            .ask(caller, question)
            .await
            .expect("answered");
        answer.offer.map(|offer| offer.version)
    };
    assert_eq!(ask(&anna, "1.0.0").await, None, "for nobody yet");
    let page = "/console/updates/1.2.0";
    let (home, rollout) = (anna.home.to_string(), format!("{page}/rollout"));
    rig.post(&rollout, &[("percent", "0"), ("homes", &home)])
        .await
        .leads_to(&format!("{page}?notice=rollout"));
    for percent in ["", "101", "-1", "x"] {
        assert_eq!(
            rig.post(&rollout, &[("percent", percent)]).await.status,
            400,
            "{percent}"
        );
    }
    assert_eq!(ask(&anna, "1.0.0").await, Some(version("1.2.0")));
    assert_eq!(ask(&anna, "1.2.0").await, None);
    assert_eq!(ask(&ben, "1.0.0").await, None);
    let read = rig
        .core
        .releases
        .read(&anna, version("1.2.0"), 299_999, 1)
        .await;
    assert_eq!(read.expect("read"), b"b");
    assert!(
        rig.core
            .releases
            .read(&ben, version("1.2.0"), 0, 1)
            .await
            .is_err()
    );

    let report = UpdateOutcome {
        outcome: Outcome::Failed,
        words: format!("{HOSTILE}\n"),
    };
    let reported = rig
        .core
        .releases
        .report(&anna, version("1.2.0"), report.clone())
        .await;
    reported.expect("taken");
    let unknown = rig
        .core
        .releases
        .report(&anna, version("9.9.9"), report)
        .await;
    assert_eq!(unknown.expect_err("refused").problem().status, 404);
    let told = rig.get(page).await;
    told.shows(&["Failed", "data-failed>1<", "data-running>1<", "Anna"]);
    assert!(!told.text.contains("<script>alert"), "{}", told.text);
    assert_eq!(ask(&anna, "1.0.0").await, None, "it failed there");
    rig.post(&rollout, &[("percent", "100")]).await;
    assert_eq!(ask(&ben, "1.0.0").await, Some(version("1.2.0")));
    rig.get("/console/updates").await.shows(&["every home"]);

    let gone = format!("{page}?notice=release-withdrawn");
    rig.post(&format!("{page}/withdraw"), &[])
        .await
        .leads_to(&gone);
    assert_eq!(ask(&ben, "1.0.0").await, None);
    assert_eq!(files(&rig), 0);
    assert_eq!(rig.post(&format!("{page}/withdraw"), &[]).await.status, 404);
    assert_eq!(rig.post(&rollout, &[("percent", "5")]).await.status, 404);
    rig.get(page).await.shows(&["Withdrawn"]);
    for page in ["/console/updates/x", "/console/updates/7.7.7"] {
        assert_eq!(rig.get(page).await.status, 404, "{page}");
    }
}
