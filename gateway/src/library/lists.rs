//! Lists of titles and groups, their order, and what is searched for: the words in which players' questions reach the
//! shelf; pure.

use mantel_protocol::manifest::MediaKind;

/// The most terms in a [`Condition`]; each is an expression in the statement.
pub const MAX_TERMS: usize = 32;

/// A row's number on the shelf; never used twice.
pub type Slot = u32;

/// One list of titles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shelf {
    /// All of a kind.
    Kind(MediaKind),
    /// Music by the artist of this row.
    Artist(Slot),
    /// The album of this row.
    Album(Slot),
    /// Taken or recorded in a month (year * 100 + month); 0: it is not known when.
    Month(MediaKind, u32),
    /// From the home of this row.
    Home(Slot),
}

/// One list of groups of titles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Groups {
    /// Artists by name.
    Artists,
    /// Albums by name.
    Albums,
    /// Months, the latest first, the unknown last.
    Months(MediaKind),
    /// Other homes.
    Homes,
}

/// A group of titles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// One of its rows, by which the group is known; of months, the month.
    pub key: u32,
    /// How many titles it has.
    pub titles: u32,
}

/// What a list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SortBy {
    /// As is usual for the list: names; albums by track; months by time.
    #[default]
    Usual,
    /// By name.
    Name,
    /// By time of recording.
    Recorded,
    /// By artist.
    Artist,
    /// By album, then track.
    Album,
    /// By track.
    Track,
}

/// How a list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Order {
    /// By what.
    pub by: SortBy,
    /// From the last to the first.
    pub descending: bool,
}

/// A text of a title that can be searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// Its name.
    Name,
    /// Its artist.
    Artist,
    /// Its album.
    Album,
    /// When it was recorded, as `YYYY-MM-DD`.
    Date,
}

/// How a text is compared; case does not count for ASCII letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Test {
    /// The whole text.
    Is,
    /// Another text, or none.
    IsNot,
    /// Somewhere inside.
    Contains,
    /// Nowhere inside.
    Lacks,
    /// Less in order.
    Before,
    /// Less or the same.
    UpTo,
    /// Greater in order.
    After,
    /// Greater or the same.
    From,
}

/// What to search for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Everything, or nothing.
    Const(bool),
    /// All of them.
    And(Vec<Condition>),
    /// Any of them.
    Or(Vec<Condition>),
    /// Titles from other homes.
    Foreign,
    /// Titles of these kinds.
    Kinds(Vec<MediaKind>),
    /// A text.
    Text(Field, Test, String),
    /// Whether there is such a text.
    Exists(Field, bool),
}
