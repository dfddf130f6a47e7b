-- The household's own MQTT broker, one row or none. Only `mod.rs` reads and writes here.
CREATE TABLE home_assistant (
    one       BIGINT PRIMARY KEY,      -- always 1
    host      TEXT NOT NULL,
    port      BIGINT NOT NULL,
    user      TEXT NOT NULL,           -- empty: no log-in
    password  BLOB NOT NULL,           -- sealed under the store key
    authority TEXT NOT NULL,           -- certificates (PEM) by which the broker is known; empty: no TLS
    prefix    TEXT NOT NULL            -- of discovery topics
);
