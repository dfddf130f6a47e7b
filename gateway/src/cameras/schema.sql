-- Cameras: what the household entered for them. Only `store.rs` reads and writes here.

-- One row per key of a device: it has several, and any of them may be the one that answers after a restart.
CREATE TABLE camera_logins (
    key    TEXT PRIMARY KEY,            -- as discovery names the device
    sealed BLOB NOT NULL                -- user name and password, sealed under the store key for this key
);

-- Cameras that were added by their address.
CREATE TABLE typed_cameras (
    url  TEXT PRIMARY KEY,              -- rtsp://…, without user name and password
    name TEXT NOT NULL,                 -- the household's name for it
    transport TEXT NOT NULL             -- how packets come: interleaved, udp
);
