-- Rules that the operator set (F17). They are typed data; `mantel_protocol::restriction::judge` reads them.
CREATE TABLE restrictions (
    id TEXT PRIMARY KEY,              -- rst_…
    home TEXT REFERENCES homes (id),  -- whom it binds; NULL: every home
    rule TEXT NOT NULL,               -- JSON
    note TEXT NOT NULL,               -- why, may be shown to the household
    created_ms BIGINT NOT NULL
);
CREATE INDEX restrictions_home ON restrictions (home);
