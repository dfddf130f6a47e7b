//! The tree that players browse: containers and items by their object ids; pure.
//!
//! ```text
//! 0                     music · pictures · videos · homes
//! music                 music.artists  music.albums  music.all
//! music.artists         artist.<row> ...        music.albums     album.<row> ...
//! pictures, videos      pictures.all  pictures.202611 ...  pictures.0 (month not known)
//! homes                 home.<row> ...
//! ```
//! A title is `i<row>` below the list of all of its kind; elsewhere it is `<container>/i<row>` and refers to `i<row>`.

use crate::library::shelf::{Groups, Shelf, Slot};
use mantel_protocol::manifest::MediaKind;
use std::fmt;

/// A container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    /// The top.
    Root,
    /// Artists, albums and all music.
    Music,
    /// A list of groups: artists, albums, homes.
    Groups(Groups),
    /// All pictures or videos, and their months.
    Dated(MediaKind),
    /// A list of titles.
    List(Shelf),
    /// Says how a player is let in; all that a player sees that nobody let in.
    LetIn,
}

/// An object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// A container.
    Container(Container),
    /// A title, in a container; none: in that of all of its kind.
    Item(Option<Container>, Slot),
}

impl Container {
    /// The container above; `None` for the top.
    pub fn parent(self) -> Option<Self> {
        Some(match self {
            Self::Root => return None,
            Self::Music | Self::Dated(_) | Self::Groups(Groups::Homes) | Self::LetIn => Self::Root,
            Self::Groups(Groups::Artists | Groups::Albums)
            | Self::List(Shelf::Kind(MediaKind::Audio | MediaKind::Data)) => Self::Music,
            Self::Groups(Groups::Months(kind))
            | Self::List(Shelf::Kind(kind) | Shelf::Month(kind, _)) => Self::Dated(kind),
            Self::List(Shelf::Artist(_)) => Self::Groups(Groups::Artists),
            Self::List(Shelf::Album(_)) => Self::Groups(Groups::Albums),
            Self::List(Shelf::Home(_)) => Self::Groups(Groups::Homes),
        })
    }

    /// The list that is one group of a list of groups.
    pub fn of_group(groups: Groups, key: u32) -> Self {
        Self::List(match groups {
            Groups::Artists => Shelf::Artist(key),
            Groups::Albums => Shelf::Album(key),
            Groups::Homes => Shelf::Home(key),
            Groups::Months(kind) => Shelf::Month(kind, key),
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let kind = |word: &str| match word {
            "pictures" => Some(MediaKind::Image),
            "videos" => Some(MediaKind::Video),
            _ => None,
        };
        Some(match text {
            "0" => Self::Root,
            "music" => Self::Music,
            "music.artists" => Self::Groups(Groups::Artists),
            "music.albums" => Self::Groups(Groups::Albums),
            "music.all" => Self::List(Shelf::Kind(MediaKind::Audio)),
            "homes" => Self::Groups(Groups::Homes),
            "let-in" => Self::LetIn,
            _ => {
                if let Some(kind) = kind(text) {
                    return Some(Self::Dated(kind));
                }
                let (word, key) = text.split_once('.')?;
                if let Some(kind) = kind(word) {
                    return Some(Self::List(match key {
                        "all" => Shelf::Kind(kind),
                        month => Shelf::Month(kind, number(month)?),
                    }));
                }
                Self::List(match word {
                    "artist" => Shelf::Artist(number(key)?),
                    "album" => Shelf::Album(number(key)?),
                    "home" => Shelf::Home(number(key)?),
                    _ => return None,
                })
            }
        })
    }
}

fn number(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dated = |kind: &MediaKind| match kind {
            MediaKind::Video => "videos",
            _ => "pictures",
        };
        match self {
            Self::Root => f.write_str("0"),
            Self::Music => f.write_str("music"),
            Self::Groups(Groups::Artists) => f.write_str("music.artists"),
            Self::Groups(Groups::Albums) => f.write_str("music.albums"),
            Self::Groups(Groups::Homes) => f.write_str("homes"),
            Self::Groups(Groups::Months(kind)) | Self::Dated(kind) => f.write_str(dated(kind)),
            Self::List(Shelf::Kind(MediaKind::Audio | MediaKind::Data)) => f.write_str("music.all"),
            Self::List(Shelf::Kind(kind)) => write!(f, "{}.all", dated(kind)),
            Self::List(Shelf::Month(kind, month)) => write!(f, "{}.{month}", dated(kind)),
            Self::List(Shelf::Artist(slot)) => write!(f, "artist.{slot}"),
            Self::List(Shelf::Album(slot)) => write!(f, "album.{slot}"),
            Self::List(Shelf::Home(slot)) => write!(f, "home.{slot}"),
            Self::LetIn => f.write_str("let-in"),
        }
    }
}

impl Object {
    /// Reads an object id; `None`: there is none like it.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((container, item)) = text.split_once('/') {
            let slot = number(item.strip_prefix('i')?)?;
            return Some(Self::Item(Some(Container::parse(container)?), slot));
        }
        if let Some(slot) = text.strip_prefix('i').and_then(number) {
            return Some(Self::Item(None, slot));
        }
        Container::parse(text).map(Self::Container)
    }
}

/// The container in which a title of a kind has its own id.
pub fn home_of(kind: MediaKind) -> Container {
    Container::List(Shelf::Kind(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_container_has_an_id_and_a_way_up() {
        let kinds = [MediaKind::Image, MediaKind::Video];
        let mut all = vec![
            Container::Root,
            Container::Music,
            Container::LetIn,
            Container::Groups(Groups::Artists),
            Container::Groups(Groups::Albums),
            Container::Groups(Groups::Homes),
            Container::List(Shelf::Kind(MediaKind::Audio)),
            Container::List(Shelf::Artist(7)),
            Container::List(Shelf::Album(7)),
            Container::List(Shelf::Home(7)),
        ];
        for kind in kinds {
            all.extend([
                Container::Dated(kind),
                Container::List(Shelf::Kind(kind)),
                Container::List(Shelf::Month(kind, 202_611)),
                Container::List(Shelf::Month(kind, 0)),
            ]);
        }
        for container in all {
            let id = container.to_string();
            assert_eq!(
                Object::parse(&id),
                Some(Object::Container(container)),
                "{id}"
            );
            let item = format!("{id}/i12");
            assert_eq!(
                Object::parse(&item),
                Some(Object::Item(Some(container), 12))
            );
            let steps = std::iter::successors(Some(container), |at| at.parent()).count();
            assert!((1..=4).contains(&steps), "{id}");
        }
        assert_eq!(Object::parse("i12"), Some(Object::Item(None, 12)));
        for text in [
            "",
            "i",
            "i-1",
            "i99999999999",
            "artist.",
            "x/i1",
            "music/1",
            "pictures.x",
            "1",
        ] {
            assert_eq!(Object::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_ids_never_panic(text: String, near in "[a-z0-9./-]{0,20}") {
            let _ = Object::parse(&text);
            let _ = Object::parse(&near);
        }
    }
}
