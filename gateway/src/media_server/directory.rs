//! ContentDirectory:1 Browse and Search. A list is looked up once for each state of the library and kept as row numbers,
//! four bytes a title; a page is then its rows, read by number and written into the answer. A long page goes out in
//! pieces, so that neither it nor a reader of the database is held for a slow player.

use super::didl::{Didl, Filter, month_name};
use super::object::{Container, Object, home_of};
use super::search::{self, Search};
use super::soap::{self, Call, Fault};
use super::{Asker, Inner};
use crate::library::LibraryError;
use crate::library::shelf::{Condition, Field, Group, Groups, Order, Reader, Shelf, Slot, Test};
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use mantel_protocol::manifest::MediaKind;
use mantel_runtime::logging::chain;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

/// ContentDirectory's type.
pub const SERVICE: &str = "urn:schemas-upnp-org:service:ContentDirectory:1";
/// The most objects in one answer; a player asks for the rest by StartingIndex.
pub const MAX_PAGE: u32 = 10_000;
/// Objects written at a time; a longer answer goes out in pieces.
const PIECE: usize = 256;
/// Room for a piece, bytes.
const PIECE_BYTES: usize = PIECE * 1024;
/// Row numbers kept of lists that were looked up: 2 MB.
const MAX_KEPT: usize = 500_000;

/// A list that was looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Titles(Shelf, Order),
    Groups(Groups),
    Search(Option<Shelf>, String, Order),
}

/// What a list holds.
#[derive(Clone)]
enum Children {
    Titles(Arc<[Slot]>),
    Groups(Groups, Arc<[Group]>),
    Fixed(Arc<[Container]>),
}

impl Children {
    fn len(&self) -> usize {
        match self {
            Self::Titles(all) => all.len(),
            Self::Groups(_, all) => all.len(),
            Self::Fixed(all) => all.len(),
        }
    }
}

/// Lists that were looked up in the present state of the library, the latest used last.
#[derive(Default)]
pub struct Lists(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    update: u32,
    lists: Vec<(Key, Children)>,
}

impl Lists {
    fn find(&self, key: &Key, update: u32) -> Option<Children> {
        let mut kept = self.0.lock().expect("no holder of this lock panics");
        if kept.update != update {
            return None;
        }
        let at = kept.lists.iter().position(|(known, _)| known == key)?;
        let found = kept.lists.remove(at);
        let children = found.1.clone();
        kept.lists.push(found);
        Some(children)
    }

    fn keep(&self, key: Key, update: u32, children: &Children) {
        let mut kept = self.0.lock().expect("no holder of this lock panics");
        if kept.update != update {
            kept.update = update;
            kept.lists.clear();
        }
        kept.lists.retain(|(known, _)| *known != key);
        kept.lists.push((key, children.clone()));
        let mut sum: usize = kept.lists.iter().map(|(_, list)| list.len()).sum();
        while sum > MAX_KEPT && kept.lists.len() > 1 {
            sum -= kept.lists.remove(0).1.len();
        }
    }
}

/// An answer with a body of its own; what it takes to write it.
pub struct Listing {
    inner: Arc<Inner>,
    asker: Asker,
    action: &'static str,
    children: Children,
    within: Option<Container>,
    filter: Filter,
    next: usize,
    end: usize,
    written: u32,
    update: u32,
}

fn failed(error: &LibraryError) -> Fault {
    tracing::warn!(error = chain(error), "a player's request failed");
    Fault::Failed
}

/// Browse.
pub async fn browse(inner: &Arc<Inner>, asker: Asker, call: &Call) -> Result<Body, Fault> {
    let object = Object::parse(call.text("ObjectID")?).ok_or(Fault::NoObject)?;
    let filter = Filter::parse(call.text("Filter").unwrap_or("*"));
    let order = search::sort(call.text("SortCriteria").unwrap_or(""))?;
    let update = inner.update_id();
    match call.text("BrowseFlag")? {
        "BrowseMetadata" => metadata(inner, asker, object, filter).await,
        "BrowseDirectChildren" => {
            let container = match object {
                Object::Container(container) => container,
                Object::Item(..) => return Err(Fault::NoContainer),
            };
            let children = children(inner, &asker, container, order, update).await?;
            Listing::new(
                inner,
                asker,
                "Browse",
                children,
                call,
                filter,
                Some(container),
                update,
            )?
            .into_body()
            .await
        }
        _ => Err(Fault::Arguments),
    }
}

/// Search.
pub async fn search(inner: &Arc<Inner>, asker: Asker, call: &Call) -> Result<Body, Fault> {
    let Some(Object::Container(container)) = Object::parse(call.text("ContainerID")?) else {
        return Err(Fault::NoContainer);
    };
    let text = call.text("SearchCriteria")?.to_owned();
    let wanted = search::parse(&text)?;
    let filter = Filter::parse(call.text("Filter").unwrap_or("*"));
    let order = search::sort(call.text("SortCriteria").unwrap_or(""))?;
    let update = inner.update_id();
    let children = if asker.let_in {
        found(inner, container, text, wanted, order, update).await?
    } else {
        Children::Fixed(Arc::default())
    };
    Listing::new(inner, asker, "Search", children, call, filter, None, update)?
        .into_body()
        .await
}

async fn found(
    inner: &Arc<Inner>,
    container: Container,
    text: String,
    wanted: Search,
    order: Order,
    update: u32,
) -> Result<Children, Fault> {
    let (within, foreign) = match container {
        Container::Root => (None, false),
        Container::Music | Container::Groups(Groups::Artists | Groups::Albums) => {
            (Some(Shelf::Kind(MediaKind::Audio)), false)
        }
        Container::Dated(kind) | Container::Groups(Groups::Months(kind)) => {
            (Some(Shelf::Kind(kind)), false)
        }
        Container::Groups(Groups::Homes) => (None, true),
        Container::List(shelf) => (Some(shelf), false),
        Container::LetIn => return Err(Fault::NoContainer),
    };
    let groups = match (wanted.albums, wanted.artists) {
        (true, _) => Some(Groups::Albums),
        (false, true) => Some(Groups::Artists),
        (false, false) => None,
    };
    let key = Key::Search(within, format!("{foreign} {text}"), order);
    if let Some(children) = inner.lists.find(&key, update) {
        return Ok(children);
    }
    let read = move |shelf: &Reader<'_>| {
        if let Some(groups) = groups {
            let mut all = shelf.groups(groups)?;
            if !matches!(wanted.items, Condition::Kinds(_) | Condition::Const(true)) {
                let mut kept = Vec::new();
                for group in all {
                    if let Some(name) = shelf.group_name(groups, group.key)?
                        && meets(&wanted.items, &name.name, name.by.as_deref())
                    {
                        kept.push(group);
                    }
                }
                all = kept;
            }
            return Ok(Some(Children::Groups(groups, all.into())));
        }
        let condition = if foreign {
            Condition::And(vec![Condition::Foreign, wanted.items])
        } else {
            wanted.items
        };
        let ids = shelf.search(within, &condition, order)?;
        Ok(ids.map(|ids| Children::Titles(ids.into())))
    };
    let children = inner
        .library
        .on_shelf(read)
        .await
        .map_err(|e| failed(&e))?
        .ok_or(Fault::NoContainer)?;
    inner.lists.keep(key, update, &children);
    Ok(children)
}

/// Whether an artist or album meets a condition: `name` is what it is called, `by` who an album is by.
fn meets(condition: &Condition, name: &str, by: Option<&str>) -> bool {
    match condition {
        Condition::Const(all) => *all,
        Condition::Foreign => false,
        // The class was judged when it was read.
        Condition::Kinds(_) => true,
        Condition::And(parts) => parts.iter().all(|part| meets(part, name, by)),
        Condition::Or(parts) => parts.iter().any(|part| meets(part, name, by)),
        Condition::Exists(field, wanted) => (*field != Field::Date) == *wanted,
        Condition::Text(field, test, value) => {
            let text = match field {
                Field::Name | Field::Album => name,
                Field::Artist => by.unwrap_or(name),
                Field::Date => return false,
            };
            let (text, value) = (text.to_lowercase(), value.to_lowercase());
            match test {
                Test::Is => text == value,
                Test::IsNot => text != value,
                Test::Contains => text.contains(&value),
                Test::Lacks => !text.contains(&value),
                Test::Before => text < value,
                Test::UpTo => text <= value,
                Test::After => text > value,
                Test::From => text >= value,
            }
        }
    }
}

async fn children(
    inner: &Arc<Inner>,
    asker: &Asker,
    container: Container,
    order: Order,
    update: u32,
) -> Result<Children, Fault> {
    if !asker.let_in {
        return match container {
            Container::Root => Ok(Children::Fixed(Arc::new([Container::LetIn]))),
            Container::LetIn => Ok(Children::Fixed(Arc::default())),
            _ => Err(Fault::NoObject),
        };
    }
    let key = match container {
        Container::LetIn => return Ok(Children::Fixed(Arc::default())),
        Container::List(shelf) => Key::Titles(shelf, order),
        Container::Groups(groups) => Key::Groups(groups),
        Container::Dated(kind) => Key::Groups(Groups::Months(kind)),
        Container::Music => {
            return Ok(Children::Fixed(Arc::new([
                Container::Groups(Groups::Artists),
                Container::Groups(Groups::Albums),
                home_of(MediaKind::Audio),
            ])));
        }
        Container::Root => {
            let read = |shelf: &Reader<'_>| {
                let mut top = Vec::new();
                for (kind, container) in [
                    (Some(MediaKind::Audio), Container::Music),
                    (Some(MediaKind::Image), Container::Dated(MediaKind::Image)),
                    (Some(MediaKind::Video), Container::Dated(MediaKind::Video)),
                    (None, Container::Groups(Groups::Homes)),
                ] {
                    if shelf.any(kind)? {
                        top.push(container);
                    }
                }
                Ok(top)
            };
            let top = inner.library.on_shelf(read).await;
            return Ok(Children::Fixed(top.map_err(|e| failed(&e))?.into()));
        }
    };
    let children = match inner.lists.find(&key, update) {
        Some(children) => children,
        None => look_up(inner, key, update).await?,
    };
    Ok(match (container, children) {
        // All of the kind, then its months.
        (Container::Dated(kind), Children::Groups(_, months)) => {
            let all = std::iter::once(home_of(kind)).chain(
                months
                    .iter()
                    .map(|group| Container::of_group(Groups::Months(kind), group.key)),
            );
            Children::Fixed(all.collect())
        }
        (_, children) => children,
    })
}

async fn look_up(inner: &Arc<Inner>, key: Key, update: u32) -> Result<Children, Fault> {
    let wanted = key.clone();
    let read = move |shelf: &Reader<'_>| {
        Ok(match wanted {
            Key::Titles(list, order) => shelf
                .ids(list, order)?
                .map(|ids| Children::Titles(ids.into())),
            Key::Groups(groups) => Some(Children::Groups(groups, shelf.groups(groups)?.into())),
            Key::Search(..) => None,
        })
    };
    let found = inner.library.on_shelf(read).await.map_err(|e| failed(&e))?;
    let children = found.ok_or(Fault::NoObject)?;
    inner.lists.keep(key, update, &children);
    Ok(children)
}

/// One object by itself.
async fn metadata(
    inner: &Arc<Inner>,
    asker: Asker,
    object: Object,
    filter: Filter,
) -> Result<Body, Fault> {
    let visible = matches!(
        object,
        Object::Container(Container::Root | Container::LetIn)
    );
    if !asker.let_in && !visible {
        return Err(Fault::NoObject);
    }
    let mut out = String::new();
    soap::open_answer(&mut out, SERVICE, "Browse");
    out.push_str("<Result>");
    let within = match object {
        Object::Item(within, _) => within,
        Object::Container(_) => None,
    };
    let mut didl = Didl::new(
        out,
        filter,
        inner.playback.passes(asker.peer.ip()),
        asker.base.clone(),
        within,
    );
    didl.open();
    let update = inner.update_id();
    let count = match object {
        Object::Container(container) if asker.let_in || container == Container::Root => Some(
            children(inner, &asker, container, Order::default(), update)
                .await?
                .len() as u32,
        ),
        _ => None,
    };
    let words = asker.words();
    let read = move |shelf: &Reader<'_>| {
        match object {
            Object::Container(container) => {
                write_container(shelf, &mut didl, container, count, &words)?;
            }
            Object::Item(_, slot) => shelf.each(&[slot], |row| didl.item(row))?,
        }
        didl.close();
        Ok(didl)
    };
    let didl = inner.library.on_shelf(read).await.map_err(|e| failed(&e))?;
    if didl.objects == 0 {
        return Err(Fault::NoObject);
    }
    let mut out = didl.out;
    finish(&mut out, "Browse", 1, 1, update);
    Ok(out.into())
}

fn finish(out: &mut String, action: &str, returned: u32, total: u32, update: u32) {
    write!(
        out,
        "</Result><NumberReturned>{returned}</NumberReturned><TotalMatches>{total}</TotalMatches>\
         <UpdateID>{update}</UpdateID>"
    )
    .expect("a String takes all");
    soap::close_answer(out, action);
}

/// Writes a container under its name; nothing where it is a group that is gone.
fn write_container(
    shelf: &Reader<'_>,
    didl: &mut Didl,
    container: Container,
    count: Option<u32>,
    words: &Words,
) -> rusqlite::Result<()> {
    let group = match container {
        Container::List(Shelf::Artist(slot)) => Some((Groups::Artists, slot)),
        Container::List(Shelf::Album(slot)) => Some((Groups::Albums, slot)),
        Container::List(Shelf::Home(slot)) => Some((Groups::Homes, slot)),
        _ => None,
    };
    if let Some((groups, slot)) = group {
        if let Some(found) = shelf.group_name(groups, slot)? {
            didl.container(container, &found.name, found.by.as_deref(), count);
        }
        return Ok(());
    }
    let month;
    let name = match container {
        Container::Root => &words.root,
        Container::LetIn => &words.let_in,
        Container::Music => "Music",
        Container::Groups(Groups::Artists) => "Artists",
        Container::Groups(Groups::Albums) => "Albums",
        Container::Groups(Groups::Homes) => "From other homes",
        Container::List(Shelf::Kind(MediaKind::Audio)) => "All music",
        Container::List(Shelf::Kind(MediaKind::Image)) => "All pictures",
        Container::List(Shelf::Kind(_)) => "All videos",
        Container::List(Shelf::Month(_, number)) => {
            month = month_name(number);
            &month
        }
        Container::Dated(MediaKind::Video) => "Videos",
        Container::Dated(_) | Container::Groups(_) | Container::List(_) => "Pictures",
    };
    didl.container(container, name, None, count);
    Ok(())
}

/// Names that depend on the home.
#[derive(Clone)]
pub struct Words {
    /// Of the top.
    pub root: String,
    /// Of the only entry that a player sees that nobody let in.
    pub let_in: String,
}

impl Listing {
    #[allow(
        clippy::too_many_arguments,
        reason = "what an answer depends on, from two actions; there is nothing to group"
    )]
    fn new(
        inner: &Arc<Inner>,
        asker: Asker,
        action: &'static str,
        children: Children,
        call: &Call,
        filter: Filter,
        within: Option<Container>,
        update: u32,
    ) -> Result<Self, Fault> {
        let total = children.len();
        let next = (call.number("StartingIndex")? as usize).min(total);
        let count = match call.number("RequestedCount")? {
            0 => MAX_PAGE,
            count => count.min(MAX_PAGE),
        };
        Ok(Self {
            inner: Arc::clone(inner),
            asker,
            action,
            within,
            filter,
            next,
            end: total.min(next + count as usize),
            children,
            written: 0,
            update,
        })
    }

    /// A short answer whole, with its length; a long one in pieces as they are written.
    async fn into_body(mut self) -> Result<Body, Fault> {
        let mut out = String::with_capacity(PIECE_BYTES.min((self.end - self.next + 2) * 1024));
        soap::open_answer(&mut out, SERVICE, self.action);
        out.push_str("<Result>");
        let out = self.piece(out, true).await?;
        if self.next == self.end {
            return Ok(out.into());
        }
        let first = Ok::<_, Fault>(Bytes::from(out));
        let rest = stream::try_unfold(self, |mut listing| async move {
            if listing.next == listing.end {
                return Ok(None);
            }
            let out = listing
                .piece(String::with_capacity(PIECE_BYTES), false)
                .await?;
            Ok(Some((Bytes::from(out), listing)))
        });
        let pieces = futures_util::StreamExt::chain(stream::iter([first]), rest);
        Ok(Body::from_stream(futures_util::TryStreamExt::map_err(
            pieces,
            |fault: Fault| std::io::Error::other(fault.words().1),
        )))
    }

    /// Writes the next piece, and the end of the answer with the last one.
    async fn piece(&mut self, out: String, first: bool) -> Result<String, Fault> {
        let (from, to) = (self.next, self.end.min(self.next + PIECE));
        let mut didl = Didl::new(
            out,
            self.filter,
            self.inner.playback.passes(self.asker.peer.ip()),
            self.asker.base.clone(),
            self.within,
        );
        let (children, words) = (self.children.clone(), self.asker.words());
        let last = to == self.end;
        let read = move |shelf: &Reader<'_>| {
            if first {
                didl.open();
            }
            match children {
                Children::Titles(ids) => shelf.each(&ids[from..to], |row| didl.item(row))?,
                Children::Groups(groups, all) => {
                    for group in &all[from..to] {
                        let container = Container::of_group(groups, group.key);
                        write_container(shelf, &mut didl, container, Some(group.titles), &words)?;
                    }
                }
                Children::Fixed(all) => {
                    for container in &all[from..to] {
                        write_container(shelf, &mut didl, *container, None, &words)?;
                    }
                }
            }
            if last {
                didl.close();
            }
            Ok(didl)
        };
        let didl = self
            .inner
            .library
            .on_shelf(read)
            .await
            .map_err(|e| failed(&e))?;
        self.written += didl.objects;
        self.next = to;
        let mut out = didl.out;
        if last {
            let total = self.children.len() as u32;
            finish(&mut out, self.action, self.written, total, self.update);
        }
        Ok(out)
    }
}
