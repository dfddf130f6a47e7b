-- The household may correct what a device is; the latest decision counts where keys of a device disagree; decisions can
-- be undone. Keys are now also `mac:…` and `serial:…`: a device that changed all its names is found by them.
ALTER TABLE device_decisions ADD COLUMN class TEXT;                                  -- NULL: as the device says
ALTER TABLE device_decisions ADD COLUMN decided_at_ms INTEGER NOT NULL DEFAULT 0;    -- Unix time

-- The latest decisions, newest last; only the newest few are kept.
CREATE TABLE device_undo (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    keys            TEXT NOT NULL,      -- JSON list: all keys that were written
    name            TEXT NOT NULL,      -- the device's name then, for the page
    what            TEXT NOT NULL,      -- admitted, ignored, renamed, class
    before_standing TEXT NOT NULL,      -- what held before
    before_name     TEXT,
    before_class    TEXT,
    at_ms           INTEGER NOT NULL    -- Unix time
);

-- Devices that the household decided about, as they were last seen: shown as switched off until they are seen again.
CREATE TABLE device_memory (
    id           TEXT PRIMARY KEY,      -- the key by which pages named it
    keys         TEXT NOT NULL,         -- JSON list: all its keys, hardware address and serial number included
    name         TEXT NOT NULL,         -- its own name
    class        TEXT NOT NULL,         -- as it says
    maker        TEXT,
    model        TEXT,
    mac          TEXT,
    serial       TEXT,
    capabilities TEXT NOT NULL,         -- JSON list
    last_seen_ms INTEGER NOT NULL       -- Unix time
);
