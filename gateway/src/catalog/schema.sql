-- The titles that this home may order, and its own, as the server listed them last: browsable offline (F20).
CREATE TABLE listing (
    title TEXT PRIMARY KEY,             -- TitleId
    place BIGINT NOT NULL,              -- position in the server's list
    entry TEXT NOT NULL                 -- TitleEntry, JSON; manifests signed, envelopes sealed
);
