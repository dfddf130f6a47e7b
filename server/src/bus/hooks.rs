//! The broker's hooks: they ask [`super::acl`] and report to [`Presence`].

use super::BusEvent;
use super::acl::{Login, Message, Refusal, may_publish, may_subscribe, verify_login};
use super::presence::Presence;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use mantel_protocol::bus::{self as wire, cmd_topic, ev_topic};
use mantel_protocol::key::{DeviceId, ServerKey};
use mantel_runtime::clock::Clock;
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::hook::{Handler, HookResult, Parameter, Register, ReturnType, Type};
use rmqtt::session::Session;
use rmqtt::types::{
    AuthResult, ConnectInfo, FromType, Publish, PublishAclResult, Reason, Subscribe,
    SubscribeReturn,
};
use std::sync::Arc;
use tracing::{debug, info};

/// Whether a device is enrolled and its account known.
pub(super) type Admit = Arc<dyn Fn(DeviceId) -> BoxFuture<'static, bool> + Send + Sync>;

/// What all hooks share.
#[derive(Clone)]
pub(super) struct Hooks {
    pub(super) server: ServerKey,
    pub(super) clock: Clock,
    pub(super) admit: Admit,
    pub(super) presence: Presence,
}

impl Hooks {
    /// Hangs every hook in.
    pub(super) async fn register(self, register: &dyn Register) {
        for kind in [
            Type::ClientAuthenticate,
            Type::ClientSubscribeCheckAcl,
            Type::SessionSubscribed,
            Type::MessagePublishCheckAcl,
            Type::MessagePublish,
            Type::ClientDisconnected,
        ] {
            register.add(kind, Box::new(self.clone())).await;
        }
        register.start().await;
    }

    async fn authenticate(&self, connect: &ConnectInfo) -> Result<DeviceId, Refusal> {
        // Version 3 has no session expiry and no reason codes; gateways speak 5.
        let ConnectInfo::V5(id, connect) = connect else {
            return Err(Refusal::Session);
        };
        let login = Login {
            client: &id.client_id,
            user: connect.username.as_deref(),
            password: connect.password.as_deref(),
            clean: connect.clean_start && connect.session_expiry_interval_secs == 0,
            will: connect.last_will.as_ref().map(|will| Message {
                topic: &will.topic,
                bytes: will.message.len(),
                qos: will.qos.value(),
                retain: will.retain,
            }),
        };
        let device = verify_login(&login, &self.server, self.clock.now())?;
        if (self.admit)(device).await {
            Ok(device)
        } else {
            Err(Refusal::Unknown)
        }
    }

    fn check_subscription(session: &Session, subscribe: &Subscribe) -> SubscribeReturn {
        match device_of(session) {
            Some(device) if may_subscribe(&device, &subscribe.topic_filter) => {
                SubscribeReturn::new_success(subscribe.opts.qos(), None)
            }
            _ => {
                info!(client = %session.id.client_id, "a subscription was refused");
                SubscribeReturn::new_failure(SubscribeAckReason::NotAuthorized)
            }
        }
    }

    async fn check_publish(&self, session: &Session, publish: &Publish) -> PublishAclResult {
        let message = Message {
            topic: &publish.topic,
            bytes: publish.payload.len(),
            qos: publish.qos.value(),
            retain: publish.retain,
        };
        match device_of(session) {
            Some(device) if may_publish(&device, &message) => {
                self.take(device, session, publish).await;
                PublishAclResult::allow()
            }
            _ => {
                info!(client = %session.id.client_id, "a message was refused and its sender disconnected");
                PublishAclResult::rejected(true, None)
            }
        }
    }

    /// Acts on what a device may say; what cannot be read is left alone, for a newer gateway may say more.
    async fn take(&self, device: DeviceId, session: &Session, publish: &Publish) {
        if *publish.topic == *ev_topic(&device) {
            if let Ok(wire::Event::Progress {
                delivery,
                order,
                bytes_done,
            }) = serde_json::from_slice(&publish.payload)
            {
                self.presence.progress(BusEvent::Progress {
                    device,
                    delivery,
                    order,
                    bytes_done,
                });
            }
        } else if let Ok(wire::Presence { online: false }) =
            serde_json::from_slice(&publish.payload)
        {
            self.presence.left(device, &session.id).await;
        }
    }

    async fn last_will(&self, session: &Session) {
        let taken_over = session
            .disconnected_reason()
            .await
            .is_ok_and(|reason| is_take_over(&reason));
        if let (Some(device), false) = (device_of(session), taken_over) {
            self.presence.left(device, &session.id).await;
        }
    }

    async fn disconnected(&self, session: &Session, reason: &Reason) {
        debug!(client = %session.id.client_id, %reason, "disconnected");
        let Some(device) = device_of(session) else {
            return;
        };
        if is_take_over(reason) {
            self.presence.taken_over(device, session.id.clone());
        } else {
            self.presence.left(device, &session.id).await;
        }
    }
}

/// Whether a connection ended because the same device logged in anew.
fn is_take_over(reason: &Reason) -> bool {
    match reason {
        Reason::Reasons(reasons) => reasons.iter().any(is_take_over),
        reason => reason.is_kicked(false),
    }
}

/// The device of a session; it was verified when the client logged in.
fn device_of(session: &Session) -> Option<DeviceId> {
    session.id.client_id.parse().ok()
}

#[async_trait]
impl Handler for Hooks {
    async fn hook(&self, parameter: &Parameter, before: Option<HookResult>) -> ReturnType {
        match parameter {
            Parameter::ClientAuthenticate(connect) => {
                let result = match self.authenticate(connect).await {
                    Ok(_) => AuthResult::Allow(false, None),
                    Err(refusal) => {
                        info!(client = %connect.client_id(), %refusal, "a log-in was refused");
                        AuthResult::NotAuthorized
                    }
                };
                (false, Some(HookResult::AuthResult(result)))
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => (
                false,
                Some(HookResult::SubscribeAclResult(Self::check_subscription(
                    session, subscribe,
                ))),
            ),
            Parameter::SessionSubscribed(session, subscribe) => {
                if let Some(device) =
                    device_of(session).filter(|d| *subscribe.topic_filter == *cmd_topic(d))
                {
                    self.presence.arrived(device, session.id.clone()).await;
                }
                (true, before)
            }
            Parameter::MessagePublishCheckAcl(session, publish) => {
                let result = self.check_publish(session, publish).await;
                (false, Some(HookResult::PublishAclResult(result)))
            }
            Parameter::MessagePublish(Some(session), from, _)
                if matches!(from.typ(), FromType::LastWill) =>
            {
                self.last_will(session).await;
                (true, before)
            }
            Parameter::ClientDisconnected(session, reason) => {
                self.disconnected(session, reason).await;
                (true, before)
            }
            _ => (true, before),
        }
    }
}
