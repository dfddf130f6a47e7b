//! HTTP digest (RFC 7616) by crate http-auth: the answer to a camera's challenge. Pure.

use http_auth::{DigestClient, PasswordParams, parse_challenges};

use crate::live::Login;

/// Longest challenge looked at, in bytes.
pub const MAX_CHALLENGE_BYTES: usize = 4096;

/// The `Authorization` for a request that was challenged with `challenge` (the text of `WWW-Authenticate`). `None`: the
/// challenge offers no digest, or cannot be read.
pub fn authorization(challenge: &str, login: &Login, method: &str, target: &str) -> Option<String> {
    if challenge.len() > MAX_CHALLENGE_BYTES {
        return None;
    }
    let challenges = parse_challenges(challenge).ok()?;
    let mut client = challenges
        .iter()
        .filter(|offer| offer.scheme.eq_ignore_ascii_case("Digest"))
        .find_map(|offer| DigestClient::try_from(offer).ok())?;
    client
        .respond(&PasswordParams {
            username: login.user(),
            password: login.password(),
            uri: target,
            method,
            body: None,
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn login() -> Login {
        Login::new("admin", "secret").expect("fits")
    }

    #[test]
    fn a_digest_is_answered_and_a_plain_password_never_given() {
        let challenge = r#"Basic realm="cam", Digest realm="cam", nonce="abc", qop="auth""#;
        let answer = authorization(challenge, &login(), "GET", "/snap.jpg").expect("digest");
        assert!(answer.starts_with("Digest ") && answer.contains(r#"uri="/snap.jpg""#));
        assert!(!answer.contains("secret"));
        for none in [
            "Basic realm=\"cam\"",
            "",
            "Bearer x",
            "Digest",
            &"x".repeat(5000),
        ] {
            assert_eq!(authorization(none, &login(), "GET", "/"), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_challenges_never_panic(text: String) {
            let _ = authorization(&text, &login(), "GET", "/");
            let _ = authorization(&format!("Digest realm=\"a\", nonce=\"{text}\""), &login(), "GET", "/");
        }
    }
}
