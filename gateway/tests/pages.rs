//! The household's pages over HTTP, on a real gateway with an empty data directory: who is let in where, forged requests,
//! hostile names, the television's code, and playing what was sent from a browser.

use anyhow::{Context as _, Result, ensure};
use mantel_gateway::app::{self, Running};
use mantel_gateway::config::Config;
use mantel_runtime::logging::RecentLog;
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, HOST, LOCATION, ORIGIN, RANGE, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

const PASSWORD: &str = "correct horse battery";
/// Every page that a household sees.
const PAGES: &[&str] = &[
    "/",
    "/setup/server",
    "/devices",
    "/library",
    "/catalog",
    "/orders",
    "/homes",
    "/pair",
    "/admin",
    "/admin/login",
    "/admin/storage",
    "/admin/transfers",
    "/admin/log",
    "/admin/sessions",
];

struct Gateway {
    running: Running,
    client: Client,
    base: String,
    _data: TempDir,
}

/// An answer, read whole.
struct Answer {
    status: StatusCode,
    location: String,
    cookies: Vec<String>,
    body: String,
    policy: String,
}

impl Answer {
    /// `name=value` of a cookie that was set.
    fn cookie(&self, name: &str) -> Option<String> {
        let line = self
            .cookies
            .iter()
            .find(|line| line.starts_with(&format!("{name}=")))?;
        line.split(';').next().map(str::to_owned)
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| self.body.clone())
    }
}

impl Gateway {
    async fn start() -> Result<Self> {
        Self::start_by(Config::default()).await
    }

    /// On an appliance; `folder` is the one by which its system and the gateway talk.
    async fn start_on_appliance(folder: &Path) -> Result<Self> {
        std::fs::create_dir(folder.join("requests"))?;
        std::fs::write(folder.join("system.json"), r#"{"version":"1.0.0"}"#)?;
        let mut config = Config::default();
        config.system.folder = folder.to_owned();
        Self::start_by(config).await
    }

    async fn start_by(config: Config) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let mut config = Config {
            data_dir: data.path().join("data"),
            ..config
        };
        config.web.listen = "127.0.0.1:0".parse()?;
        config.exchange.listen = "127.0.0.1:0".parse()?;
        config.devices.interface = Some("lo".to_owned());
        let running = app::start(config, RecentLog::default()).await?;
        let client = Client::builder().redirect(Policy::none()).build()?;
        let base = format!("http://{}", running.web);
        Ok(Self {
            running,
            client,
            base,
            _data: data,
        })
    }

    async fn stop(self) {
        self.running.stop().await;
    }

    fn request(&self, method: Method, path: &str, cookie: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        if cookie.is_empty() {
            request
        } else {
            request.header(COOKIE, cookie)
        }
    }

    async fn get(&self, path: &str, cookie: &str) -> Result<Answer> {
        read(self.request(Method::GET, path, cookie)).await
    }

    fn form(&self, path: &str, fields: &str, cookie: &str) -> RequestBuilder {
        let request = self.request(Method::POST, path, cookie);
        request
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(fields.to_owned())
    }

    async fn post(&self, path: &str, fields: &str, cookie: &str) -> Result<Answer> {
        read(self.form(path, fields, cookie)).await
    }

    /// Chooses the password; the household's cookie.
    async fn set_up(&self) -> Result<String> {
        let fields = format!(
            "password={}&again={}",
            PASSWORD.replace(' ', "+"),
            PASSWORD.replace(' ', "+")
        );
        let answer = self.post("/setup", &fields, "").await?;
        ensure!(answer.status == StatusCode::SEE_OTHER, "{}", answer.body);
        answer.cookie("mantel_session").context("a session")
    }

    /// Chooses the password and opens the admin area; the household's cookie.
    async fn set_up_admin(&self) -> Result<String> {
        let cookie = self.set_up().await?;
        let opened = self
            .post("/admin/login", &right_password(), &cookie)
            .await?;
        assert_eq!(opened.location, "/admin");
        Ok(cookie)
    }

    /// Sends a file as a browser's form does; the title's id.
    async fn upload(&self, name: &str, mime: &str, bytes: &[u8], cookie: &str) -> Result<String> {
        let head = format!(
            "--cut\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: {mime}\r\n\r\n"
        );
        let body = [head.as_bytes(), bytes, b"\r\n--cut--\r\n"].concat();
        let request = self
            .request(Method::POST, "/library/upload", cookie)
            .header(ACCEPT, "application/json");
        let request = request
            .header(CONTENT_TYPE, "multipart/form-data; boundary=cut")
            .body(body);
        let answer = read(request).await?.json()?;
        Ok(answer["title"]
            .as_str()
            .with_context(|| answer.to_string())?
            .to_owned())
    }
}

fn right_password() -> String {
    format!("password={}", PASSWORD.replace(' ', "+"))
}

async fn read(request: RequestBuilder) -> Result<Answer> {
    let answer = request.send().await?;
    let text = |name| {
        answer
            .headers()
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    Ok(Answer {
        status: answer.status(),
        location: text(LOCATION),
        policy: text(reqwest::header::CONTENT_SECURITY_POLICY),
        cookies: answer
            .headers()
            .get_all(SET_COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect(),
        body: answer.text().await?,
    })
}

#[tokio::test]
async fn before_a_password_is_chosen_there_is_only_first_use() -> Result<()> {
    let gateway = Gateway::start().await?;
    for page in PAGES {
        let answer = gateway.get(page, "").await?;
        assert_eq!(
            (answer.status, answer.location.as_str()),
            (StatusCode::SEE_OTHER, "/setup"),
            "{page}"
        );
    }
    assert!(
        gateway
            .get("/setup", "")
            .await?
            .body
            .contains("name=\"password\"")
    );
    for (fields, why) in [
        ("password=short", "at least 8"),
        ("password=long+enough&again=another+one", "differ"),
        ("", "at least 8"),
    ] {
        let answer = gateway.post("/setup", fields, "").await?;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{fields}");
        assert!(answer.body.contains(why), "{fields}: {}", answer.body);
    }
    let rebound = gateway
        .form("/setup", "password=chosen+by+others", "")
        .header(HOST, "gateway.evil.example");
    assert_eq!(read(rebound).await?.status, StatusCode::FORBIDDEN);
    assert_eq!(
        gateway.post("/login", "password=", "").await?.status,
        StatusCode::CONFLICT
    );

    let cookie = gateway.set_up().await?;
    assert_eq!(gateway.get("/", &cookie).await?.status, StatusCode::OK);
    let again = gateway
        .post("/setup", "password=another+password", "")
        .await?;
    assert_eq!(
        again.status,
        StatusCode::CONFLICT,
        "the first password stays"
    );
    assert_eq!(
        gateway.get("/setup", "").await?.status,
        StatusCode::SEE_OTHER
    );
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn pages_need_a_log_in_and_the_admin_area_another() -> Result<()> {
    let gateway = Gateway::start().await?;
    let cookie = gateway.set_up().await?;
    for page in PAGES.iter().filter(|page| **page != "/") {
        let answer = gateway
            .get(
                page,
                "mantel_session=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            )
            .await?;
        assert!(
            answer.location.starts_with("/login?next=%2F"),
            "{page} → {}",
            answer.location
        );
    }
    for path in ["/status.json", "/events"] {
        assert_eq!(
            gateway.get(path, "").await?.status,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
    }
    for path in [
        "/logout",
        "/pair",
        "/library/upload",
        "/devices/x/admit",
        "/orders/x/cancel",
        "/admin/password",
    ] {
        assert_eq!(
            gateway.post(path, "", "").await?.status,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
    }
    for page in PAGES.iter().filter(|page| !page.starts_with("/admin")) {
        let answer = gateway.get(page, &cookie).await?;
        assert_eq!(answer.status, StatusCode::OK, "{page}");
        assert!(
            answer.policy.starts_with("default-src 'none'") && !answer.policy.contains("unsafe"),
            "{page}"
        );
        let inline = [" style=", "<style", " onclick", "javascript:", "<script>"];
        assert!(
            !inline.iter().any(|part| answer.body.contains(part)),
            "{page} has inline code"
        );
    }

    let closed = gateway.get("/admin/log", &cookie).await?;
    assert_eq!(closed.location, "/admin/login?next=%2Fadmin%2Flog");
    assert_eq!(
        gateway
            .post("/admin/password", "password=x", &cookie)
            .await?
            .status,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        gateway
            .post("/admin/login", "password=wrong", &cookie)
            .await?
            .status,
        StatusCode::FORBIDDEN
    );
    let fields = format!("password={}&next=/admin/log", PASSWORD.replace(' ', "+"));
    assert_eq!(
        gateway
            .post("/admin/login", &fields, &cookie)
            .await?
            .location,
        "/admin/log"
    );
    for page in PAGES.iter().filter(|page| page.starts_with("/admin")) {
        assert_eq!(
            gateway.get(page, &cookie).await?.status,
            StatusCode::OK,
            "{page}"
        );
    }

    let other = gateway
        .post(
            "/login",
            &fields.replace("/admin/log", "//evil.example"),
            "",
        )
        .await?;
    assert_eq!(other.location, "/", "never to another site");
    assert!(
        other.cookies[0].contains("; HttpOnly; SameSite=Lax"),
        "{:?}",
        other.cookies
    );
    let other = other.cookie("mantel_session").context("a second session")?;
    let page = gateway.get("/admin/sessions", &cookie).await?.body;
    let ids: Vec<&str> = page
        .split("data-session-id=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(gateway.get("/", &other).await?.status, StatusCode::OK);
    assert_eq!(
        gateway.post("/logout", "", &other).await?.location,
        "/login"
    );
    assert_eq!(
        gateway.get("/", &other).await?.status,
        StatusCode::SEE_OTHER,
        "the session has ended"
    );
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn wrong_passwords_have_to_wait() -> Result<()> {
    let gateway = Gateway::start().await?;
    gateway.set_up().await?;
    let mut last = StatusCode::OK;
    for _ in 0..6 {
        last = gateway.post("/login", "password=guess", "").await?.status;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    let answer = gateway.post("/login", &right_password(), "").await?;
    assert_eq!(
        answer.status,
        StatusCode::TOO_MANY_REQUESTS,
        "even the right one has to wait"
    );
    assert!(answer.body.contains("Wait"), "{}", answer.body);
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_appliance_forgets_everything_for_the_password() -> Result<()> {
    let system = tempfile::tempdir()?;
    let gateway = Gateway::start_on_appliance(system.path()).await?;
    let request = system.path().join("requests/factory-reset");
    let forget = async |fields: &str, cookie: &str| {
        let answer = gateway.post("/admin/forget", fields, cookie).await?;
        anyhow::Ok((answer, request.exists()))
    };
    let cookie = gateway.set_up().await?;
    let right = right_password();
    let (stranger, asked) = forget(&right, "").await?;
    assert_eq!((stranger.status, asked), (StatusCode::UNAUTHORIZED, false));
    let (closed, asked) = forget(&right, &cookie).await?;
    assert_eq!((closed.status, asked), (StatusCode::FORBIDDEN, false));

    gateway.post("/admin/login", &right, &cookie).await?;
    let admin = gateway.get("/admin", &cookie).await?.body;
    assert!(admin.contains("action=\"/admin/forget\""), "{admin}");
    for wrong in ["", "password=", "password=guess"] {
        let (refused, asked) = forget(wrong, &cookie).await?;
        assert_eq!((refused.status, asked), (StatusCode::FORBIDDEN, false));
        let told = refused.body.contains("Nothing was erased") && refused.body.contains("/admin");
        assert!(told, "{}", refused.body);
    }
    let foreign = gateway.form("/admin/forget", &right, &cookie);
    let foreign = read(foreign.header(ORIGIN, "http://evil.example")).await?;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
    assert!(!request.exists(), "asked by another site");

    let (done, asked) = forget(&right, &cookie).await?;
    assert_eq!((done.status, asked), (StatusCode::OK, true));
    assert!(
        done.body.contains("erases everything and starts again")
            && done.body.contains("http://mantel.local:8080/"),
        "{}",
        done.body
    );

    // The system takes it. Wrong passwords have to wait as at the log-in, and count there.
    std::fs::remove_file(&request)?;
    for _ in 0..6 {
        forget("password=guess", &cookie).await?;
    }
    let (waits, asked) = forget(&right, &cookie).await?;
    assert_eq!(
        (waits.status, asked),
        (StatusCode::TOO_MANY_REQUESTS, false)
    );
    let login = gateway.post("/login", &right, "").await?;
    assert_eq!(login.status, StatusCode::TOO_MANY_REQUESTS);
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_an_appliance_cannot_hear_is_told() -> Result<()> {
    let system = tempfile::tempdir()?;
    let gateway = Gateway::start_on_appliance(system.path()).await?;
    let cookie = gateway.set_up_admin().await?;
    std::fs::remove_dir(system.path().join("requests"))?;
    let unheard = gateway
        .post("/admin/forget", &right_password(), &cookie)
        .await?;
    assert_eq!(unheard.status, StatusCode::CONFLICT);
    assert!(
        unheard.body.contains("Nothing was erased"),
        "{}",
        unheard.body
    );
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn only_an_appliance_forgets_everything() -> Result<()> {
    let gateway = Gateway::start().await?;
    let cookie = gateway.set_up_admin().await?;
    let admin = gateway.get("/admin", &cookie).await?.body;
    assert!(!admin.contains("Forget everything"), "{admin}");
    let refused = gateway
        .post("/admin/forget", &right_password(), &cookie)
        .await?;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(
        refused.body.contains("appliance") && refused.body.contains("Nothing was erased"),
        "{}",
        refused.body
    );
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn requests_made_by_other_sites_are_refused() -> Result<()> {
    let gateway = Gateway::start().await?;
    let cookie = gateway.set_up().await?;
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:1"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let answer = read(gateway.form("/logout", "", &cookie).header(name, value)).await?;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{name}: {value}");
        assert!(
            answer.body.contains("Nothing was changed"),
            "{}",
            answer.body
        );
    }
    assert_eq!(
        gateway.get("/", &cookie).await?.status,
        StatusCode::OK,
        "still logged in"
    );
    let own = gateway
        .form("/logout", "", &cookie)
        .header(ORIGIN, &gateway.base);
    assert_eq!(read(own).await?.status, StatusCode::SEE_OTHER);
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_television_is_let_in_by_its_code_and_sees_only_its_pages() -> Result<()> {
    let gateway = Gateway::start().await?;
    let first = gateway.get("/tv", "").await?;
    assert!(first.body.contains("choose the household's password"));
    assert!(first.cookie("mantel_pairing").is_none(), "no code yet");
    let cookie = gateway.set_up().await?;
    let shown = gateway.get("/tv", "").await?;
    let waiting = shown.cookie("mantel_pairing").context("a pairing cookie")?;
    let code = shown
        .body
        .split("id=\"tv-code\">")
        .nth(1)
        .and_then(|rest| rest.split('<').next())
        .context("a code")?;
    assert_eq!(code.len(), 9, "two groups of four: {code}");
    let again = gateway.get("/tv", &waiting).await?;
    assert!(again.body.contains(code), "a reload shows the same code");
    assert_eq!(
        gateway.post("/tv/pair/poll", "", &waiting).await?.json()?["state"],
        "waiting"
    );
    assert_eq!(
        gateway
            .post("/pair", "code=AAAA-AAAA", &cookie)
            .await?
            .status,
        StatusCode::NOT_FOUND
    );
    let fields = format!("code={}&name=Living+room", code.to_lowercase());
    assert_eq!(
        gateway.post("/pair", &fields, "").await?.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        gateway.post("/pair", &fields, &cookie).await?.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(
        gateway.post("/tv/pair/poll", "", "").await?.json()?["state"],
        "over",
        "its cookie is needed"
    );

    let paired = gateway.post("/tv/pair/poll", "", &waiting).await?;
    assert_eq!(paired.json()?["state"], "paired");
    let television = paired
        .cookie("mantel_session")
        .context("a session for the television")?;
    assert_eq!(
        gateway.post("/tv/pair/poll", "", &waiting).await?.json()?["state"],
        "over",
        "once"
    );
    assert!(
        !gateway
            .get("/tv", &television)
            .await?
            .body
            .contains("tv-code")
    );
    for page in PAGES.iter().chain(&["/status.json", "/events"]) {
        assert_eq!(
            gateway.get(page, &television).await?.location,
            "/tv",
            "{page}"
        );
    }
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn hostile_names_are_shown_as_text() -> Result<()> {
    let gateway = Gateway::start().await?;
    let cookie = gateway.set_up().await?;
    let title = gateway
        .upload(
            "<script>alert(1)</script><img src=x onerror=alert(2)>.txt",
            "text/plain",
            b"x",
            &cookie,
        )
        .await?;
    for path in [
        "/".to_owned(),
        "/library".into(),
        format!("/library/{title}"),
        format!("/library/{title}/remove"),
        "/tv".into(),
    ] {
        let page = gateway.get(&path, &cookie).await?;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(
            !page.body.contains("<script>") && !page.body.contains("<img src=x"),
            "{path}: {}",
            page.body
        );
    }
    let search = gateway
        .get("/library?q=%22%3E%3Cscript%3E", &cookie)
        .await?
        .body;
    assert!(!search.contains("<script>"), "{search}");
    for path in [
        "/library/ttl_%3Cscript%3E",
        "/devices/%3Cscript%3E",
        "/orders?done=%3Cscript%3E",
        "/catalog/x",
        "/homes/x",
        "/nowhere",
    ] {
        let page = gateway.get(path, &cookie).await?;
        assert!(
            page.status == StatusCode::NOT_FOUND || page.status == StatusCode::OK,
            "{path}: {}",
            page.status
        );
        assert!(!page.body.contains("<script>"), "{path}");
    }
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_file_sent_from_a_browser_is_kept_and_played_by_range() -> Result<()> {
    let gateway = Gateway::start().await?;
    let cookie = gateway.set_up().await?;
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let title = gateway
        .upload("holiday.bin", "application/octet-stream", &bytes, &cookie)
        .await?;
    let status = gateway.get("/status.json", &cookie).await?.json()?;
    assert_eq!(status["titles"][0]["id"], *title);
    assert_eq!(status["titles"][0]["state"], "ready");
    assert_eq!(status["link"]["state"], "not_enrolled");

    let play = gateway
        .form(&format!("/library/{title}/play"), "on=here", &cookie)
        .header(ACCEPT, "application/json");
    let play = read(play).await?.json()?;
    let media = play["media"].as_str().with_context(|| play.to_string())?;
    let part = gateway
        .request(Method::GET, media, "")
        .header(RANGE, "bytes=65530-131080")
        .send()
        .await?;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await?, bytes[65_530..=131_080]);
    let page = gateway
        .get(play["location"].as_str().context("a page")?, &cookie)
        .await?;
    assert!(
        page.body.contains(&format!("href=\"{media}\"")),
        "{}",
        page.body
    );

    let removed = gateway
        .post(&format!("/library/{title}/remove"), "", &cookie)
        .await?;
    assert_eq!(removed.location, "/library?done=removed");
    assert_eq!(
        gateway
            .get(&format!("/library/{title}"), &cookie)
            .await?
            .status,
        StatusCode::NOT_FOUND
    );
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_first_page_is_light() -> Result<()> {
    let gateway = Gateway::start().await?;
    let cookie = gateway.set_up().await?;
    let page = gateway.get("/", &cookie).await?.body;
    let mut bytes = page.len();
    let mut assets: Vec<&str> = page
        .split("\"/static/")
        .skip(1)
        .filter_map(|rest| rest.split(['"', '#']).next())
        .collect();
    assets.sort_unstable();
    assets.dedup();
    for asset in assets {
        let answer = gateway.get(&format!("/static/{asset}"), "").await?;
        assert_eq!(answer.status, StatusCode::OK, "{asset}");
        bytes += answer.body.len();
    }
    assert!(bytes <= 30_000, "{bytes} bytes, before any compression");
    gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn open_pages_are_told_what_changed() -> Result<()> {
    let gateway = Gateway::start().await?;
    let cookie = gateway.set_up().await?;
    let page = gateway.get("/library", &cookie).await?.body;
    let shown = page
        .split("data-version-library=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .context("a version")?;
    let mut news = gateway
        .request(Method::GET, "/events", &cookie)
        .send()
        .await?;
    let mut heard = String::new();
    while !heard.contains("event: link") {
        let piece = news.chunk().await?.context("the stream ended")?;
        heard.push_str(std::str::from_utf8(&piece)?);
    }
    assert!(
        heard.contains(&format!(
            "event: library\ndata: {{\"version\":\"{shown}\"}}"
        )),
        "{heard}"
    );
    heard.clear();
    gateway
        .upload("later.txt", "text/plain", b"later", &cookie)
        .await?;
    while !heard.contains("event: library") {
        let piece = news.chunk().await?.context("the stream ended")?;
        heard.push_str(std::str::from_utf8(&piece)?);
    }
    assert!(!heard.contains(shown), "another version: {heard}");
    gateway.stop().await; // an open stream does not hold up the stop
    assert!(news.chunk().await.map_or(true, |piece| piece.is_none()));
    Ok(())
}
