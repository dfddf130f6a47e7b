-- How loud this machine's loudspeakers are, where their card has no mixer. Only `levels.rs` reads and writes here.
CREATE TABLE speaker_levels (
    pcm     TEXT PRIMARY KEY,           -- ALSA's name of the output
    percent INTEGER NOT NULL,           -- 0 to 100
    muted   INTEGER NOT NULL            -- 0 or 1
);
