-- What may send to this gateway, and what each has sent. Times are milliseconds since 1970-01-01T00:00Z. Only
-- `store.rs` reads and writes here.

-- A camera, scanner or phone that was given a user name and a password to send with.
CREATE TABLE upload_senders (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,         -- what a page calls it
    user            TEXT NOT NULL UNIQUE,
    phc             TEXT NOT NULL,         -- the password, argon2id, as a PHC string
    created_at_ms   BIGINT NOT NULL,
    used_at_ms      BIGINT,                -- when it last logged in
    used_by         TEXT,                  -- FTP, WebDAV
    day_limit_bytes BIGINT NOT NULL,       -- what it may send in one day (UTC)
    day             BIGINT NOT NULL,       -- the day that day_bytes belongs to, days since 1970
    day_bytes       BIGINT NOT NULL,
    sent_files      BIGINT NOT NULL,
    sent_bytes      BIGINT NOT NULL
);

-- The folder that a sender sees: names of what it sent, no bytes. A title that is removed leaves its name here.
CREATE TABLE upload_entries (
    sender         TEXT NOT NULL,
    path           TEXT NOT NULL,          -- below the folder's root, parts joined by /
    parent         TEXT NOT NULL,          -- the folder that it is in; empty: the root
    folder         BIGINT NOT NULL,        -- 1: a folder
    size_bytes     BIGINT NOT NULL,
    modified_at_ms BIGINT NOT NULL,
    title          TEXT,                   -- what it became
    fresh          BIGINT NOT NULL,        -- 1: the title came by this file, so its name follows
    PRIMARY KEY (sender, path)
);
CREATE INDEX upload_entries_by_parent ON upload_entries (sender, parent);
