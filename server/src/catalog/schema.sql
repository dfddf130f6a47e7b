-- What homes offer. Times are milliseconds since 1970, money is minor units.

-- A title. It stays when it is withdrawn: passes that were paid for open its keys.
CREATE TABLE titles (
    id TEXT PRIMARY KEY,              -- ttl_…, chosen by the publisher's gateway
    publisher TEXT NOT NULL REFERENCES homes (id),
    publisher_device TEXT NOT NULL,   -- whose key signed the manifest
    mode TEXT NOT NULL,               -- catalog: for all, keys in the vault; private: for its audience (F64)
    state TEXT NOT NULL,              -- offered, withdrawn
    operator_withdrawn BIGINT NOT NULL, -- 1: the operator withdrew it; publishing again is refused
    kind TEXT NOT NULL,               -- video, image, audio, data
    name TEXT,                        -- from the manifest; NULL: private, the server cannot read it
    manifest TEXT,                    -- signed token; NULL: private
    vault_keys TEXT,                  -- content keys sealed to the vault (HPKE); NULL: private
    price_minor BIGINT NOT NULL,
    operator_price BIGINT NOT NULL,   -- 1: the operator set price or terms; publishing again keeps them
    terms TEXT NOT NULL,              -- JSON
    poster TEXT,                      -- small JPEG, base64
    total_bytes BIGINT NOT NULL,      -- sealed size of all blobs
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE INDEX titles_publisher ON titles (publisher);

-- A title's blobs, in the manifest's order.
CREATE TABLE title_blobs (
    title TEXT NOT NULL REFERENCES titles (id),
    position BIGINT NOT NULL,
    blob TEXT NOT NULL,               -- BLAKE3, hex
    sealed_bytes BIGINT NOT NULL,
    PRIMARY KEY (title, position)
);

-- For whom a private title is: its share for each home, sealed end to end.
CREATE TABLE title_audience (
    title TEXT NOT NULL REFERENCES titles (id),
    home TEXT NOT NULL REFERENCES homes (id),
    envelope TEXT NOT NULL,
    PRIMARY KEY (title, home)
);
CREATE INDEX title_audience_home ON title_audience (home);
