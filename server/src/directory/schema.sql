-- Where each home is (F5, F6): its gateway's last report.
CREATE TABLE presence (
    home TEXT PRIMARY KEY REFERENCES homes (id),
    addresses TEXT NOT NULL,          -- JSON list of socket addresses at which its chunk listener may be reached
    observed TEXT NOT NULL,           -- IP address from which the report came
    free_bytes BIGINT NOT NULL,       -- free in its store
    version TEXT NOT NULL,            -- of its program
    last_seen_ms BIGINT NOT NULL
);
