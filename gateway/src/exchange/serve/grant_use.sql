-- What this gateway has sent under each grant (F61). One owner: exchange/serve/grant_use.rs.
-- After power loss: a row may count up to one reservation step that was never sent; never less than was sent.
CREATE TABLE grant_use (
    grant_id TEXT PRIMARY KEY,
    -- Media bytes sent or about to be sent; at most what the grant allows.
    reserved_bytes BIGINT NOT NULL,
    -- When the grant ends, seconds of the Unix epoch; the row is forgotten a day later.
    expires_s BIGINT NOT NULL
);
CREATE INDEX grant_use_expires ON grant_use (expires_s);

-- Deliveries that the server has ended. Kept for a day: no grant lives that long.
CREATE TABLE revoked_delivery (
    delivery_id TEXT PRIMARY KEY,
    revoked_s BIGINT NOT NULL
);
