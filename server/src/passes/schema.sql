-- Passes that were granted (F25): the paid right to a title.
CREATE TABLE passes (
    id TEXT PRIMARY KEY,              -- pass_…
    order_id TEXT NOT NULL UNIQUE REFERENCES orders (id),
    title TEXT NOT NULL REFERENCES titles (id),
    home TEXT NOT NULL REFERENCES homes (id),
    device TEXT NOT NULL,             -- which may redeem it
    token TEXT NOT NULL,
    granted_ms BIGINT NOT NULL
);
