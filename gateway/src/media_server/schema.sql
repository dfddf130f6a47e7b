-- The household's switch of the media server. At most one row; none: it is on. Only `mod.rs` reads and writes here.
CREATE TABLE media_server_switch (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    is_on BIGINT NOT NULL               -- 1 on, 0 off
);
