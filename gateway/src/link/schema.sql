-- Which server this gateway belongs to. At most one row.
CREATE TABLE enrolment (
    one           BIGINT PRIMARY KEY CHECK (one = 1),
    home          TEXT NOT NULL,        -- HomeId
    home_name     TEXT NOT NULL,        -- what the household calls itself
    customer      TEXT NOT NULL,        -- CustomerId
    customer_name TEXT NOT NULL,
    server        TEXT NOT NULL,        -- ServerCard, JSON
    host          TEXT NOT NULL,        -- name or address of the server, IPv6 without brackets
    api_port      BIGINT NOT NULL,
    pin           TEXT NOT NULL         -- SHA-256 of the server certificate's public key, hex
);

-- The highest signed time seen (DESIGN §3): time never goes back behind it. At most one row.
CREATE TABLE signed_time (
    one     BIGINT PRIMARY KEY CHECK (one = 1),
    mark_ms BIGINT NOT NULL             -- Unix time, milliseconds
);
