-- Passes that were redeemed: one license for one device each (F25).
CREATE TABLE licenses (
    pass TEXT PRIMARY KEY REFERENCES passes (id),
    id TEXT NOT NULL UNIQUE,          -- lic_…
    device TEXT NOT NULL,
    token TEXT NOT NULL,
    issued_ms BIGINT NOT NULL
);
