-- The bundle that is here whole, for other homes too, one row or none.
CREATE TABLE update_kept (
    one   BIGINT PRIMARY KEY,  -- always 1
    offer TEXT NOT NULL        -- JSON, as the server gave it
);
