-- Updates of the appliance. Only store.rs reads and writes here.

-- The update under way, one row or none.
CREATE TABLE update_under_way (
    one            BIGINT PRIMARY KEY,  -- always 1
    offer          TEXT NOT NULL,       -- JSON, as the server gave it: version, size, hashes
    stage          TEXT NOT NULL,       -- fetching, ready, installing, installed, restarting
    tries          BIGINT NOT NULL,     -- times that the system was asked to install it
    heard          TEXT NOT NULL,       -- which update.json was there before the system was asked
    restart_wanted BIGINT NOT NULL      -- 1: "Restart now" was pressed
);

-- What came of each update.
CREATE TABLE update_outcomes (
    version   TEXT PRIMARY KEY,         -- as the system tells it, mostly three numbers
    outcome   TEXT NOT NULL,            -- installed, failed
    words     TEXT NOT NULL,            -- why, for a person; may be empty
    at_ms     BIGINT NOT NULL,
    reported  BIGINT NOT NULL,          -- 1: the server knows, or need not
    dismissed BIGINT NOT NULL           -- 1: the household has read it
);
