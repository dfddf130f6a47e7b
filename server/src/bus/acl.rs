//! Who may say what on the bus; pure decisions over what a client sent (contract in [`mantel_protocol::bus`]).

use jiff::Timestamp;
use mantel_protocol::bus::{MAX_PAYLOAD, cmd_topic, ev_topic, st_topic};
use mantel_protocol::key::{DeviceId, ServerKey};
use mantel_protocol::token::DeviceLogin;

/// The highest quality of service: at least once. Exactly once would need state that outlives a connection.
pub const MAX_QOS: u8 = 1;

/// A log-in as the CONNECT packet carries it.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// Client ID; must be the device ID.
    pub client: &'a str,
    /// User name; must be the device ID too.
    pub user: Option<&'a str>,
    /// A [`DeviceLogin`] token.
    pub password: Option<&'a [u8]>,
    /// Whether no earlier session is to be resumed and none is to be kept.
    pub clean: bool,
    /// What the broker is to say when the connection breaks.
    pub will: Option<Message<'a>>,
}

/// A message that a client publishes, now or as its last will.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Where to.
    pub topic: &'a str,
    /// Payload length.
    pub bytes: usize,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Whether the broker is asked to keep it.
    pub retain: bool,
}

/// Why a client is refused; written to the log, never to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Client ID, user name and key are not one device.
    #[error("client id, user name and key are not the same device")]
    Identity,
    /// The password is no valid log-in.
    #[error(transparent)]
    Token(#[from] mantel_protocol::token::TokenError),
    /// The client wants a session that outlives its connection.
    #[error("only clean sessions are kept")]
    Session,
    /// The last will is not the device's own presence.
    #[error("the last will is not the device's own presence")]
    Will,
    /// The device is not enrolled, or its account is gone.
    #[error("the device is not enrolled here")]
    Unknown,
}

/// Verifies a log-in by the device's key. Whether the device is enrolled is another question.
pub fn verify_login(
    login: &Login<'_>,
    server: &ServerKey,
    now: Timestamp,
) -> Result<DeviceId, Refusal> {
    let token = login
        .password
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .ok_or(Refusal::Identity)?;
    let claimed: DeviceId = login.client.parse().map_err(|_| Refusal::Identity)?;
    // The text must be the canonical one: topics and sessions are named by it.
    if login.user != Some(login.client) || claimed.to_string() != login.client {
        return Err(Refusal::Identity);
    }
    let device = DeviceLogin::verify(token, server, now)?;
    if device != claimed {
        return Err(Refusal::Identity);
    }
    if !login.clean {
        return Err(Refusal::Session);
    }
    match login.will {
        Some(will) if will.topic != st_topic(&device) || !is_modest(&will) => Err(Refusal::Will),
        _ => Ok(device),
    }
}

/// Whether a device may subscribe to a filter: its own `cmd` and nothing else.
pub fn may_subscribe(device: &DeviceId, filter: &str) -> bool {
    filter == cmd_topic(device)
}

/// Whether a device may publish a message: on its own `ev` and `st`, within the limits.
pub fn may_publish(device: &DeviceId, message: &Message<'_>) -> bool {
    (message.topic == ev_topic(device) || message.topic == st_topic(device)) && is_modest(message)
}

fn is_modest(message: &Message<'_>) -> bool {
    message.bytes <= MAX_PAYLOAD && message.qos <= MAX_QOS && !message.retain
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_protocol::key::SigningKey;

    fn message(topic: &str) -> Message<'_> {
        Message {
            topic,
            bytes: 10,
            qos: 1,
            retain: false,
        }
    }

    #[test]
    fn a_device_speaks_and_listens_on_its_own_topics_only() {
        let own = SigningKey::generate().device_id();
        let other = SigningKey::generate().device_id();
        assert!(may_subscribe(&own, &cmd_topic(&own)));
        for filter in [
            cmd_topic(&other),
            ev_topic(&own),
            "#".into(),
            "mantel/+/cmd".into(),
            "$SYS/#".into(),
        ] {
            assert!(!may_subscribe(&own, &filter), "{filter}");
        }
        assert!(may_publish(&own, &message(&ev_topic(&own))));
        assert!(may_publish(&own, &message(&st_topic(&own))));
        for topic in [
            cmd_topic(&own),
            ev_topic(&other),
            st_topic(&other),
            cmd_topic(&other),
            String::new(),
        ] {
            assert!(!may_publish(&own, &message(&topic)), "{topic}");
        }
    }

    #[test]
    fn size_quality_and_retain_are_limited() {
        let own = SigningKey::generate().device_id();
        let topic = ev_topic(&own);
        let good = message(&topic);
        assert!(may_publish(
            &own,
            &Message {
                bytes: MAX_PAYLOAD,
                ..good
            }
        ));
        assert!(!may_publish(
            &own,
            &Message {
                bytes: MAX_PAYLOAD + 1,
                ..good
            }
        ));
        assert!(!may_publish(&own, &Message { qos: 2, ..good }));
        assert!(!may_publish(
            &own,
            &Message {
                retain: true,
                ..good
            }
        ));
    }

    #[test]
    fn login_names_one_device_everywhere() {
        let key = SigningKey::generate();
        let server = SigningKey::generate().server_key();
        let now = Timestamp::from_second(1_000_000).expect("in range");
        let token = DeviceLogin::sign(&key, server, now);
        let id = key.device_id().to_string();
        let will_topic = st_topic(&key.device_id());
        let good = Login {
            client: &id,
            user: Some(&id),
            password: Some(token.as_bytes()),
            clean: true,
            will: Some(message(&will_topic)),
        };
        assert_eq!(verify_login(&good, &server, now), Ok(key.device_id()));
        let other = SigningKey::generate().device_id().to_string();
        let upper = id.to_uppercase();
        let refused = |login: Login<'_>| verify_login(&login, &server, now).expect_err("refused");
        assert_eq!(
            refused(Login {
                client: &other,
                user: Some(&other),
                ..good
            }),
            Refusal::Identity
        );
        assert_eq!(
            refused(Login {
                client: &upper,
                user: Some(&upper),
                ..good
            }),
            Refusal::Identity
        );
        assert_eq!(refused(Login { user: None, ..good }), Refusal::Identity);
        assert_eq!(
            refused(Login {
                user: Some("root"),
                ..good
            }),
            Refusal::Identity
        );
        assert_eq!(
            refused(Login {
                password: None,
                ..good
            }),
            Refusal::Identity
        );
        assert_eq!(
            refused(Login {
                password: Some(b"\xff"),
                ..good
            }),
            Refusal::Identity
        );
        assert!(matches!(
            refused(Login {
                password: Some(b"secret"),
                ..good
            }),
            Refusal::Token(_)
        ));
        assert_eq!(
            refused(Login {
                clean: false,
                ..good
            }),
            Refusal::Session
        );
        let foreign = cmd_topic(&key.device_id());
        assert_eq!(
            refused(Login {
                will: Some(message(&foreign)),
                ..good
            }),
            Refusal::Will
        );
        let retained = Message {
            retain: true,
            ..message(&will_topic)
        };
        assert_eq!(
            refused(Login {
                will: Some(retained),
                ..good
            }),
            Refusal::Will
        );
        let later = now
            .checked_add(jiff::SignedDuration::from_mins(10))
            .expect("in range");
        assert!(matches!(
            verify_login(&good, &server, later),
            Err(Refusal::Token(_))
        ));
    }
}
