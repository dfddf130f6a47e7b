-- Uploads that may be taken up again. Times are milliseconds since 1970-01-01T00:00Z. Only `resumable.rs` reads and
-- writes here. The bytes are in `blobs/upload-<id>.part`, sealed; how many there are says the file.
CREATE TABLE uploads (
    id            TEXT PRIMARY KEY,     -- 32 hex digits
    name          TEXT NOT NULL,        -- the file's name, as the browser told it
    mime          TEXT,                 -- the browser's word for its kind
    size_bytes    BIGINT NOT NULL,
    sealed_key    BLOB NOT NULL,        -- the content key, sealed under the store key
    touched_at_ms BIGINT NOT NULL,      -- when bytes last came
    title         TEXT,                 -- set when it is in the library
    was_there     BIGINT NOT NULL       -- 1: the library had the same content before
);
