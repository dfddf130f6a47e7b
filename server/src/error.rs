//! What goes wrong in the server's parts: either the request is refused, and a [`Problem`] tells a person why, or the
//! server itself failed and nothing was changed.

use mantel_protocol::api::{Problem, ProblemCode};
use mantel_runtime::db::DbError;
use mantel_runtime::logging::chain;

/// Why a part did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The caller's request is refused; the text is for a person.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// The database failed; nothing was changed.
    #[error("the database failed")]
    Database(#[from] DbError),
    /// What the server stored or made cannot be used; nothing was changed.
    #[error("{what}")]
    Broken {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// The result of the server's parts.
pub type Result<T> = std::result::Result<T, CoreError>;

impl From<rusqlite::Error> for CoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(DbError::Sql(error))
    }
}

/// The HTTP status of a kind of problem.
pub fn status_of(code: ProblemCode) -> u16 {
    match code {
        ProblemCode::BadRequest => 400,
        ProblemCode::BadToken => 401,
        ProblemCode::InsufficientFunds => 402,
        ProblemCode::Forbidden | ProblemCode::Restricted => 403,
        ProblemCode::NotFound => 404,
        ProblemCode::PriceChanged | ProblemCode::Conflict => 409,
        ProblemCode::TooMany => 429,
        ProblemCode::Internal => 500,
        ProblemCode::Unreachable => 503,
    }
}

/// A refusal: what happened, and what was kept and what to do next.
pub fn refused(code: ProblemCode, detail: impl Into<String>, next: impl Into<String>) -> CoreError {
    CoreError::Refused(Problem {
        code,
        status: status_of(code),
        detail: detail.into(),
        next: next.into(),
    })
}

/// The request is malformed.
pub fn bad(detail: impl Into<String>) -> CoreError {
    refused(
        ProblemCode::BadRequest,
        detail,
        "nothing was changed; correct it and try again",
    )
}

/// There is no such thing, or the caller may not know of it.
pub fn missing(what: &str) -> CoreError {
    refused(
        ProblemCode::NotFound,
        format!("there is no such {what}"),
        "look at the list again; it may have changed",
    )
}

/// The caller may not do this.
pub fn forbidden(detail: impl Into<String>) -> CoreError {
    refused(ProblemCode::Forbidden, detail, "nothing was changed")
}

/// The thing is in a state in which this cannot be done.
pub fn conflict(detail: impl Into<String>, next: impl Into<String>) -> CoreError {
    refused(ProblemCode::Conflict, detail, next)
}

/// Stored or made data cannot be used.
pub fn broken<E>(what: &'static str) -> impl FnOnce(E) -> CoreError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |error| CoreError::Broken {
        what,
        source: Some(Box::new(error)),
    }
}

impl CoreError {
    /// What the caller is told. A failure of the server is logged here, with its whole chain, and told in general words.
    pub fn problem(&self) -> Problem {
        match self {
            Self::Refused(problem) => problem.clone(),
            failed => {
                tracing::error!(error = %chain(failed), "a request failed");
                Problem {
                    code: ProblemCode::Internal,
                    status: status_of(ProblemCode::Internal),
                    detail: "the server could not do this because of a fault of its own".into(),
                    next: "nothing was changed; try again, and tell the operator if it stays"
                        .into(),
                }
            }
        }
    }
}

/// The longest name of a customer or home, characters.
pub const MAX_NAME_CHARS: usize = 80;
/// The longest note or reason, characters.
pub const MAX_NOTE_CHARS: usize = 300;

/// A text from outside: trimmed, not empty, of printable characters, at most `max` of them.
pub fn clean(text: &str, max: usize, what: &str) -> Result<String> {
    let text = clean_note(text, max, what)?;
    if text.is_empty() {
        return Err(bad(format!("{what} is missing")));
    }
    Ok(text)
}

/// Like [`clean`], but may be empty.
pub fn clean_note(text: &str, max: usize, what: &str) -> Result<String> {
    let text = text.trim();
    if text.chars().count() > max {
        return Err(bad(format!("{what} is longer than {max} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(bad(format!("{what} holds characters that cannot be shown")));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_texts_from_outside() {
        assert_eq!(clean("  Anna  ", 10, "the name").expect("fine"), "Anna");
        for text in ["", "   ", "a\nb", "eleven char"] {
            let problem = clean(text, 10, "the name").expect_err("refused").problem();
            assert_eq!(
                (problem.code, problem.status),
                (ProblemCode::BadRequest, 400)
            );
        }
        assert_eq!(clean_note(" ", 10, "the note").expect("may be empty"), "");
    }

    #[test]
    fn a_fault_of_the_server_tells_no_inner_detail() {
        let problem = CoreError::from(rusqlite::Error::InvalidQuery).problem();
        assert_eq!(problem.status, 500);
        assert!(!problem.detail.to_lowercase().contains("query"));
    }
}
