//! Ordered maps and sets that allocate nothing for one entry. Most paths have one contender, and a `BTreeMap` makes room
//! for eleven entries at once.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Index, RangeBounds};

/// An ordered map. It keeps one entry in place, and more in a tree, until it is empty again. Two are equal if their
/// entries are.
#[derive(Clone)]
pub(crate) struct SmallMap<K, V>(Entries<K, V>);

/// An ordered set.
pub(crate) type SmallSet<K> = SmallMap<K, ()>;

#[derive(Clone)]
enum Entries<K, V> {
    One(Option<(K, V)>),
    // Boxed, because few maps have one, and its three words would enlarge all of them.
    #[allow(clippy::box_collection)]
    Tree(Box<BTreeMap<K, V>>),
}

impl<K: Ord, V> SmallMap<K, V> {
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Entries::One(None))
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            Entries::One(entry) => usize::from(entry.is_some()),
            Entries::Tree(tree) => tree.len(),
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        match &self.0 {
            Entries::One(entry) => entry.as_ref().filter(|(other, _)| other == key).map(|(_, value)| value),
            Entries::Tree(tree) => tree.get(key),
        }
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match &mut self.0 {
            Entries::One(entry) => entry.as_mut().filter(|(other, _)| other == key).map(|(_, value)| value),
            Entries::Tree(tree) => tree.get_mut(key),
        }
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Adds an entry, or replaces the one with this key.
    pub fn insert(&mut self, key: K, value: V) {
        self.make_room(&key);
        match &mut self.0 {
            Entries::One(entry) => *entry = Some((key, value)),
            Entries::Tree(tree) => drop(tree.insert(key, value)),
        }
    }

    /// The value of this key, which `make` makes if there is none.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce(&K) -> V) -> &mut V {
        self.make_room(&key);
        match &mut self.0 {
            Entries::One(entry) => {
                let make = || {
                    let value = make(&key);
                    (key, value)
                };
                &mut entry.get_or_insert_with(make).1
            }
            Entries::Tree(tree) => tree.entry(key).or_insert_with_key(make),
        }
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        match &mut self.0 {
            Entries::One(entry) => entry.take_if(|(other, _)| other == key).map(|(_, value)| value),
            Entries::Tree(tree) => {
                let removed = tree.remove(key);
                if tree.is_empty() {
                    self.clear();
                }
                removed
            }
        }
    }

    /// Removes the entries for which `keep` is not true.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        match &mut self.0 {
            Entries::One(entry) => drop(entry.take_if(|(key, value)| !keep(key, value))),
            Entries::Tree(tree) => {
                tree.retain(keep);
                if tree.is_empty() {
                    self.clear();
                }
            }
        }
    }

    pub fn clear(&mut self) {
        self.0 = Entries::One(None);
    }

    /// The entries, in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.range(..)
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entries whose keys are in this range, in order.
    pub fn range(&self, range: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        let (one, tree) = match &self.0 {
            Entries::One(entry) => (entry.as_ref().filter(|(key, _)| range.contains(key)), None),
            Entries::Tree(tree) => (None, Some(tree.range::<K, _>(range))),
        };
        one.map(|(key, value)| (key, value)).into_iter().chain(tree.into_iter().flatten())
    }

    /// Moves the one entry to a tree, unless it has this key.
    fn make_room(&mut self, key: &K) {
        if let Entries::One(entry) = &mut self.0 {
            if let Some(other) = entry.take_if(|(other, _)| other != key) {
                self.0 = Entries::Tree(Box::new(BTreeMap::from([other])));
            }
        }
    }
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> SmallMap<K, V> {
        SmallMap(Entries::One(None))
    }
}

impl<K: Ord, V> Index<&K> for SmallMap<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("an entry with this key")
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SmallMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> SmallMap<K, V> {
        let mut map = SmallMap::default();
        entries.into_iter().for_each(|(key, value)| map.insert(key, value));
        map
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SmallMap<K, V> {
    fn eq(&self, other: &SmallMap<K, V>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<K: Ord, V: Eq> Eq for SmallMap<K, V> {}

impl<K: Ord + Hash, V: Hash> Hash for SmallMap<K, V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len().hash(state);
        self.iter().for_each(|entry| entry.hash(state));
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for SmallMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::DefaultHasher;

    use super::*;

    fn hash(map: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        map.hash(&mut hasher);
        hasher.finish()
    }

    /// Every sequence of five changes of three keys.
    #[test]
    fn it_has_the_entries_of_a_tree_after_every_change() {
        const KEYS: u8 = 3;
        const CHANGES: u32 = 5;
        let kinds = u32::from(2 * KEYS);
        for sequence in 0..kinds.pow(CHANGES) {
            let (mut map, mut tree) = (SmallMap::default(), BTreeMap::new());
            for step in 0..CHANGES {
                let change = sequence / kinds.pow(step) % kinds;
                let key = (change % u32::from(KEYS)) as u8;
                if change < u32::from(KEYS) {
                    assert_eq!(map.get_or_insert_with(key, |_| step), tree.entry(key).or_insert(step));
                    map.insert(key, step);
                    tree.insert(key, step);
                } else {
                    assert_eq!(map.remove(&key), tree.remove(&key));
                }
                assert!(map.iter().eq(tree.iter()) && map.iter().rev().eq(tree.iter().rev()));
                assert_eq!((map.len(), map.is_empty()), (tree.len(), tree.is_empty()));
                for key in 0..KEYS {
                    assert_eq!(map.get(&key), tree.get(&key));
                    assert_eq!(map.get_mut(&key), tree.get_mut(&key));
                    assert!(map.range(..key).eq(tree.range(..key)) && map.range(key..).eq(tree.range(key..)));
                }
            }
        }
    }

    #[test]
    fn only_its_entries_are_compared_and_hashed() {
        let one = SmallMap::from_iter([(1, 'a')]);
        let mut tree = SmallMap::from_iter([(1, 'a'), (2, 'b')]);
        assert!(one != tree && hash(&one) != hash(&tree));
        tree.remove(&2);
        assert_eq!((hash(&one), &one), (hash(&tree), &tree));
        assert_eq!(format!("{one:?}"), format!("{tree:?}"));
        tree.insert(1, 'c');
        assert_ne!(one, tree);
        tree.clear();
        assert_eq!(tree, SmallMap::default());
    }
}
