-- Versions of the appliance that the operator put here, and what homes told of them.
CREATE TABLE releases (
    version TEXT PRIMARY KEY,         -- three numbers with dots
    offer TEXT NOT NULL,              -- JSON: size, BLAKE3 and chunk hashes of the bundle, as gateways are told them
    percent BIGINT NOT NULL,          -- of the homes, 0 to 100
    created_ms BIGINT NOT NULL,
    withdrawn_ms BIGINT               -- NULL: it may be offered; else its bundle is deleted
);
-- Homes that are offered a version whatever its percentage.
CREATE TABLE release_homes (
    version TEXT NOT NULL REFERENCES releases (version),
    home TEXT NOT NULL REFERENCES homes (id),
    PRIMARY KEY (version, home)
);
-- The last word of each home on each version.
CREATE TABLE release_outcomes (
    version TEXT NOT NULL REFERENCES releases (version),
    home TEXT NOT NULL REFERENCES homes (id),
    outcome TEXT NOT NULL,            -- installed, failed
    words TEXT NOT NULL,              -- why, from the home; may be empty
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (version, home)
);
-- What each appliance runs, as it said when it last asked.
CREATE TABLE appliances (
    home TEXT PRIMARY KEY REFERENCES homes (id),
    running TEXT NOT NULL,            -- a version, known here or not
    asked_ms BIGINT NOT NULL
);
