//! A jukebox playing from its own library: queue, next, previous, outputs.

use super::Jukebox;
use super::session::{MpdError, command};
use super::source::Object;
use super::wire::{self, Back, Status};
use crate::media::{ObjectId, RenderError, TransportState};

/// Most songs of the queue that are shown: those around the current one.
pub const QUEUE_SHOWN: u32 = 60;
/// How many of them come before the current one.
const QUEUE_BEFORE: u32 = 10;

/// A song in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// Its id, for [`Jukebox::play_queued`].
    pub id: u64,
    /// Its position, from 0.
    pub position: u32,
    /// Its title.
    pub title: String,
    /// Its artist.
    pub artist: Option<String>,
    /// Whether it is the current one.
    pub current: bool,
    /// Whether it is a title that this home's gateway put there.
    pub ours: bool,
}

/// What a jukebox is about to play.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// What it does.
    pub state: TransportState,
    /// How many songs the queue has.
    pub length: u32,
    /// The songs around the current one, at most [`QUEUE_SHOWN`].
    pub entries: Vec<QueueEntry>,
}

/// A loudspeaker, or a stream, of the jukebox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Whether it sounds.
    pub on: bool,
}

impl Jukebox {
    /// The queue around the current song.
    pub async fn queue(&self) -> Result<Queue, RenderError> {
        self.read_queue()
            .await
            .map_err(|error| self.render_error(error))
    }

    async fn read_queue(&self) -> Result<Queue, MpdError> {
        let mut link = self.link().await?;
        let [frame] = link.ask([command("status", &[])?]).await?;
        let status: Status =
            wire::status(wire::fields(&frame)).ok_or(MpdError::Missing("state"))?;
        let from = status
            .song
            .map_or(0, |(position, _)| position.saturating_sub(QUEUE_BEFORE));
        let range = format!("{from}:{}", from.saturating_add(QUEUE_SHOWN));
        let [frame] = link.ask([command("playlistinfo", &[&range])?]).await?;
        let current = status.song.map(|(_, id)| id);
        let songs = wire::rows(wire::fields(&frame)).songs();
        let entries = songs
            .into_iter()
            .take(QUEUE_SHOWN as usize)
            .filter_map(|song| {
                Some(QueueEntry {
                    id: song.id?,
                    position: song.position?,
                    title: song.shown(),
                    current: song.id == current,
                    ours: Back::read(&song.file).is_some(),
                    artist: song.artist,
                })
            });
        Ok(Queue {
            state: status.state,
            length: status.length,
            entries: entries.collect(),
        })
    }

    /// Plays something of its own library. A song comes after the current one; a folder, an album or a playlist is
    /// put at the end. The rest of the queue stays.
    pub async fn play_own(&self, id: &ObjectId) -> Result<(), RenderError> {
        let Some(object) = Object::of(id) else {
            return Err(RenderError::Unsupported {
                device: self.name.clone(),
            });
        };
        self.add_and_play(&object)
            .await
            .map_err(|error| self.render_error(error))
    }

    async fn add_and_play(&self, object: &Object<'_>) -> Result<(), MpdError> {
        let mut link = self.link().await?;
        let [frame] = link.ask([command("status", &[])?]).await?;
        let status = wire::status(wire::fields(&frame)).ok_or(MpdError::Missing("state"))?;
        let end = status.length;
        let (add, first) = match object {
            Object::Song(path) => {
                let place = status.song.map_or(end, |(at, _)| at.saturating_add(1));
                (command("addid", &[path, &place.to_string()])?, place)
            }
            Object::Root | Object::Albums => (command("add", &["/"])?, end),
            Object::Folder(path) => (command("add", &[path])?, end),
            Object::Playlist(name) => (command("load", &[name])?, end),
            Object::Album { .. } => (command("findadd", &[&object.filter()])?, end),
        };
        let play = command("play", &[&first.to_string()])?;
        link.ask([add, play]).await.map(drop)
    }

    /// Plays a song of the queue.
    pub async fn play_queued(&self, id: u64) -> Result<(), RenderError> {
        self.order("playid", &[&id.to_string()]).await
    }

    /// Goes to the next song of the queue.
    pub async fn next(&self) -> Result<(), RenderError> {
        self.order("next", &[]).await
    }

    /// Goes to the song before.
    pub async fn previous(&self) -> Result<(), RenderError> {
        self.order("previous", &[]).await
    }

    /// Its loudspeakers and streams.
    pub async fn outputs(&self) -> Result<Vec<Output>, RenderError> {
        let asked = async { self.link().await?.ask([command("outputs", &[])?]).await };
        let [frame] = asked.await.map_err(|error| self.render_error(error))?;
        let found = wire::outputs(wire::fields(&frame)).into_iter();
        Ok(found
            .map(|(id, name, on)| Output { id, name, on })
            .collect())
    }

    /// Turns an output on.
    pub async fn enable_output(&self, id: u32) -> Result<(), RenderError> {
        self.order("enableoutput", &[&id.to_string()]).await
    }

    /// Turns an output off.
    pub async fn disable_output(&self, id: u32) -> Result<(), RenderError> {
        self.order("disableoutput", &[&id.to_string()]).await
    }
}
