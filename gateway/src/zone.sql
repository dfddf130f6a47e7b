-- The household's time zone, one row or none.
CREATE TABLE household_zone (
    one  BIGINT PRIMARY KEY,  -- always 1
    name TEXT NOT NULL        -- IANA, as Europe/Berlin
);
