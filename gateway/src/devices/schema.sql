-- What the household decided about its devices. Only `store.rs` reads and writes here.

-- One row per key of a device: a device with several programs has several keys (its aliases), and any of them may be
-- the one that answers after a restart.
CREATE TABLE device_decisions (
    key      TEXT PRIMARY KEY,          -- as discovery names it: uuid:…, mdns:…
    standing TEXT NOT NULL,             -- new, admitted, ignored
    name     TEXT                       -- the household's name for it; NULL: the device's own
);
