//! The titles: all of them, those that fit a filter, and those of a page; pages read what they show, not all of the
//! library (F26).

use super::{ImportProgress, Library, LibraryError, Origin, Title, TitleState, store};
use mantel_protocol::ids::TitleId;
use mantel_protocol::manifest::MediaKind;
use mantel_runtime::db::DbError;
use rusqlite::Connection;

/// Which titles are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of this kind only.
    pub kind: Option<MediaKind>,
    /// With this in their name, in upper or lower case.
    pub name: String,
}

/// A title that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: TitleId,
    /// What it is.
    pub kind: MediaKind,
    /// Whether it is whole; else it is being imported or arriving.
    pub ready: bool,
}

/// What [`Library::matching`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matches {
    /// The titles that are wanted, in the order of [`Library::list`].
    pub found: Vec<Found>,
    /// How many titles there are, wanted or not.
    pub all: usize,
}

impl Matches {
    pub(super) fn take(&mut self, wanted: &Wanted, name: &str, title: Found) {
        self.all += 1;
        let fits = wanted.kind.is_none_or(|kind| kind == title.kind)
            && (wanted.name.is_empty() || name.to_lowercase().contains(&wanted.name));
        if fits {
            self.found.push(title);
        }
    }
}

impl Library {
    /// All titles, newest first; those being imported before the others.
    pub async fn list(&self) -> Result<Vec<Title>, LibraryError> {
        let stored = self
            .inner
            .db
            .read(|db| Ok::<_, DbError>(store::list(db)?))
            .await?;
        let mut titles = self.importing(|id| !stored.iter().any(|title| title.id == id));
        titles.extend(stored);
        Ok(titles)
    }

    /// The titles that are wanted; [`Library::titles`] has a page of them.
    pub async fn matching(&self, wanted: Wanted) -> Result<Matches, LibraryError> {
        let wanted = Wanted {
            name: wanted.name.to_lowercase(),
            ..wanted
        };
        let importing = self.importing(|_| true);
        let read = move |db: &Connection| {
            let mut matches = Matches::default();
            for title in importing {
                if !store::is_there(db, title.id)? {
                    let found = Found {
                        id: title.id,
                        kind: title.kind,
                        ready: false,
                    };
                    matches.take(&wanted, &title.name, found);
                }
            }
            store::matching(db, &wanted, &mut matches)?;
            Ok::<_, DbError>(matches)
        };
        Ok(self.inner.db.read(read).await?)
    }

    /// These titles, without those that are not here.
    pub async fn titles(&self, ids: &[TitleId]) -> Result<Vec<Title>, LibraryError> {
        let wanted = ids.to_vec();
        let read = move |db: &Connection| {
            let found = wanted.iter().map(|id| store::title(db, *id));
            Ok::<_, DbError>(found.collect::<rusqlite::Result<Vec<_>>>()?)
        };
        let stored = self.inner.db.read(read).await?;
        let importing = self.importing(|id| ids.contains(&id));
        let each = ids.iter().zip(stored).map(|(id, stored)| {
            stored.or_else(|| importing.iter().find(|title| title.id == *id).cloned())
        });
        Ok(each.flatten().collect())
    }

    /// One title.
    pub async fn title(&self, id: TitleId) -> Result<Option<Title>, LibraryError> {
        Ok(self.titles(&[id]).await?.pop())
    }

    /// How many titles there are and how much of them is stored, sealed, bytes.
    pub async fn totals(&self) -> Result<(u64, u64), LibraryError> {
        let read = |db: &Connection| Ok::<_, DbError>(store::totals(db)?);
        Ok(self.inner.db.read(read).await?)
    }

    /// The titles that are being imported, newest first.
    fn importing(&self, which: impl Fn(TitleId) -> bool) -> Vec<Title> {
        let rows = self.inner.progress.rows();
        let running = rows.iter().rev().filter(|row| !row.phase.is_over());
        let title = |row: &ImportProgress| Title {
            id: row.title,
            name: row.name.clone(),
            kind: MediaKind::Data,
            origin: Origin::Own {
                device: row.device.clone(),
            },
            state: TitleState::Importing,
            recorded: None,
            added: self.inner.clock.now(),
            assets: Vec::new(),
            publisher: self.inner.options.publisher,
            manifest: None,
            note: None,
        };
        running.filter(|row| which(row.title)).map(title).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Home, noise, upload};
    use super::*;

    #[tokio::test]
    async fn titles_are_found_by_kind_and_name_without_reading_all_of_them() {
        let home = Home::new().await;
        let mut ids = Vec::new();
        for (number, (name, mime)) in [
            ("Straße im Sturm.jpg", "image/jpeg"),
            ("Sturm.mp3", "audio/mpeg"),
            ("Meer.jpg", "image/jpeg"),
        ]
        .into_iter()
        .enumerate()
        {
            let bytes = noise(10_000, number as u64);
            let import = home.library.import(upload(name, Some(mime), &bytes)).await;
            ids.push(import.expect("imported"));
        }
        let all = home.library.list().await.expect("readable");
        let found = async |name: &str, kind| {
            let name = name.to_owned();
            let matches = home.library.matching(Wanted { kind, name }).await;
            let matches = matches.expect("readable");
            assert_eq!(matches.all, 3);
            assert!(matches.found.iter().all(|found| found.ready));
            let ids = matches.found.iter().map(|found| found.id);
            ids.collect::<Vec<_>>()
        };
        let newest_first: Vec<_> = all.iter().map(|title| title.id).collect();
        assert_eq!(found("", None).await, newest_first);
        assert_eq!(found("STRASSE", None).await, []);
        assert_eq!(found("straße", None).await, [ids[0]]);
        let storms = found("STURM", None).await;
        assert!(storms.len() == 2 && storms.contains(&ids[0]) && storms.contains(&ids[1]));
        let kind = all
            .iter()
            .find(|title| title.id == ids[0])
            .map(|title| title.kind);
        let alike = all.iter().filter(|title| Some(title.kind) == kind).count();
        assert_eq!(found("", kind).await.len(), alike);
        let titles = home
            .library
            .titles(&[ids[2], ids[0]])
            .await
            .expect("readable");
        let names: Vec<_> = titles.iter().map(|title| title.name.as_str()).collect();
        assert_eq!(names, ["Meer", "Straße im Sturm"]);
        let stored: u64 = all.iter().map(Title::sealed_bytes).sum();
        assert_eq!(home.library.totals().await.expect("readable"), (3, stored));
        home.library.remove(ids[2]).await.expect("removed");
        let left = home.library.titles(&ids).await.expect("readable");
        assert_eq!(left.len(), 2, "what is gone is left out");
    }
}
