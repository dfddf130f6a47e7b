-- Orders with their deliveries, grants and receipts. One order has one delivery. Times are milliseconds since 1970.

CREATE TABLE orders (
    id TEXT PRIMARY KEY,              -- ord_…, sortable by age
    delivery TEXT NOT NULL UNIQUE,    -- dlv_…
    initiator TEXT NOT NULL REFERENCES homes (id), -- who called
    idempotency_key TEXT NOT NULL,    -- chosen by the initiator's gateway
    request_hash TEXT NOT NULL,       -- BLAKE3 of the request: the same key with another request is refused
    title TEXT NOT NULL REFERENCES titles (id),
    mode TEXT NOT NULL,               -- catalog, private: how the title was offered then
    kind TEXT NOT NULL,               -- video, image, audio, data
    title_name TEXT,                  -- as it was then; NULL: private
    sender TEXT NOT NULL REFERENCES homes (id),
    sender_device TEXT NOT NULL,
    receiver TEXT NOT NULL REFERENCES homes (id),
    receiver_device TEXT NOT NULL,
    payer TEXT NOT NULL REFERENCES homes (id),
    payer_customer TEXT NOT NULL REFERENCES customers (id),
    publisher_customer TEXT NOT NULL REFERENCES customers (id),
    initiative TEXT NOT NULL,         -- push, pull
    price_minor BIGINT NOT NULL,      -- held or captured
    terms TEXT NOT NULL,              -- JSON: what the price buys
    path_limit TEXT,                  -- direct, relay: the requester allows only this; NULL: any
    state TEXT NOT NULL,              -- held, delivering, settled, cancelled, failed
    problem TEXT,                     -- what is wrong, for a person
    total_bytes BIGINT NOT NULL,      -- sealed size of all blobs
    relayed_bytes BIGINT NOT NULL,    -- through the relay
    grants_issued BIGINT NOT NULL,
    path TEXT,                        -- which way the last bytes came, from the receipt
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    ended_ms BIGINT,                  -- NULL: held or delivering
    UNIQUE (initiator, idempotency_key)
);
-- One active order of a title for a home.
CREATE UNIQUE INDEX orders_active ON orders (title, receiver) WHERE ended_ms IS NULL;
CREATE INDEX orders_sender ON orders (sender, ended_ms);
CREATE INDEX orders_receiver ON orders (receiver, ended_ms);
CREATE INDEX orders_payer ON orders (payer);

-- An order's blobs as they were when it was made.
CREATE TABLE order_blobs (
    order_id TEXT NOT NULL REFERENCES orders (id),
    position BIGINT NOT NULL,
    blob TEXT NOT NULL,
    sealed_bytes BIGINT NOT NULL,
    done_bytes BIGINT NOT NULL,       -- at the last grant, as the receiver said
    PRIMARY KEY (order_id, position)
);

-- Every grant that was signed (F61).
CREATE TABLE grants (
    id TEXT PRIMARY KEY,              -- grt_…
    order_id TEXT NOT NULL REFERENCES orders (id),
    blob TEXT NOT NULL,
    max_bytes BIGINT NOT NULL,        -- media bytes that it allows
    relayed_bytes BIGINT NOT NULL,    -- through the relay, TLS and framing included
    relay_wanted BIGINT NOT NULL,     -- 1: the receiver waits at the relay
    token TEXT NOT NULL,
    issued_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    ended_ms BIGINT,                  -- superseded, or its order ended
    ended_why TEXT
);
CREATE INDEX grants_order ON grants (order_id, issued_ms);

-- Receipts, whole as the receiver's gateway signed them (F67).
CREATE TABLE receipts (
    hash TEXT PRIMARY KEY,            -- BLAKE3 of the token
    order_id TEXT NOT NULL REFERENCES orders (id),
    blob TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    path TEXT NOT NULL,               -- direct, relay
    token TEXT NOT NULL,
    at_ms BIGINT NOT NULL,            -- when the server took it
    UNIQUE (order_id, blob)
);
