//! Walking through everything that a source of media has: a pure plan of what to open next, and the loop that does it.
//!
//! A source is a graph drawn by a stranger: containers may contain themselves, grow while one reads, repeat the same
//! page for ever, or list every file under ten names ("by date", "by folder"). The plan opens each container once,
//! gives out each file once, and every count has a bound.

use std::collections::{BTreeSet, HashSet, VecDeque};

use crate::MediaSource;
use crate::media::{
    Entry, Item, ListError, Location, MAX_PAGE, ObjectId, Page, PageRequest, WalkLimits,
};

/// Containers in a row that may fail before a walk gives up.
const MAX_FAILURES_IN_A_ROW: u32 = 16;

/// How much of a source is looked through for a word in a title.
pub(crate) const LOOKED_THROUGH: WalkLimits = WalkLimits {
    depth: 16,
    containers: 500,
    items: 20_000,
};

/// What a walk saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkSummary {
    /// Items given out.
    pub items: u32,
    /// Containers opened.
    pub containers: u32,
    /// Items listed again under another id.
    pub repeated: u32,
    /// Entries and resources that were refused (see [`Page::refused`]).
    pub refused: u32,
    /// Containers that could not be listed.
    pub failed_containers: u32,
    /// Whether a limit ended the walk or left something out.
    pub cut: bool,
}

/// Which container is opened next; pure.
#[derive(Debug)]
pub(crate) struct Plan {
    limits: WalkLimits,
    waiting: VecDeque<(ObjectId, u32)>,
    opened: HashSet<ObjectId>,
    /// Where files given out are, and the ids that they go by.
    given: HashSet<Location>,
    given_ids: HashSet<ObjectId>,
    current: Option<(ObjectId, u32, u32)>,
    ready: VecDeque<Item>,
    pages_left: u32,
    summary: WalkSummary,
}

impl Plan {
    pub(crate) fn new(limits: WalkLimits, roots: impl IntoIterator<Item = ObjectId>) -> Self {
        let roots: BTreeSet<ObjectId> = roots.into_iter().collect();
        Self {
            limits,
            opened: roots.iter().cloned().collect(),
            waiting: roots.into_iter().map(|root| (root, 0)).collect(),
            given: HashSet::new(),
            given_ids: HashSet::new(),
            current: None,
            ready: VecDeque::new(),
            // Each container costs a page, and items come many to a page: a server that trickles is cut off.
            pages_left: limits
                .containers
                .saturating_add(limits.items / 8)
                .saturating_add(1),
            summary: WalkSummary::default(),
        }
    }

    /// The next item that is known already.
    pub(crate) fn pop(&mut self) -> Option<Item> {
        self.ready.pop_front()
    }

    /// The next page to ask for; `None` at the end.
    pub(crate) fn next_page(&mut self) -> Option<(ObjectId, PageRequest)> {
        if self.summary.items >= self.limits.items || self.pages_left == 0 {
            self.summary.cut |= self.current.is_some() || !self.waiting.is_empty();
            return None;
        }
        if self.current.is_none() {
            let (id, depth) = self.waiting.pop_front()?;
            self.summary.containers += 1;
            self.current = Some((id, depth, 0));
        }
        self.pages_left -= 1;
        let (id, _, start) = self.current.as_ref()?;
        Some((
            id.clone(),
            PageRequest {
                start: *start,
                count: MAX_PAGE,
            },
        ))
    }

    /// Takes in the page that was asked for.
    pub(crate) fn take(&mut self, page: Page) {
        let Some((id, depth, start)) = self.current.take() else {
            return;
        };
        self.summary.refused = self.summary.refused.saturating_add(page.refused);
        for entry in page.entries {
            match entry {
                Entry::Container(container) => self.note_container(container.id, depth + 1),
                Entry::Item(item) => self.note_item(item),
            }
        }
        if let Some(next) = page.next.filter(|next| *next > start) {
            self.current = Some((id, depth, next));
        }
    }

    /// The page that was asked for could not be had: goes on with the next container.
    pub(crate) fn fail(&mut self) {
        self.current = None;
        self.summary.failed_containers += 1;
    }

    fn note_container(&mut self, id: ObjectId, depth: u32) {
        if depth > self.limits.depth || self.opened.len() >= self.limits.containers as usize {
            self.summary.cut |= !self.opened.contains(&id);
        } else if self.opened.insert(id.clone()) {
            self.waiting.push_back((id, depth));
        }
    }

    fn note_item(&mut self, item: Item) {
        let Some(original) = item.original() else {
            // Nothing that could be fetched; its resources were counted as refused.
            return;
        };
        let id = item.original_id.as_ref().unwrap_or(&item.id);
        // By its id where a listing refers to another (rygel gives each reference a URL of its own), else by its URL.
        let known = self.given_ids.contains(id) || self.given.contains(&original.location);
        if known {
            self.summary.repeated = self.summary.repeated.saturating_add(1);
        } else if self.summary.items >= self.limits.items {
            self.summary.cut = true;
        } else {
            self.given_ids.insert(id.clone());
            self.given.insert(original.location.clone());
            self.summary.items += 1;
            self.ready.push_back(item);
        }
    }
}

/// A walk under way: call [`Walk::next`] until it gives `None`.
#[derive(Debug)]
pub struct Walk {
    source: MediaSource,
    top: ObjectId,
    plan: Plan,
    failures: u32,
}

impl Walk {
    pub(crate) fn from(
        source: MediaSource,
        roots: impl IntoIterator<Item = ObjectId>,
        limits: WalkLimits,
    ) -> Self {
        Self {
            top: source.top(),
            source,
            plan: Plan::new(limits, roots),
            failures: 0,
        }
    }

    /// The next item; asks the source when none is at hand. A single container that cannot be listed is skipped and
    /// counted; an error means that the walk should be given up and begun again later.
    pub async fn next(&mut self) -> Result<Option<Item>, ListError> {
        loop {
            if let Some(item) = self.plan.pop() {
                return Ok(Some(item));
            }
            let Some((container, page)) = self.plan.next_page() else {
                return Ok(None);
            };
            match self.source.list(&container, page).await {
                Ok(page) => {
                    self.failures = 0;
                    self.plan.take(page);
                }
                Err(error @ ListError::Unreachable { .. }) => return Err(error),
                Err(error) => {
                    self.failures += 1;
                    self.plan.fail();
                    if container == self.top || self.failures >= MAX_FAILURES_IN_A_ROW {
                        return Err(error);
                    }
                    tracing::debug!(%container, %error, "container skipped");
                }
            }
        }
    }

    /// One page of the items that have `text` in their title, in upper or lower case.
    pub(crate) async fn titled(mut self, text: &str, page: PageRequest) -> Result<Page, ListError> {
        let (wanted, mut found) = (text.to_lowercase(), Page::default());
        while let Some(item) = self.next().await? {
            if !item.title.to_lowercase().contains(&wanted) {
                continue;
            }
            found.total += 1;
            if found.total > page.start.saturating_add(page.count) {
                found.next = Some(page.start + page.count);
                break;
            }
            if found.total > page.start {
                found.entries.push(Entry::Item(item));
            }
        }
        Ok(found)
    }

    /// What was seen so far; final once [`Walk::next`] gave `None`.
    pub fn summary(&self) -> WalkSummary {
        self.plan.summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Container, MediaKind, Resource};
    use crate::url::DeviceUrl;
    use proptest::prelude::*;

    fn container(id: &str) -> Entry {
        let id = ObjectId::new(id).expect("valid");
        Entry::Container(Container {
            id,
            title: "c".to_owned(),
            child_count: None,
        })
    }

    fn item(id: &str, path: &str) -> Entry {
        let owner = "10.0.0.7".parse().expect("an address");
        Entry::Item(Item {
            id: ObjectId::new(id).expect("valid"),
            original_id: None,
            title: id.to_owned(),
            class: String::new(),
            kind: MediaKind::Data,
            date: None,
            artist: None,
            album: None,
            resources: vec![Resource {
                location: Location::Url(
                    DeviceUrl::parse(&format!("http://10.0.0.7/{path}"), owner).expect("own"),
                ),
                mime: "video/mp4".to_owned(),
                protocol_info: String::new(),
                size_bytes: None,
                duration: None,
                resolution: None,
                converted: false,
            }],
        })
    }

    fn page(entries: Vec<Entry>, next: Option<u32>) -> Page {
        Page {
            total: entries.len() as u32,
            entries,
            next,
            refused: 0,
        }
    }

    /// Runs a plan against a server given as a function; returns titles and the summary.
    fn run(
        limits: WalkLimits,
        mut server: impl FnMut(&ObjectId, u32) -> Page,
    ) -> (Vec<String>, WalkSummary) {
        let mut plan = Plan::new(limits, [ObjectId::root()]);
        let mut titles = Vec::new();
        while let Some((id, request)) = plan.next_page() {
            plan.take(server(&id, request.start));
            while let Some(item) = plan.pop() {
                titles.push(item.title);
            }
        }
        (titles, plan.summary)
    }

    #[test]
    fn cycles_are_opened_once_and_files_given_once() {
        let (titles, summary) = run(WalkLimits::default(), |id, _| match id.as_str() {
            "0" => page(vec![container("a"), container("0"), item("1", "f")], None),
            "a" => page(
                vec![
                    container("0"),
                    container("a"),
                    item("2", "f"),
                    item("3", "g"),
                ],
                None,
            ),
            other => panic!("{other} does not exist"),
        });
        assert_eq!(titles, ["1", "3"]);
        assert_eq!(
            (summary.containers, summary.repeated, summary.cut),
            (2, 1, false)
        );
    }

    #[test]
    fn a_reference_with_a_url_of_its_own_is_the_same_file() {
        let (titles, summary) = run(WalkLimits::default(), |_, _| {
            let mut reference = item("by-date-1", "elsewhere");
            if let Entry::Item(item) = &mut reference {
                item.original_id = ObjectId::new("1");
            }
            page(vec![item("1", "f"), reference, item("2", "g")], None)
        });
        assert_eq!(
            (titles, summary.repeated),
            (vec!["1".to_owned(), "2".to_owned()], 1)
        );
    }

    #[test]
    fn an_endless_tree_ends_at_each_limit() {
        let limits = WalkLimits {
            depth: 3,
            containers: 50,
            items: 40,
        };
        let mut n = 0;
        let (titles, summary) = run(limits, |_, _| {
            n += 1;
            let ids: Vec<String> = (0..5).map(|i| format!("{n}-{i}")).collect();
            let mut entries: Vec<Entry> = ids.iter().map(|id| container(id)).collect();
            entries.extend(ids.iter().map(|id| item(id, id)));
            page(entries, None)
        });
        assert_eq!(titles.len(), 40);
        assert!(summary.cut && summary.containers <= 50);
    }

    #[test]
    fn a_server_that_repeats_one_page_for_ever_is_cut_off() {
        let limits = WalkLimits {
            depth: 3,
            containers: 5,
            items: 80,
        };
        let mut asked = 0_u32;
        let (titles, summary) = run(limits, |_, start| {
            asked += 1;
            page(vec![item("1", "f")], Some(start + 1))
        });
        assert_eq!((titles.len(), summary.cut), (1, true));
        assert!(asked <= 16, "{asked}");
    }

    #[test]
    fn a_page_that_goes_backwards_ends_its_container() {
        let mut asked = 0;
        let (_, summary) = run(WalkLimits::default(), |_, _| {
            asked += 1;
            page(vec![item("1", "f")], Some(0))
        });
        assert_eq!((asked, summary.items), (1, 1));
    }

    proptest! {
        #[test]
        fn any_graph_is_walked_within_the_limits(
            edges in proptest::collection::vec(proptest::collection::vec((0_u8..12, any::<bool>()), 0..8), 12),
            depth in 0_u32..5, containers in 1_u32..15, items in 1_u32..20,
        ) {
            let limits = WalkLimits { depth, containers, items };
            let mut asked = 0_u32;
            let (titles, summary) = run(limits, |id, start| {
                asked += 1;
                let at: usize = id.as_str().parse().expect("numbers only");
                let entries = edges[at].iter().map(|(to, leaf)| {
                    let name = to.to_string();
                    if *leaf { item(&name, &name) } else { container(&name) }
                }).collect();
                page(entries, (at.is_multiple_of(3)).then_some(start + 1))
            });
            prop_assert!(titles.len() <= items as usize);
            prop_assert!(summary.containers <= containers.max(1));
            prop_assert!(asked <= containers + items / 8 + 1);
            let distinct: HashSet<_> = titles.iter().collect();
            prop_assert_eq!(distinct.len(), titles.len());
        }
    }
}
