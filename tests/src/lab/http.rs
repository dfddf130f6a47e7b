//! A visitor of pages: HTTP with cookies, never through a proxy, trusting any certificate.
//!
//! The laboratory has a leg on every network, so it needs no namespace to reach a gateway. It
//! accepts the self-made certificate of a fresh server; who checks certificates is tested elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::header::{COOKIE, HeaderMap, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::{Method, RequestBuilder, StatusCode, Url};

/// How many redirections are followed in a row.
const MAX_REDIRECTS: usize = 10;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// One visitor of one site, with the cookies it was given.
#[derive(Debug)]
pub struct Session {
    client: reqwest::Client,
    base: Url,
    cookies: Mutex<BTreeMap<String, String>>,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Page {
    /// Where the visitor ended up after redirections.
    pub url: Url,
    /// The status of the last answer.
    pub status: StatusCode,
    /// The head of the last answer.
    pub headers: HeaderMap,
    /// The body as text; what is not UTF-8 is replaced.
    pub body: String,
}

impl Session {
    /// A new visitor of the site at `base`, such as `http://10.213.9.2:8080`.
    pub fn new(base: &str) -> Result<Self> {
        // A second installation is refused and harmless: it is the same provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_danger_accept_invalid_certs(true)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .context("building an HTTP client")?;
        let base = Url::parse(base).with_context(|| format!("{base} is no URL"))?;
        Ok(Self {
            client,
            base,
            cookies: Mutex::default(),
        })
    }

    /// Gets a page, following redirections within the site.
    pub async fn get(&self, path: &str) -> Result<Page> {
        let request = self.request(Method::GET, path)?;
        self.follow(request).await
    }

    /// Posts a form as a browser would, following redirections within the site.
    pub async fn post_form(&self, path: &str, fields: &[(&str, &str)]) -> Result<Page> {
        let request = self
            .request(Method::POST, path)?
            .header(ORIGIN, self.base.origin().ascii_serialization())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form_body(fields));
        self.follow(request).await
    }

    /// A request with this visitor's cookies, for whatever the other functions do not cover.
    ///
    /// Cookies of its answer are not kept, and redirections are not followed.
    pub fn request(&self, method: Method, path: &str) -> Result<RequestBuilder> {
        let url = self
            .base
            .join(path)
            .with_context(|| format!("{path} is no path"))?;
        ensure!(
            url.origin() == self.base.origin(),
            "{url} is another site than {}",
            self.base
        );
        let mut request = self.client.request(method, url);
        let cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        if !cookies.is_empty() {
            let all: Vec<_> = cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            request = request.header(COOKIE, all.join("; "));
        }
        Ok(request)
    }

    /// The value of a cookie, if the visitor has it.
    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    async fn follow(&self, first: RequestBuilder) -> Result<Page> {
        let mut request = first;
        for _ in 0..=MAX_REDIRECTS {
            let answer = request.send().await.context("asking for a page")?;
            self.keep_cookies(answer.headers());
            let target = answer.headers().get(LOCATION);
            let target = target.and_then(|to| to.to_str().ok());
            let (true, Some(target)) = (answer.status().is_redirection(), target) else {
                return Page::read(answer).await;
            };
            let target = answer
                .url()
                .join(target)
                .with_context(|| format!("redirected to {target}"))?;
            request = self.request(Method::GET, target.as_str())?;
        }
        bail!("redirected more than {MAX_REDIRECTS} times")
    }

    fn keep_cookies(&self, headers: &HeaderMap) {
        let mut cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        for line in headers
            .get_all(SET_COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
        {
            let mut parts = line.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
                continue;
            };
            let gone = parts.any(|attribute| {
                let attribute = attribute.to_ascii_lowercase();
                attribute == "max-age=0" || attribute.starts_with("max-age=-")
            });
            if gone || value.is_empty() {
                cookies.remove(name);
            } else {
                cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}

impl Page {
    /// Reads an answer to its end.
    pub async fn read(answer: reqwest::Response) -> Result<Self> {
        let url = answer.url().clone();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.context("reading a page")?;
        Ok(Self {
            url,
            status,
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    /// Fails, with the beginning of the page, unless the answer was a success.
    pub fn ok(self) -> Result<Self> {
        let head: String = self.body.chars().take(500).collect();
        ensure!(
            self.status.is_success(),
            "{} answered {}: {head}",
            self.url,
            self.status
        );
        Ok(self)
    }

    /// The body read as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.body).with_context(|| format!("{} sent no such JSON", self.url))
    }

    /// The value of a form's field, such as a hidden token: of the first tag with that name.
    pub fn field(&self, name: &str) -> Option<String> {
        let wanted = format!("name=\"{name}\"");
        self.body
            .split('<')
            .filter_map(|rest| rest.split('>').next())
            .find(|tag| tag.contains(&wanted))
            .and_then(|tag| tag.split_once("value=\""))
            .and_then(|(_, rest)| rest.split('"').next())
            .map(str::to_owned)
    }
}

/// Fields as `application/x-www-form-urlencoded` (WHATWG URL §5.2).
pub fn form_body(fields: &[(&str, &str)]) -> String {
    let mut body = String::new();
    for (name, value) in fields {
        if !body.is_empty() {
            body.push('&');
        }
        encode(name, &mut body);
        body.push('=');
        encode(value, &mut body);
    }
    body
}

fn encode(text: &str, to: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                to.push(char::from(byte));
            }
            b' ' => to.push('+'),
            _ => write!(to, "%{byte:02X}").expect("a String takes all that is written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded_as_browsers_do() {
        assert_eq!(
            form_body(&[("a b", "1&2"), ("ü", "x=y+z")]),
            "a+b=1%262&%C3%BC=x%3Dy%2Bz"
        );
    }

    #[test]
    fn fields_are_found_in_forms() {
        let page = Page {
            url: Url::parse("http://localhost/").expect("a URL"),
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: r#"<form><input name="x"><input type="hidden" name="csrf" value="abc"></form>"#
                .to_owned(),
        };
        assert_eq!(page.field("csrf").as_deref(), Some("abc"));
        assert_eq!(page.field("x"), None);
        assert_eq!(page.field("y"), None);
    }
}
