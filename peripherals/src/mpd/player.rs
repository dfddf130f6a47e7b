//! A jukebox as a player of the household's titles. What becomes of its own queue: see the folder's documentation.

use std::sync::LazyLock;
use std::time::Duration;

use mpd_client::protocol::Command;

use super::Jukebox;
use super::session::{Link, MpdError, command};
use super::wire::{self, Back, Single, Song, Status};
use crate::media::{
    MediaKind, Mute, PlayRequest, PlaybackStatus, RenderError, TransportState, Volume,
};

/// What every MPD build plays over HTTP.
static FORMATS: LazyLock<Vec<String>> = LazyLock::new(|| {
    [
        "audio/*",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
    ]
    .map(str::to_owned)
    .to_vec()
});
/// Loudness, percent, after unmuting a jukebox that was not muted from here.
const UNMUTED: u8 = 30;
/// Finds our titles in the queue.
const OURS: &str = r#"(file contains "mantel-back=")"#;

/// What this gateway did with the player, for as long as it is followed. Lost with the gateway; the queue's marks are
/// then all that is known.
#[derive(Debug, Default)]
pub(super) struct Playing {
    /// Id in the queue of what was loaded last.
    loaded: Option<u64>,
    /// Whether it was started.
    started: bool,
    /// Loudness before it was muted.
    loud: Option<u8>,
}

/// Who asks for the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The title came to its end: what played before goes on.
    ByItself,
    /// Somebody pressed stop: silence.
    ByHand,
    /// Somebody chose another song at the jukebox: it plays on.
    Elsewhere,
}

/// The player at one moment.
struct Scene {
    status: Status,
    /// Our titles in the queue, in its order.
    ours: Vec<Song>,
}

impl Scene {
    async fn look(link: &mut Link) -> Result<Self, MpdError> {
        let questions = [command("status", &[])?, command("playlistfind", &[OURS])?];
        let [status, ours] = link.ask(questions).await?;
        Ok(Self {
            status: wire::status(wire::fields(&status)).ok_or(MpdError::Missing("state"))?,
            ours: wire::rows(wire::fields(&ours)).songs(),
        })
    }

    fn current_id(&self) -> Option<u64> {
        self.status.song.map(|(_, id)| id)
    }

    /// The title of ours that is the current song.
    fn current(&self) -> Option<&Song> {
        let id = self.current_id()?;
        self.ours.iter().find(|song| song.id == Some(id))
    }

    /// What went on before our titles.
    fn back(&self) -> Option<Back> {
        let first = self.current().or(self.ours.first())?;
        Back::read(&first.file).map(|(_, back)| back)
    }

    fn is_last(&self, song: &Song) -> bool {
        self.ours
            .iter()
            .all(|other| other.position <= song.position)
    }
}

fn id_text(id: u64) -> String {
    id.to_string()
}

fn delete(songs: &[Song]) -> Result<Vec<Command>, MpdError> {
    let ids = songs.iter().filter_map(|song| song.id);
    ids.map(|id| command("deleteid", &[&id_text(id)])).collect()
}

impl Jukebox {
    fn note<T>(&self, change: impl FnOnce(&mut Playing) -> T) -> T {
        change(&mut self.playing.lock().expect("no holder of this lock panics"))
    }

    /// MIME types that every MPD plays.
    pub fn formats(&self) -> &[String] {
        FORMATS.as_slice()
    }

    /// Puts `what` into the queue after the current song; what plays goes on until [`Jukebox::play`].
    pub async fn load(&self, what: &PlayRequest) -> Result<(), RenderError> {
        self.only_sound(what)?;
        let loaded = async {
            let mut link = self.link().await?;
            let scene = Scene::look(&mut link).await?;
            let back = scene.back().unwrap_or_else(|| Back::of(&scene.status));
            let current = scene.current_id();
            let old: Vec<Song> = scene
                .ours
                .iter()
                .filter(|song| song.id != current)
                .cloned()
                .collect();
            link.exchange(delete(&old)?).await?;
            add_after_current(&mut link, &back.mark(&what.url), &what.title).await
        };
        let id = loaded.await.map_err(|error| self.render_error(error))?;
        self.note(|playing| {
            playing.loaded = Some(id);
            playing.started = false;
        });
        Ok(())
    }

    /// Puts `what` behind the title that plays.
    pub async fn load_next(&self, what: &PlayRequest) -> Result<(), RenderError> {
        self.only_sound(what)?;
        let loaded = async {
            let mut link = self.link().await?;
            let scene = Scene::look(&mut link).await?;
            let back = scene.back().unwrap_or_else(|| Back::of(&scene.status));
            let current = scene.current();
            let position = current.and_then(|song| song.position);
            let later: Vec<Song> = scene
                .ours
                .iter()
                .filter(|song| song.position > position)
                .cloned()
                .collect();
            link.exchange(delete(&later)?).await?;
            add_after_current(&mut link, &back.mark(&what.url), &what.title).await?;
            // It must not stop between the two; `status` sets it again for the last one.
            link.ask([command("single", &["0"])?]).await.map(drop)
        };
        loaded.await.map_err(|error| self.render_error(error))
    }

    /// Starts what was loaded, or resumes; where nothing of ours is in the queue, the jukebox's own song.
    pub async fn play(&self) -> Result<(), RenderError> {
        let loaded = self.note(|playing| playing.loaded);
        let started = async {
            let mut link = self.link().await?;
            let scene = Scene::look(&mut link).await?;
            let wanted = loaded
                .filter(|id| scene.ours.iter().any(|song| song.id == Some(*id)))
                .or_else(|| scene.ours.iter().filter_map(|song| song.id).max());
            match wanted {
                Some(id) if scene.current_id() == Some(id) || self.note(|p| p.started) => {
                    link.ask([resume(scene.status.state)?]).await.map(drop)
                }
                Some(id) => {
                    let others: Vec<Song> = scene
                        .ours
                        .into_iter()
                        .filter(|song| song.id != Some(id))
                        .collect();
                    let mut commands = vec![
                        command("repeat", &["0"])?,
                        command("single", &["oneshot"])?,
                        command("playid", &[&id_text(id)])?,
                    ];
                    commands.extend(delete(&others)?);
                    link.exchange(commands).await.map(drop)
                }
                None => link.ask([resume(scene.status.state)?]).await.map(drop),
            }
        };
        started.await.map_err(|error| self.render_error(error))?;
        self.note(|playing| playing.started = playing.loaded.is_some());
        Ok(())
    }

    /// Pauses.
    pub async fn pause(&self) -> Result<(), RenderError> {
        self.order("pause", &["1"]).await
    }

    /// Stops. After a title of ours the jukebox's own song is back at its place, paused if it had been playing.
    pub async fn stop(&self) -> Result<(), RenderError> {
        let stopped = async {
            let mut link = self.link().await?;
            let scene = Scene::look(&mut link).await?;
            if scene.ours.is_empty() {
                return link.ask([command("stop", &[])?]).await.map(drop);
            }
            go_back(&mut link, &scene, Ended::ByHand).await
        };
        stopped.await.map_err(|error| self.render_error(error))?;
        self.note(|playing| {
            playing.loaded = None;
            playing.started = false;
        });
        Ok(())
    }

    /// Goes to `position` in the current song.
    pub async fn seek(&self, position: Duration) -> Result<(), RenderError> {
        self.order("seekcur", &[&seconds(position)]).await
    }

    /// What it does. When a title of ours has come to its end, this is where the jukebox's own song is put back.
    pub async fn status(&self) -> Result<PlaybackStatus, RenderError> {
        self.report()
            .await
            .map_err(|error| self.render_error(error))
    }

    async fn report(&self) -> Result<PlaybackStatus, MpdError> {
        let mut link = self.link().await?;
        let scene = Scene::look(&mut link).await?;
        let started = self.note(|playing| playing.started);
        let status = &scene.status;
        let failed = status.error.is_some() && status.state != TransportState::Playing;
        let playing = scene.current().filter(|song| {
            // MPD takes "once" back when the song has ended: with a next song it is paused there, else stopped.
            let alone = scene.is_last(song) && status.single == Single::Off;
            !(started && alone && status.state != TransportState::Playing)
        });
        if let Some(song) = playing {
            if started && scene.is_last(song) && status.single == Single::Off {
                link.ask([command("single", &["oneshot"])?]).await?;
            }
            return Ok(PlaybackStatus {
                state: status.state,
                failed,
                position: status.elapsed,
                duration: status.duration,
                url: Back::read(&song.file).map(|(url, _)| url.to_owned()),
            });
        }
        if started {
            if !scene.ours.is_empty() {
                // At a title's end MPD waits, because it was told to stop once.
                let ended = if status.state == TransportState::Playing {
                    Ended::Elsewhere
                } else {
                    Ended::ByItself
                };
                go_back(&mut link, &scene, ended).await?;
            }
            self.note(|playing| {
                playing.started = false;
                playing.loaded = None;
            });
        }
        // Its own song, or none: for those who follow a title of ours that title is over.
        let idle = started || scene.status.song.is_none();
        Ok(PlaybackStatus {
            state: if started {
                TransportState::Stopped
            } else if idle {
                TransportState::NoMedia
            } else {
                status.state
            },
            failed,
            position: status.elapsed.filter(|_| !idle),
            duration: status.duration.filter(|_| !idle),
            url: None,
        })
    }

    /// How loud it is.
    pub async fn volume(&self) -> Result<Volume, RenderError> {
        let asked = async {
            let [frame] = self.link().await?.ask([command("status", &[])?]).await?;
            wire::status(wire::fields(&frame)).ok_or(MpdError::Missing("state"))
        };
        let status = asked.await.map_err(|error| self.render_error(error))?;
        status
            .volume
            .map(Volume::percent)
            .ok_or_else(|| self.unsupported())
    }

    /// Sets how loud it is.
    pub async fn set_volume(&self, volume: Volume) -> Result<(), RenderError> {
        self.order("setvol", &[&volume.as_percent().to_string()])
            .await
    }

    /// Whether it is silenced: MPD knows no mute, so its volume is 0.
    pub async fn mute(&self) -> Result<Mute, RenderError> {
        Ok(match self.volume().await?.as_percent() {
            0 => Mute::On,
            _ => Mute::Off,
        })
    }

    /// Volume 0, or back to what it was.
    pub async fn set_mute(&self, mute: Mute) -> Result<(), RenderError> {
        let now = self.volume().await?.as_percent();
        match (mute, now) {
            (Mute::On, 0) => Ok(()),
            (Mute::On, loud) => {
                self.note(|playing| playing.loud = Some(loud));
                self.set_volume(Volume::percent(0)).await
            }
            (Mute::Off, 0) => {
                let loud = self.note(|playing| playing.loud.take()).unwrap_or(UNMUTED);
                self.set_volume(Volume::percent(loud)).await
            }
            (Mute::Off, _) => Ok(()),
        }
    }

    /// Sends one command whose answer says nothing.
    pub(super) async fn order(
        &self,
        word: &'static str,
        arguments: &[&str],
    ) -> Result<(), RenderError> {
        let sent = async {
            let order = command(word, arguments)?;
            self.link().await?.ask([order]).await.map(drop)
        };
        sent.await.map_err(|error| self.render_error(error))
    }

    fn only_sound(&self, what: &PlayRequest) -> Result<(), RenderError> {
        match what.kind {
            MediaKind::Audio => Ok(()),
            MediaKind::Image | MediaKind::Video | MediaKind::Data => Err(RenderError::Format {
                device: self.name.clone(),
                source: "a jukebox plays sound only".into(),
            }),
        }
    }

    fn unsupported(&self) -> RenderError {
        RenderError::Unsupported {
            device: self.name.clone(),
        }
    }

    /// MPD's error codes in words (`src/protocol/Ack.hxx`).
    pub(super) fn render_error(&self, error: MpdError) -> RenderError {
        let device = self.name.clone();
        let source = error;
        if source.is_unreachable() {
            return RenderError::Unreachable {
                device,
                source: source.into(),
            };
        }
        match source.code() {
            // unknown command
            Some(5) => RenderError::Unsupported { device },
            // no such song, player out of step
            Some(50 | 55) => RenderError::NotNow {
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

/// The command that lets the current song sound.
fn resume(state: TransportState) -> Result<Command, MpdError> {
    if state == TransportState::Paused {
        command("pause", &["0"])
    } else {
        command("play", &[])
    }
}

fn seconds(position: Duration) -> String {
    format!("{:.3}", position.as_secs_f64())
}

/// Adds `url` behind the current song (at the end where there is none), with a title to show, and returns its id.
async fn add_after_current(link: &mut Link, url: &str, title: &str) -> Result<u64, MpdError> {
    let [frame] = link.ask([command("status", &[])?]).await?;
    let status = wire::status(wire::fields(&frame)).ok_or(MpdError::Missing("state"))?;
    let position = status
        .song
        .map_or(status.length, |(position, _)| position.saturating_add(1));
    let [added] = link
        .ask([command("addid", &[url, &position.to_string()])?])
        .await?;
    let id = wire::fields(&added)
        .find(|(key, _)| *key == "Id")
        .and_then(|(_, id)| id.parse().ok())
        .ok_or(MpdError::Missing("song id"))?;
    // Only for show on its other remote controls: some MPDs refuse it.
    let label = crate::device::clean_label(title, wire::MAX_TEXT_CHARS).unwrap_or_default();
    if !label.is_empty() {
        let named = link
            .ask([command("addtagid", &[&id_text(id), "Title", &label])?])
            .await;
        if let Err(error @ (MpdError::Broken(_) | MpdError::TimedOut(_))) = named {
            return Err(error);
        }
    }
    Ok(id)
}

/// Takes our titles out of the queue and puts what played before back to its place.
async fn go_back(link: &mut Link, scene: &Scene, ended: Ended) -> Result<(), MpdError> {
    let back = scene.back();
    let mut commands = delete(&scene.ours)?;
    if ended != Ended::Elsewhere {
        commands.insert(0, command("stop", &[])?);
    }
    let single = if back.is_some_and(|back| back.single) {
        "1"
    } else {
        "0"
    };
    let repeat = if back.is_some_and(|back| back.repeat) {
        "1"
    } else {
        "0"
    };
    commands.push(command("single", &[single])?);
    commands.push(command("repeat", &[repeat])?);
    link.exchange(commands).await?;
    let Some(back) = back.filter(|_| ended != Ended::Elsewhere) else {
        return Ok(());
    };
    let (Some(song), true) = (
        back.song,
        matches!(back.state, TransportState::Playing | TransportState::Paused),
    ) else {
        return Ok(());
    };
    let silent = ended == Ended::ByHand || back.state == TransportState::Paused;
    let mut commands = vec![command(
        "seekid",
        &[&id_text(song), &seconds(back.elapsed)],
    )?];
    if silent {
        commands.push(command("pause", &["1"])?);
    }
    match link.exchange(commands).await {
        // The household took it out of the queue meanwhile.
        Err(MpdError::Refused { .. }) => Ok(()),
        done => done.map(drop),
    }
}
