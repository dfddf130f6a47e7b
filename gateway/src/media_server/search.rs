//! SearchCriteria and SortCriteria (UPnP ContentDirectory:1 §2.5.5, §2.5.8): text to a condition on the shelf; pure. The
//! text is hostile input: its length is bounded by the call, its terms and its nesting here.

use super::soap::Fault;
use crate::library::shelf::{Condition, Field, MAX_TERMS, Order, SortBy, Test};
use mantel_protocol::manifest::MediaKind;

/// What Search understands.
pub const SEARCH_CAPABILITIES: &str =
    "dc:title,dc:creator,dc:date,upnp:class,upnp:artist,upnp:album,@id,@refID";
/// What Browse and Search sort by.
pub const SORT_CAPABILITIES: &str =
    "dc:title,dc:date,upnp:artist,upnp:album,upnp:originalTrackNumber";
/// Deepest nesting of parentheses.
const MAX_NESTING: usize = 8;

/// The class of a kind's items.
pub fn class_of(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Audio => "object.item.audioItem.musicTrack",
        MediaKind::Image => "object.item.imageItem.photo",
        MediaKind::Video => "object.item.videoItem",
        MediaKind::Data => "object.item",
    }
}

/// The class of an album.
pub const ALBUM_CLASS: &str = "object.container.album.musicAlbum";
/// The class of an artist.
pub const ARTIST_CLASS: &str = "object.container.person.musicArtist";

/// What a search looks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// Among the titles.
    pub items: Condition,
    /// Whether it is about albums as such.
    pub albums: bool,
    /// Whether it is about artists as such.
    pub artists: bool,
}

/// Reads a SortCriteria argument: the first property that is known here counts.
pub fn sort(text: &str) -> Result<Order, Fault> {
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let descending = match part.as_bytes().first() {
            Some(b'+') => false,
            Some(b'-') => true,
            _ => return Err(Fault::Sort),
        };
        let by = match &part[1..] {
            "dc:title" => SortBy::Name,
            "dc:date" => SortBy::Recorded,
            "upnp:artist" | "dc:creator" => SortBy::Artist,
            "upnp:album" => SortBy::Album,
            "upnp:originalTrackNumber" => SortBy::Track,
            // Players send them whatever GetSortCapabilities says; all titles of a list are alike in them.
            name if name.starts_with("upnp:") || name.starts_with("dc:") || name.contains('@') => {
                continue;
            }
            _ => return Err(Fault::Sort),
        };
        return Ok(Order { by, descending });
    }
    Ok(Order::default())
}

/// Reads a SearchCriteria argument.
pub fn parse(text: &str) -> Result<Search, Fault> {
    let mut about = About::default();
    let items = if matches!(text.trim(), "" | "*") {
        Condition::Const(true)
    } else {
        let mut parser = Parser {
            rest: text,
            terms: 0,
            about: &mut about,
        };
        let found = parser.any(0)?;
        if parser.token()?.is_some() {
            return Err(Fault::Search);
        }
        found
    };
    Ok(Search {
        items,
        albums: about.albums,
        artists: about.artists,
    })
}

#[derive(Default)]
struct About {
    albums: bool,
    artists: bool,
}

struct Parser<'a, 'b> {
    rest: &'a str,
    terms: usize,
    about: &'b mut About,
}

#[derive(Debug, Clone, PartialEq)]
enum Token<'a> {
    Open,
    Close,
    Word(&'a str),
    Quoted(String),
}

impl<'a> Parser<'a, '_> {
    fn token(&mut self) -> Result<Option<Token<'a>>, Fault> {
        self.rest = self.rest.trim_start();
        let Some(first) = self.rest.chars().next() else {
            return Ok(None);
        };
        let (token, used) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '"' => {
                let mut text = String::new();
                let mut chars = self.rest.char_indices().skip(1);
                loop {
                    match chars.next() {
                        Some((at, '"')) => break (Token::Quoted(text), at + 1),
                        Some((_, '\\')) => {
                            text.extend(chars.next().map(|(_, c)| c));
                        }
                        Some((_, c)) => text.push(c),
                        None => return Err(Fault::Search),
                    }
                }
            }
            '=' | '!' | '<' | '>' => {
                let end = self
                    .rest
                    .find(|c| !matches!(c, '=' | '!' | '<' | '>'))
                    .unwrap_or(self.rest.len());
                (Token::Word(&self.rest[..end]), end)
            }
            _ => {
                let end = self
                    .rest
                    .find(|c: char| {
                        c.is_whitespace() || matches!(c, '(' | ')' | '"' | '=' | '!' | '<' | '>')
                    })
                    .unwrap_or(self.rest.len());
                (Token::Word(&self.rest[..end]), end)
            }
        };
        self.rest = &self.rest[used..];
        Ok(Some(token))
    }

    fn peek(&mut self) -> Result<Option<Token<'a>>, Fault> {
        let before = self.rest;
        let token = self.token();
        self.rest = before;
        token
    }

    fn next_is(&mut self, word: &str) -> Result<bool, Fault> {
        let found = matches!(self.peek()?, Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
        if found {
            self.token()?;
        }
        Ok(found)
    }

    fn any(&mut self, depth: usize) -> Result<Condition, Fault> {
        let mut parts = vec![self.all(depth)?];
        while self.next_is("or")? {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Condition::Or))
    }

    fn all(&mut self, depth: usize) -> Result<Condition, Fault> {
        let mut parts = vec![self.term(depth)?];
        while self.next_is("and")? {
            parts.push(self.term(depth)?);
        }
        Ok(one_or(parts, Condition::And))
    }

    fn term(&mut self, depth: usize) -> Result<Condition, Fault> {
        self.terms += 1;
        if self.terms > MAX_TERMS || depth > MAX_NESTING {
            return Err(Fault::Search);
        }
        match self.token()? {
            Some(Token::Open) => {
                let inside = self.any(depth + 1)?;
                match self.token()? {
                    Some(Token::Close) => Ok(inside),
                    _ => Err(Fault::Search),
                }
            }
            Some(Token::Word(property)) => self.relation(property),
            _ => Err(Fault::Search),
        }
    }

    fn relation(&mut self, property: &str) -> Result<Condition, Fault> {
        let Some(Token::Word(operator)) = self.token()? else {
            return Err(Fault::Search);
        };
        let value = match self.token()? {
            Some(Token::Quoted(text)) => text,
            Some(Token::Word(word)) if operator.eq_ignore_ascii_case("exists") => word.to_owned(),
            _ => return Err(Fault::Search),
        };
        let operator = operator.to_ascii_lowercase();
        let field = match property {
            "upnp:class" => return self.class(&operator, &value),
            "dc:title" => Field::Name,
            "upnp:artist" | "dc:creator" => Field::Artist,
            "upnp:album" => Field::Album,
            "dc:date" => Field::Date,
            // No title here stands for another one.
            "@refID" => {
                return match (operator.as_str(), truth(&value)) {
                    ("exists", Some(wanted)) => Ok(Condition::Const(!wanted)),
                    _ => Err(Fault::Search),
                };
            }
            "@id" | "@parentID" => return Ok(Condition::Const(operator == "exists")),
            _ => return Err(Fault::Search),
        };
        let test = match operator.as_str() {
            "exists" => {
                let wanted = truth(&value).ok_or(Fault::Search)?;
                return Ok(Condition::Exists(field, wanted));
            }
            "=" => Test::Is,
            "!=" => Test::IsNot,
            "contains" => Test::Contains,
            "doesnotcontain" => Test::Lacks,
            "<" => Test::Before,
            "<=" => Test::UpTo,
            ">" => Test::After,
            ">=" => Test::From,
            _ => return Err(Fault::Search),
        };
        Ok(Condition::Text(field, test, value))
    }

    fn class(&mut self, operator: &str, value: &str) -> Result<Condition, Fault> {
        let matches = |class: &str| match operator {
            "=" => Ok(class == value),
            "!=" => Ok(class != value),
            "derivedfrom" => Ok(class == value
                || class
                    .strip_prefix(value)
                    .is_some_and(|rest| rest.starts_with('.'))),
            "contains" => Ok(class.contains(value)),
            "doesnotcontain" => Ok(!class.contains(value)),
            "exists" => truth(value).ok_or(Fault::Search),
            _ => Err(Fault::Search),
        };
        if value.starts_with("object.container") && matches!(operator, "=" | "derivedfrom") {
            self.about.albums |= matches(ALBUM_CLASS)?;
            self.about.artists |= matches(ARTIST_CLASS)?;
        }
        let mut kinds = Vec::new();
        for kind in [MediaKind::Audio, MediaKind::Image, MediaKind::Video] {
            if matches(class_of(kind))? {
                kinds.push(kind);
            }
        }
        Ok(Condition::Kinds(kinds))
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn one_or(mut parts: Vec<Condition>, many: fn(Vec<Condition>) -> Condition) -> Condition {
    if parts.len() == 1 {
        parts.remove(0)
    } else {
        many(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_searches_of_real_players_are_understood() {
        let text = "(upnp:class derivedfrom \"object.item.audioItem\") and (dc:title contains \"say \\\"hi\\\"\" or \
                    upnp:artist = \"Bach\") and @refID exists false";
        let expected = Condition::And(vec![
            Condition::Kinds(vec![MediaKind::Audio]),
            Condition::Or(vec![
                Condition::Text(Field::Name, Test::Contains, "say \"hi\"".into()),
                Condition::Text(Field::Artist, Test::Is, "Bach".into()),
            ]),
            Condition::Const(true),
        ]);
        assert_eq!(parse(text).map(|found| found.items), Ok(expected));
        let albums = parse("upnp:class = \"object.container.album.musicAlbum\"").expect("read");
        assert!(albums.albums && !albums.artists);
        assert_eq!(albums.items, Condition::Kinds(vec![]));
        assert_eq!(
            parse("*").map(|found| found.items),
            Ok(Condition::Const(true))
        );
        let videos = parse("upnp:class derivedfrom \"object.item.videoItem\"").expect("read");
        assert_eq!(videos.items, Condition::Kinds(vec![MediaKind::Video]));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "dc:title",
            "dc:title contains",
            "dc:title contains \"open",
            "dc:title near \"x\"",
            "pv:rating = \"5\"",
            "(dc:title = \"x\"",
            "dc:title = \"x\" xor dc:title = \"y\"",
            "dc:title = \"x\")",
        ] {
            assert_eq!(parse(text), Err(Fault::Search), "{text}");
        }
        let deep = format!("{}dc:title = \"x\"{}", "(".repeat(99), ")".repeat(99));
        assert_eq!(parse(&deep), Err(Fault::Search));
        let long = vec!["dc:title = \"x\""; MAX_TERMS + 1].join(" or ");
        assert_eq!(parse(&long), Err(Fault::Search));
    }

    #[test]
    fn sort_criteria_are_read() {
        let by = |by, descending| Ok(Order { by, descending });
        assert_eq!(sort(""), Ok(Order::default()));
        assert_eq!(sort("+dc:title"), by(SortBy::Name, false));
        assert_eq!(sort("+upnp:class,-dc:date"), by(SortBy::Recorded, true));
        assert_eq!(sort("dc:title"), Err(Fault::Sort));
        assert_eq!(sort("+nonsense"), Err(Fault::Sort));
    }

    proptest! {
        #[test]
        fn arbitrary_criteria_never_panic(text: String, near in "[a-z:@()=!<>\" \\\\]{0,80}") {
            let _ = parse(&text);
            let _ = parse(&near);
            let _ = sort(&text);
            let _ = sort(&near);
        }
    }
}
