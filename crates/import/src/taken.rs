//! What was taken in one pass, by place in its view.
//!
//! - Invariant: a place means the same name all the time; when the view changes it is made anew, by [`Taker::into_names`].
//! - Not here: taking (`crate::intake`).

use crate::facts::FileFacts;
use crate::view::{NoFile, View};

/// What became of a file.
#[derive(Debug, Clone)]
pub(crate) enum Taken {
    /// It is in the store.
    Facts(FileFacts),
    /// It is not what the view says any more.
    Moved,
    /// It cannot be read.
    None(NoFile),
}

/// What was taken. There may be as many as the source has names.
#[derive(Debug, Default)]
pub(crate) struct Taker {
    by_place: Vec<Option<Taken>>,
}

impl Taker {
    pub(crate) fn get(&self, at: usize) -> Option<&Taken> {
        self.by_place.get(at)?.as_ref()
    }

    pub(crate) fn insert(&mut self, at: usize, taken: Taken) {
        if self.by_place.len() <= at {
            self.by_place.resize(at + 1, None);
        }
        if let Some(slot) = self.by_place.get_mut(at) {
            *slot = Some(taken);
        }
    }

    pub(crate) fn remove(&mut self, at: usize) {
        if let Some(slot) = self.by_place.get_mut(at) {
            *slot = None;
        }
    }

    /// Room for so many places at once.
    pub(crate) fn reserve(&mut self, places: usize) {
        let more = places.saturating_sub(self.by_place.len());
        self.by_place.reserve_exact(more);
    }

    /// All of it by name, for when `view` changes.
    pub(crate) fn into_names(self, view: &View) -> Vec<(Box<[u8]>, Taken)> {
        let taken = self.by_place.into_iter().zip(&view.files);
        taken
            .filter_map(|(taken, (path, _))| Some((path.clone(), taken?)))
            .collect()
    }

    /// The same by place in `view`; names that it does not have are forgotten.
    pub(crate) fn of_names(names: Vec<(Box<[u8]>, Taken)>, view: &View) -> Self {
        let mut taker = Self::default();
        for (path, taken) in names {
            if let Some(at) = view.position(&path) {
                taker.insert(at, taken);
            }
        }
        taker
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Item;

    fn view(names: &[&str]) -> View {
        let item = |name: &&str| (name.as_bytes().into(), Item::None(NoFile::Absent));
        View {
            files: names.iter().map(item).collect(),
            ..View::default()
        }
    }

    #[test]
    fn a_name_keeps_what_was_taken_where_others_come_before_it_or_go() {
        let (old, new) = (view(&["a", "c", "d"]), view(&["b", "c"]));
        let mut taken = Taker::default();
        taken.insert(1, Taken::Moved);
        taken.insert(2, Taken::None(NoFile::Denied));
        let mut taken = Taker::of_names(taken.into_names(&old), &new);
        assert!(matches!(taken.get(1), Some(Taken::Moved)));
        assert!(taken.get(0).is_none() && taken.get(2).is_none());
        taken.remove(1);
        assert!(taken.get(1).is_none());
    }
}
