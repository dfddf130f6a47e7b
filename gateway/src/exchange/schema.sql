-- Orders that concern this home, as the server last said, and how far this gateway is with them.
CREATE TABLE order_mirror (
    id      TEXT PRIMARY KEY,           -- OrderId
    created TEXT NOT NULL,              -- RFC 3339, for the order of the list
    entry   TEXT NOT NULL,              -- OrderEntry, JSON (with the pass, once settled)
    ready   BIGINT NOT NULL             -- 1: arrived, licensed, playable; nothing left to do
);

-- Orders asked for and not answered. A row is written before the first request and goes when the server answered;
-- the key makes repeating safe.
CREATE TABLE order_outbox (
    key       TEXT PRIMARY KEY,         -- idempotency key
    title     TEXT NOT NULL,            -- the title's name, for the page
    since     TEXT NOT NULL,            -- RFC 3339
    request   TEXT NOT NULL,            -- OrderRequest, JSON
    problem   TEXT                      -- what the server said last, for a person
);

-- Cancellations asked for and not answered.
CREATE TABLE cancel_outbox (
    id TEXT PRIMARY KEY                 -- OrderId
);

-- Grants under which a blob of an order was received, oldest first: they go into its receipt (F67).
CREATE TABLE grant_used (
    order_id TEXT NOT NULL,
    blob     TEXT NOT NULL,
    place    BIGINT NOT NULL,
    grant_id TEXT NOT NULL,
    PRIMARY KEY (order_id, blob, place)
);

-- Receipts signed. Written before they are sent; gone when the server answered (F67).
CREATE TABLE receipt_outbox (
    order_id TEXT NOT NULL,
    blob     TEXT NOT NULL,
    token    TEXT NOT NULL,
    PRIMARY KEY (order_id, blob)
);

-- What this home offers. `waiting` 1: the server has not answered the request yet.
CREATE TABLE offer (
    title    TEXT PRIMARY KEY,          -- TitleId
    mode     TEXT NOT NULL,             -- OfferMode, JSON
    request  TEXT,                      -- PublishRequest, JSON; NULL: withdraw
    waiting  BIGINT NOT NULL,
    problem  TEXT
);

-- The homes of the directory, as the server last said, for use offline. At most one row.
CREATE TABLE home_cache (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    homes TEXT NOT NULL                 -- HomeEntry list, JSON
);
