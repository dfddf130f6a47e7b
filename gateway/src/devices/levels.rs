//! How loud this machine's loudspeakers are, kept over a restart where their card has no mixer of its own.

use mantel_peripherals::alsa::{Level, Levels, Speakers};
use mantel_peripherals::decode::Decoder;
use mantel_runtime::db::{Db, DbError};
use mantel_runtime::tasks::Tasks;
use rusqlite::Connection;

/// The loudspeakers as loud as they were; changes are written down.
pub(super) async fn speakers(
    db: &Db,
    decoder: Decoder,
    tasks: &Tasks,
) -> Result<Speakers, DbError> {
    let levels = db.read(|db| Ok::<_, DbError>(all(db)?)).await?;
    let speakers = Speakers::new(decoder, levels, tasks.token().clone());
    let (mut changed, db) = (speakers.levels(), db.clone());
    tasks.spawn("speaker-levels", async move {
        while changed.changed().await.is_ok() {
            let levels = changed.borrow_and_update().clone();
            if let Err(error) = db
                .write(move |tx| Ok::<_, DbError>(put(tx, &levels)?))
                .await
            {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the loudness was not kept"
                );
            }
        }
    });
    Ok(speakers)
}

fn all(db: &Connection) -> rusqlite::Result<Levels> {
    let mut query = db.prepare_cached("SELECT pcm, percent, muted FROM speaker_levels")?;
    let rows = query.query_map([], |row| {
        let level = Level {
            percent: row.get::<_, u8>(1)?.min(100),
            muted: row.get(2)?,
        };
        Ok((row.get(0)?, level))
    })?;
    rows.collect()
}

fn put(db: &Connection, levels: &Levels) -> rusqlite::Result<()> {
    for (pcm, level) in levels {
        db.execute(
            "INSERT INTO speaker_levels (pcm, percent, muted) VALUES ($1, $2, $3)
             ON CONFLICT (pcm) DO UPDATE SET percent = excluded.percent, muted = excluded.muted",
            (pcm, level.percent, level.muted),
        )?;
    }
    Ok(())
}
