-- The household's library. Times are milliseconds since 1970-01-01T00:00Z. Only `store.rs` reads and writes here.

-- A work that is here, or on its way. A crash during an import leaves no row: the row is written last.
CREATE TABLE titles (
    id             TEXT PRIMARY KEY,
    name           TEXT NOT NULL,
    kind           TEXT NOT NULL,       -- audio, image, video, data
    origin         TEXT NOT NULL,       -- own: imported in this home; home: from another home
    origin_key     TEXT NOT NULL,       -- own: the device's key; home: the home's id
    origin_name    TEXT NOT NULL,       -- what a page calls it
    state          TEXT NOT NULL,       -- arriving, ready
    recorded_at_ms BIGINT,              -- when it was taken or recorded, if known
    added_at_ms    BIGINT NOT NULL,
    publisher      TEXT NOT NULL,       -- the device key of the gateway that sealed it
    manifest       TEXT,                -- the publisher's signed manifest, of titles from other homes
    note           TEXT,                -- what a person should know about it
    content_mark   TEXT UNIQUE          -- keyed BLAKE3 of the plaintext of own titles, hex: finds a second import
);

-- The encodings of a title, in the manifest's order.
CREATE TABLE assets (
    title        TEXT NOT NULL,
    position     BIGINT NOT NULL,
    blob         TEXT NOT NULL,
    sealed_bytes BIGINT NOT NULL,
    plain_bytes  BIGINT NOT NULL,
    mime         TEXT NOT NULL,
    cipher       TEXT NOT NULL,         -- chacha20-poly1305, aes256-gcm
    duration_ms  BIGINT,
    width        BIGINT,                -- pixels
    height       BIGINT,                -- pixels
    codecs       TEXT,
    PRIMARY KEY (title, position)
);
CREATE INDEX assets_by_blob ON assets (blob);

-- Blobs whose bytes are all here, verified and durable.
CREATE TABLE blobs (
    id              TEXT PRIMARY KEY,
    size_bytes      BIGINT NOT NULL,
    completed_at_ms BIGINT NOT NULL
);

-- Content keys of own titles and private shares, each sealed under the store key (see keys.rs).
CREATE TABLE title_keys (
    title  TEXT NOT NULL,
    blob   TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (title, blob)
);

-- Thumbnails: JPEG, sealed under the store key.
CREATE TABLE thumbnails (
    title  TEXT PRIMARY KEY,
    sealed BLOB NOT NULL
);

-- What was imported from where, so that a second import of the same file is none.
CREATE TABLE imported (
    device_key TEXT NOT NULL,
    remote_id  TEXT NOT NULL,           -- the device's name for the object
    size_bytes BIGINT NOT NULL,         -- as the device told it; -1: it did not
    title      TEXT NOT NULL,
    PRIMARY KEY (device_key, remote_id, size_bytes)
);
CREATE INDEX imported_by_title ON imported (title);
