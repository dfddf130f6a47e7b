//! The fields of a posted form, parsed at the edge.

use super::respond::Refusal;
use axum::extract::{Form, FromRequest, Request};

/// The longest text accepted in one field, characters; longer ones are refused.
const MAX_FIELD_CHARS: usize = 4_096;
/// The most fields in one form.
const MAX_FIELDS: usize = 200;

/// The fields of an `application/x-www-form-urlencoded` body, in order.
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// A field's text, trimmed; empty when absent.
    pub fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// A field's text as typed (a password); empty when absent.
    pub fn raw(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value)
    }

    /// All values of a field that may be repeated.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.trim())
    }

    /// A whole number, `None` when the field is empty; `what` names it in the refusal.
    pub fn number(&self, name: &str, what: &str, max: u32) -> Result<Option<u32>, Refusal> {
        match self.text(name) {
            "" => Ok(None),
            text => match text.parse() {
                Ok(number) if number <= max => Ok(Some(number)),
                _ => Err(Refusal::field(format!(
                    "{what} must be a whole number up to {max}."
                ))),
            },
        }
    }
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        if request
            .headers()
            .get(axum::http::header::CONTENT_TYPE)
            .is_none()
        {
            return Ok(Self(Vec::new())); // a bare POST: a form without fields
        }
        let fields = match Form::<Vec<(String, String)>>::from_request(request, state).await {
            Ok(Form(fields)) => fields,
            Err(refused) => {
                return Err(Refusal::field(format!(
                    "The form could not be read: {refused}."
                )));
            }
        };
        let too_long = fields
            .iter()
            .any(|(_, value)| value.chars().count() > MAX_FIELD_CHARS);
        if fields.len() > MAX_FIELDS || too_long {
            return Err(Refusal::field("The form holds more than this page takes."));
        }
        Ok(Self(fields))
    }
}
