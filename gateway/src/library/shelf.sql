-- Titles in the orders in which players list them: one row per title that is here and is music, picture or video. A copy
-- of what `titles`, `assets` and `thumbnails` hold, written in their transactions; it can be made from them again.
CREATE TABLE shelf (
    id             INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice: players keep it
    title          TEXT NOT NULL UNIQUE,
    listed         BIGINT NOT NULL,     -- 1: may be listed; own titles always, others as their license is judged
    kind           TEXT NOT NULL,       -- audio, image, video
    name           TEXT NOT NULL COLLATE NOCASE,
    artist         TEXT COLLATE NOCASE,
    album          TEXT COLLATE NOCASE,
    album_by       TEXT COLLATE NOCASE, -- who the album is by: its own artist tag, else the track's
    track          BIGINT,
    recorded_at_ms BIGINT,              -- when it was taken or recorded, if known
    month          BIGINT,              -- of recorded_at_ms in UTC: year * 100 + month
    home           TEXT,                -- the home that it came from; NULL: this one
    home_name      TEXT,
    mime           TEXT NOT NULL,
    plain_bytes    BIGINT NOT NULL,
    duration_ms    BIGINT,
    width          BIGINT,              -- pixels
    height         BIGINT,              -- pixels
    picture        BIGINT NOT NULL      -- 1: there is a thumbnail
);
CREATE INDEX shelf_by_name ON shelf (kind, name) WHERE listed = 1;
CREATE INDEX shelf_by_artist ON shelf (artist, album, track, name) WHERE listed = 1 AND artist IS NOT NULL;
CREATE INDEX shelf_by_album ON shelf (album, album_by, track, name) WHERE listed = 1 AND album IS NOT NULL;
CREATE INDEX shelf_by_month ON shelf (kind, month, recorded_at_ms) WHERE listed = 1;
CREATE INDEX shelf_by_home ON shelf (home, name) WHERE home IS NOT NULL;

INSERT INTO shelf (title, listed, kind, name, recorded_at_ms, month, home, home_name, mime, plain_bytes, duration_ms,
    width, height, picture)
SELECT t.id, CASE t.origin WHEN 'own' THEN 1 ELSE 0 END, t.kind, t.name, t.recorded_at_ms,
    CAST(strftime('%Y%m', t.recorded_at_ms / 1000, 'unixepoch') AS INTEGER),
    CASE t.origin WHEN 'home' THEN t.origin_key END, CASE t.origin WHEN 'home' THEN t.origin_name END,
    a.mime, a.plain_bytes, a.duration_ms, a.width, a.height,
    EXISTS (SELECT 1 FROM thumbnails WHERE thumbnails.title = t.id)
FROM titles t JOIN assets a ON a.title = t.id AND a.position = 0
WHERE t.state = 'ready' AND t.kind IN ('audio', 'image', 'video');
