-- Customers, their homes, claim codes, and the operator's log-in. Times are milliseconds since 1970.

-- A paying household's account.
CREATE TABLE customers (
    id TEXT PRIMARY KEY,              -- cust_…
    name TEXT NOT NULL,
    contact TEXT NOT NULL,            -- how the operator reaches them; may be empty
    suspended BIGINT NOT NULL,        -- 0: in good standing, 1: suspended (F17)
    note TEXT NOT NULL,               -- why suspended, in the operator's words
    created_ms BIGINT NOT NULL
);

-- A household with its gateway: one row for each enrolment that was not taken back.
CREATE TABLE homes (
    id TEXT PRIMARY KEY,              -- home_…
    customer TEXT NOT NULL REFERENCES customers (id),
    name TEXT NOT NULL,               -- what the household calls itself
    device TEXT NOT NULL,             -- the gateway's Ed25519 key, its identity
    seal_key TEXT NOT NULL,           -- the gateway's X25519 key (F12)
    serial TEXT,                      -- electronic serial number (F5)
    enrolled_ms BIGINT NOT NULL,
    removed_ms BIGINT                 -- NULL: it may log in
);
CREATE UNIQUE INDEX homes_device ON homes (device) WHERE removed_ms IS NULL;
CREATE INDEX homes_customer ON homes (customer);

-- MAC addresses of a home's gateway (F5), lower case with colons.
CREATE TABLE home_macs (
    home TEXT NOT NULL REFERENCES homes (id),
    mac TEXT NOT NULL,
    PRIMARY KEY (home, mac)
);
CREATE INDEX home_macs_mac ON home_macs (mac);

-- Claim codes: single use, short-lived. A used one stays, so that a repeated enrolment gets the same answer.
CREATE TABLE claim_codes (
    code TEXT PRIMARY KEY,            -- 8 characters, Crockford base32
    customer TEXT NOT NULL REFERENCES customers (id),
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    home TEXT REFERENCES homes (id)   -- who used it; NULL: nobody yet
);

-- The operator's password: one row at most.
CREATE TABLE operator (
    id BIGINT PRIMARY KEY,            -- 1
    setup_hash TEXT,                  -- BLAKE3 of the one-time setup token; NULL once a password is set
    password_hash TEXT                -- argon2id, PHC string; NULL until set up
);

-- Where the operator is logged in.
CREATE TABLE operator_sessions (
    cookie_hash TEXT PRIMARY KEY,     -- BLAKE3 of the cookie
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL        -- moves on with use
);
