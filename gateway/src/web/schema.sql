-- The household's password. One row, written at first use; there is no default.
CREATE TABLE web_password (
    one       BIGINT PRIMARY KEY CHECK (one = 1),
    phc       TEXT   NOT NULL,           -- argon2id, PHC string
    changed_s BIGINT NOT NULL            -- Unix time, seconds
);
-- Browsers and televisions that are let in. A stolen database opens no session: the token is only in the cookie.
CREATE TABLE web_session (
    id            TEXT   PRIMARY KEY,     -- random; names the session on the page that ends it
    token_hash    TEXT   NOT NULL UNIQUE, -- BLAKE3 of the cookie's token, hex
    kind          TEXT   NOT NULL CHECK (kind IN ('household', 'television')),
    label         TEXT   NOT NULL,        -- browser, or the television's name
    created_s     BIGINT NOT NULL,        -- Unix time, seconds
    seen_s        BIGINT NOT NULL,        -- last used, Unix time, to the hour
    admin_until_s BIGINT NOT NULL         -- the admin area is open until then, Unix time; 0: closed
);
