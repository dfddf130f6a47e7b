//! What waits to be played on one renderer, in order; pure. In memory only: after a restart a queue is empty.

use mantel_protocol::ids::TitleId;
use std::collections::VecDeque;

/// Titles that may wait for one renderer.
pub const MAX_QUEUE: usize = 200;

/// A title that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its place's name: the same title may wait twice.
    pub entry: u64,
    /// The title.
    pub title: TitleId,
    /// Its name.
    pub name: String,
}

/// Where in the queue a title goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    Next,
    /// After all others.
    Last,
}

/// One renderer's queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    named: u64,
}

impl Queue {
    /// Takes a title in. `false`: [`MAX_QUEUE`] wait already.
    pub(super) fn add(&mut self, title: TitleId, name: &str, place: Place) -> bool {
        if self.waiting.len() >= MAX_QUEUE {
            return false;
        }
        self.named += 1;
        let waiting = Waiting {
            entry: self.named,
            title,
            name: name.to_owned(),
        };
        match place {
            Place::Next => self.waiting.push_front(waiting),
            Place::Last => self.waiting.push_back(waiting),
        }
        true
    }

    /// Takes one out; nothing happens where it is gone already.
    pub(super) fn remove(&mut self, entry: u64) {
        self.waiting.retain(|waiting| waiting.entry != entry);
    }

    /// Puts one before all others.
    pub(super) fn promote(&mut self, entry: u64) {
        let found = self.waiting.iter().position(|one| one.entry == entry);
        if let Some(one) = found.and_then(|index| self.waiting.remove(index)) {
            self.waiting.push_front(one);
        }
    }

    /// Takes out what comes next.
    pub(super) fn take(&mut self) -> Option<Waiting> {
        self.waiting.pop_front()
    }

    /// All, in order.
    pub(super) fn all(&self) -> Vec<Waiting> {
        self.waiting.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(queue: &Queue) -> Vec<String> {
        queue.all().into_iter().map(|one| one.name).collect()
    }

    #[test]
    fn titles_are_added_moved_and_taken_in_order() {
        let mut queue = Queue::default();
        for (name, place) in [("b", Place::Last), ("c", Place::Last), ("a", Place::Next)] {
            assert!(queue.add(TitleId::generate(), name, place));
        }
        assert_eq!(names(&queue), ["a", "b", "c"]);
        queue.promote(2);
        queue.remove(1);
        queue.remove(99);
        assert_eq!(names(&queue), ["c", "a"]);
        assert_eq!(queue.take().map(|one| one.name).as_deref(), Some("c"));
        assert_eq!(names(&queue), ["a"]);
    }

    #[test]
    fn a_queue_is_bounded() {
        let mut queue = Queue::default();
        let taken = (0..MAX_QUEUE + 5)
            .filter(|_| queue.add(TitleId::generate(), "x", Place::Next))
            .count();
        assert_eq!((taken, queue.all().len()), (MAX_QUEUE, MAX_QUEUE));
    }
}
