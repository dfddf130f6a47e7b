//! The operator: what a person does at the server's console, over HTTPS.

use crate::lab::{Page, Session, until_ok};
use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use reqwest::header::ORIGIN;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// How long a fresh server may take to write its setup link.
const START: Duration = Duration::from_secs(30);

/// An operator logged in at the console.
pub struct Operator {
    base: String,
    session: Session,
    /// The customers this operator made: name to id.
    customers: Mutex<BTreeMap<String, String>>,
}

impl Operator {
    /// First use of a fresh server: takes the setup link from its data directory and sets the password.
    pub async fn set_up(base: &str, server_data: &Path, password: &str) -> Result<Self> {
        // It is written when all listens, a moment after the port answers.
        let file = server_data.join("setup-link");
        let link = until_ok("the setup link", START, async || {
            std::fs::read_to_string(&file)
        })
        .await?;
        let token = link
            .trim()
            .rsplit(['#', '='])
            .next()
            .context("a token in the setup link")?;
        let session = Session::new(base)?;
        let fields = [
            ("token", token),
            ("password", password),
            ("again", password),
        ];
        session
            .post_form("/console/setup", &fields)
            .await?
            .ok()
            .context("setting the operator's password")?;
        Ok(Self {
            base: base.to_owned(),
            session,
            customers: Mutex::default(),
        })
    }

    /// Where the server is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The console as this operator sees it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    async fn form(&self, path: &str, fields: &[(&str, &str)]) -> Result<Page> {
        self.session
            .post_form(path, fields)
            .await?
            .ok()
            .with_context(|| format!("the console refused {path}"))
    }

    /// Makes a customer and returns a claim link for its gateway.
    pub async fn new_customer(&self, name: &str) -> Result<String> {
        let page = self
            .form("/console/customers", &[("name", name), ("contact", "")])
            .await?;
        let id = part_of(page.url.path(), "cust_").context("the new customer's page")?;
        self.customers
            .lock()
            .expect("no holder panics")
            .insert(name.to_owned(), id.clone());
        let page = self
            .form(&format!("/console/customers/{id}/codes"), &[])
            .await?;
        let start = page
            .body
            .find("https://")
            .context("a claim link on the page")?;
        let link = page.body[start..]
            .split(['"', '<', '\'', ' ', '\n'])
            .next()
            .unwrap_or_default();
        ensure!(link.contains("/claim/"), "{link} is no claim link");
        Ok(link.replace("&#35;", "#"))
    }

    /// A customer's id, by name.
    pub fn customer(&self, name: &str) -> Result<String> {
        self.customers
            .lock()
            .expect("no holder panics")
            .get(name)
            .cloned()
            .with_context(|| format!("no customer {name}"))
    }

    /// Credits a customer's account.
    pub async fn credit(&self, name: &str, amount: &str) -> Result<()> {
        let path = format!("/console/customers/{}", self.customer(name)?);
        let page = self.session.get(&path).await?.ok()?;
        let key = page.field("key").context("the form's key")?;
        self.form(
            &format!("{path}/credit"),
            &[("key", &key), ("amount", amount), ("note", "prepaid")],
        )
        .await?;
        Ok(())
    }

    /// Suspends a customer's account.
    pub async fn suspend(&self, name: &str) -> Result<()> {
        let path = format!("/console/customers/{}/suspend", self.customer(name)?);
        self.form(&path, &[("note", "unpaid bill")]).await.map(drop)
    }

    /// Reopens a customer's account.
    pub async fn reopen(&self, name: &str) -> Result<()> {
        let path = format!("/console/customers/{}/reopen", self.customer(name)?);
        self.form(&path, &[]).await.map(drop)
    }

    /// Adds a restriction: `block`, `allow`, `kinds`, `size` or `quota`, with its form's fields.
    pub async fn restrict(&self, rule: &str, fields: &[(&str, &str)]) -> Result<()> {
        self.form(&format!("/console/restrictions/{rule}"), fields)
            .await
            .map(drop)
    }

    /// Puts a version of the appliance at the server; the answer may be a refusal.
    pub async fn put_release(&self, version: &str, bundle: &[u8]) -> Result<Page> {
        // RFC 7578: two parts, so the body is written here.
        let boundary = "----mantel-bundle-5c20";
        let head = "Content-Disposition: form-data; name=";
        let mut body = format!(
            "--{boundary}\r\n{head}\"version\"\r\n\r\n{version}\r\n--{boundary}\r\n{head}\"bundle\"; \
             filename=\"mantel.raucb\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(bundle);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let kind = format!("multipart/form-data; boundary={boundary}");
        let answer = self
            .session
            .request(Method::POST, "/console/updates")?
            .header(ORIGIN, &self.base)
            .header("content-type", kind)
            .body(body)
            .send()
            .await?;
        Page::read(answer).await
    }

    /// Says whom a version of the appliance is for: so many in a hundred, and these homes.
    pub async fn roll_out(&self, version: &str, percent: u8, homes: &[&str]) -> Result<()> {
        let percent = percent.to_string();
        let mut fields = vec![("percent", percent.as_str())];
        fields.extend(homes.iter().map(|home| ("homes", *home)));
        self.form(&format!("/console/updates/{version}/rollout"), &fields)
            .await
            .map(drop)
    }

    /// Withdraws a version of the appliance.
    pub async fn withdraw_release(&self, version: &str) -> Result<()> {
        let path = format!("/console/updates/{version}/withdraw");
        self.form(&path, &[]).await.map(drop)
    }

    /// Removes every restriction.
    pub async fn lift_restrictions(&self) -> Result<()> {
        loop {
            let page = self.session.get("/console/restrictions").await?.ok()?;
            let Some(id) = part_of(&page.body, "rst_") else {
                return Ok(());
            };
            self.form(&format!("/console/restrictions/{id}/remove"), &[])
                .await?;
        }
    }
}

/// The first id with this prefix in a text.
fn part_of(text: &str, prefix: &str) -> Option<String> {
    let start = text.find(prefix)?;
    let digits = text[start + prefix.len()..]
        .chars()
        .take_while(char::is_ascii_hexdigit)
        .count();
    (digits == 32).then(|| text[start..start + prefix.len() + 32].to_owned())
}
