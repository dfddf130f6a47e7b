//! Forms: names and texts as the browser sent them. Repeated names (tick boxes) keep their order.

use super::shell::Failure;
use mantel_protocol::api::{Problem, ProblemCode};
use std::str::FromStr;

/// The largest form, bytes.
pub(super) const MAX_FORM_BYTES: usize = 64 * 1024;

/// A form's fields.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(pub(super) Vec<(String, String)>);

impl Fields {
    /// A field's text, trimmed; empty where it is missing.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value.trim())
    }

    /// A field as typed: a password keeps its spaces.
    pub(super) fn raw(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value)
    }

    /// All texts under one name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.trim())
    }

    /// A value that may be missing; `what` names it to a person.
    pub(super) fn maybe<T: FromStr>(&self, name: &str, what: &str) -> Result<Option<T>, Failure> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| wrong(what)),
        }
    }

    /// A value that must be there.
    pub(super) fn need<T: FromStr>(&self, name: &str, what: &str) -> Result<T, Failure> {
        self.maybe(name, what)?.ok_or_else(|| wrong(what))
    }

    /// All values under one name.
    pub(super) fn each<T: FromStr>(&self, name: &str, what: &str) -> Result<Vec<T>, Failure> {
        self.all(name)
            .map(|text| text.parse().map_err(|_| wrong(what)))
            .collect()
    }
}

/// A field that cannot be read.
pub(super) fn wrong(what: &str) -> Failure {
    refused(format!("{what} is missing or cannot be read"))
}

/// A form that asks for what cannot be.
pub(super) fn refused(detail: impl Into<String>) -> Failure {
    Failure(Problem {
        code: ProblemCode::BadRequest,
        status: 400,
        detail: detail.into(),
        next: "Nothing was changed. Go back, correct it, and send it again.".into(),
    })
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for Fields {
    type Rejection = Failure;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Failure> {
        axum::extract::Form::<Vec<(String, String)>>::from_request(request, state)
            .await
            .map(|axum::extract::Form(fields)| Self(fields))
            .map_err(|_| refused("the form cannot be read, or is too large"))
    }
}
