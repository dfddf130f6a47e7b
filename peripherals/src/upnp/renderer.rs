//! A UPnP AV media renderer as a player (UPnP AVTransport:1, RenderingControl:1; F63).

use std::sync::Arc;
use std::time::Duration;

use super::RendererAccess;
use super::didl::describe_for_renderer;
use super::gena::{self, Topic};
use super::session::{Arguments, CallError, call};
use super::wire::{Service, format_time, parse_time};
use crate::changes::Changes;
use crate::media::{Mute, PlayRequest, PlaybackStatus, RenderError, TransportState, Volume};

/// The one instance that renderers without PrepareForConnection have.
const INSTANCE: (&str, &str) = ("InstanceID", "0");
/// The channel that means all of them.
const MASTER: (&str, &str) = ("Channel", "Master");

/// One renderer. Cheap to clone; holds no connection.
#[derive(Clone, Debug)]
pub struct MediaRenderer {
    name: String,
    access: Arc<RendererAccess>,
}

impl MediaRenderer {
    /// A renderer that was described; `name` is for messages.
    pub fn new(name: String, access: RendererAccess) -> Self {
        Self {
            name,
            access: Arc::new(access),
        }
    }

    /// The name that it gives itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// MIME types that it says it plays; empty when it did not tell.
    pub fn formats(&self) -> &[String] {
        &self.access.formats
    }

    /// Loads `what` (SetAVTransportURI, §2.4.1).
    pub async fn load(&self, what: &PlayRequest) -> Result<(), RenderError> {
        let metadata = describe_for_renderer(what);
        let arguments = [
            ("CurrentURI", what.url.as_str()),
            ("CurrentURIMetaData", &metadata),
        ];
        self.transport("SetAVTransportURI", &arguments)
            .await
            .map(drop)
    }

    /// Sets what plays after the current title (SetNextAVTransportURI, §2.4.2; optional there).
    pub async fn load_next(&self, what: &PlayRequest) -> Result<(), RenderError> {
        let metadata = describe_for_renderer(what);
        let arguments = [
            ("NextURI", what.url.as_str()),
            ("NextURIMetaData", &metadata),
        ];
        self.transport("SetNextAVTransportURI", &arguments)
            .await
            .map(drop)
    }

    /// Starts or resumes (Play, §2.4.9).
    pub async fn play(&self) -> Result<(), RenderError> {
        self.transport("Play", &[("Speed", "1")]).await.map(drop)
    }

    /// Pauses (Pause, §2.4.10).
    pub async fn pause(&self) -> Result<(), RenderError> {
        self.transport("Pause", &[]).await.map(drop)
    }

    /// Stops (Stop, §2.4.8).
    pub async fn stop(&self) -> Result<(), RenderError> {
        self.transport("Stop", &[]).await.map(drop)
    }

    /// Goes to `position` (Seek by REL_TIME, §2.4.12).
    pub async fn seek(&self, position: Duration) -> Result<(), RenderError> {
        let target = format_time(position);
        self.transport("Seek", &[("Unit", "REL_TIME"), ("Target", &target)])
            .await
            .map(drop)
    }

    /// What it does now (GetTransportInfo and GetPositionInfo, §2.4.5 and §2.4.6).
    pub async fn status(&self) -> Result<PlaybackStatus, RenderError> {
        let transport = self.transport("GetTransportInfo", &[]).await?;
        let position = self.transport("GetPositionInfo", &[]).await?;
        let state = transport
            .text("CurrentTransportState")
            .map_err(|e| self.render_error(e))?;
        let time = |name| position.text(name).ok().and_then(parse_time);
        Ok(PlaybackStatus {
            state: transport_state(state),
            failed: transport
                .text("CurrentTransportStatus")
                .is_ok_and(|s| s == "ERROR_OCCURRED"),
            position: time("RelTime"),
            duration: time("TrackDuration").filter(|duration| !duration.is_zero()),
            url: position
                .text("TrackURI")
                .ok()
                .filter(|url| is_url(url))
                .map(str::to_owned),
        })
    }

    /// How loud it is (GetVolume).
    pub async fn volume(&self) -> Result<Volume, RenderError> {
        let answer = self.rendering("GetVolume", &[MASTER]).await?;
        let level: u32 = answer
            .text("CurrentVolume")
            .and_then(|text| text.parse().map_err(|_| CallError::Missing("a volume")))
            .map_err(|error| self.render_error(error))?;
        let max = u32::from(self.access.volume_max);
        Ok(Volume::percent(
            ((level.min(max) * 100 + max / 2) / max) as u8,
        ))
    }

    /// Sets how loud it is (SetVolume), scaled to its own range.
    pub async fn set_volume(&self, volume: Volume) -> Result<(), RenderError> {
        let max = u32::from(self.access.volume_max);
        let level = (u32::from(volume.as_percent()) * max + 50) / 100;
        self.rendering(
            "SetVolume",
            &[MASTER, ("DesiredVolume", &level.to_string())],
        )
        .await
        .map(drop)
    }

    /// Whether it is silenced (GetMute).
    pub async fn mute(&self) -> Result<Mute, RenderError> {
        let answer = self.rendering("GetMute", &[MASTER]).await?;
        let text = answer
            .text("CurrentMute")
            .map_err(|error| self.render_error(error))?;
        Ok(if matches!(text, "1" | "true" | "yes") {
            Mute::On
        } else {
            Mute::Off
        })
    }

    /// Silences it or not (SetMute).
    pub async fn set_mute(&self, mute: Mute) -> Result<(), RenderError> {
        let wanted = match mute {
            Mute::On => "1",
            Mute::Off => "0",
        };
        self.rendering("SetMute", &[MASTER, ("DesiredMute", wanted)])
            .await
            .map(drop)
    }

    /// What it tells of itself (§2.3.1).
    pub fn changes(&self) -> Changes {
        let mut services = vec![(Topic::Transport, self.access.av_transport.clone())];
        let rendering = self.access.rendering_control.clone();
        services.extend(rendering.map(|service| (Topic::Rendering, service)));
        gena::follow(self.access.address, services)
    }

    async fn transport(
        &self,
        action: &str,
        arguments: &[(&str, &str)],
    ) -> Result<Arguments, RenderError> {
        self.invoke(&self.access.av_transport, action, arguments)
            .await
    }

    async fn rendering(
        &self,
        action: &str,
        arguments: &[(&str, &str)],
    ) -> Result<Arguments, RenderError> {
        match &self.access.rendering_control {
            Some(service) => self.invoke(service, action, arguments).await,
            None => Err(RenderError::Unsupported {
                device: self.name.clone(),
            }),
        }
    }

    async fn invoke(
        &self,
        service: &Service,
        action: &str,
        arguments: &[(&str, &str)],
    ) -> Result<Arguments, RenderError> {
        let all = [&[INSTANCE][..], arguments].concat();
        call(service, action, &all)
            .await
            .map_err(|error| self.render_error(error))
    }

    /// UPnP error codes in words (UPnP Device Architecture 2.0 §3.2.3, AVTransport:1 §2.4).
    fn render_error(&self, source: CallError) -> RenderError {
        let device = self.name.clone();
        if source.is_unreachable() {
            return RenderError::Unreachable {
                device,
                source: source.into(),
            };
        }
        match source.code() {
            // invalid action, optional action not implemented, seek mode / play mode / speed not supported
            Some(401 | 602 | 710 | 712 | 717) => RenderError::Unsupported { device },
            // format not supported for playback, illegal MIME type
            Some(704 | 714) => RenderError::Format {
                device,
                source: source.into(),
            },
            // read error, resource not found
            Some(703 | 716) => RenderError::MediaUnreachable {
                device,
                source: source.into(),
            },
            // transition not available, no contents, transport locked, illegal seek target, content busy
            Some(701 | 702 | 705 | 711 | 715) => RenderError::NotNow {
                device,
                source: source.into(),
            },
            _ => RenderError::Refused {
                device,
                source: source.into(),
            },
        }
    }
}

/// §2.2.1; vendors add words.
fn transport_state(text: &str) -> TransportState {
    match text {
        "STOPPED" => TransportState::Stopped,
        "PLAYING" => TransportState::Playing,
        "TRANSITIONING" => TransportState::Transitioning,
        "PAUSED_PLAYBACK" => TransportState::Paused,
        "NO_MEDIA_PRESENT" => TransportState::NoMedia,
        "RECORDING" | "PAUSED_RECORDING" => TransportState::Recording,
        _ => TransportState::Other,
    }
}

fn is_url(text: &str) -> bool {
    !text.is_empty() && text != "NOT_IMPLEMENTED" && text.len() <= crate::url::MAX_URL_BYTES
}
