-- Licenses that the vault gave this device (F25). The content keys inside are sealed to its key.
CREATE TABLE license (
    title   TEXT PRIMARY KEY,           -- TitleId
    id      TEXT NOT NULL,              -- LicenseId
    token   TEXT NOT NULL               -- as the vault signed it
);

-- How each license was used. Kept apart: a license fetched again does not forget its plays.
CREATE TABLE license_use (
    id            TEXT PRIMARY KEY,     -- LicenseId
    first_play_ms BIGINT,               -- signed time, Unix milliseconds; NULL: never played
    plays         BIGINT NOT NULL
);

-- The restrictions that bind this home, as the server signed them (F17). At most one row.
CREATE TABLE restriction_set (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    token TEXT NOT NULL
);
