//! A set of byte strings with a number each, in a double array, which costs one look-up per byte.

/// A trie in a double array: the child of state `s` by byte `b` is the slot `base[s] ^ b`, if the parent of
/// that slot is `s`.
#[derive(Debug)]
pub(super) struct Trie {
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    base: u32,
    /// The state that this slot is a child of, or [`NONE`] for a free slot.
    parent: u32,
    /// The number of the key that ends here, or [`NONE`].
    value: u32,
}

/// A state that has read some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State(u32);

const NONE: u32 = u32::MAX;
/// The state that has read nothing.
pub(super) const ROOT: State = State(0);

impl Trie {
    /// Builds the trie of keys that are not empty and differ. Numbers are below `u32::MAX`.
    pub fn new(mut keys: Vec<(&[u8], u32)>) -> Self {
        keys.sort_unstable();
        let free = Slot { base: 0, parent: NONE, value: NONE };
        let mut trie = Self { slots: vec![free; 256] };
        // The root is its own parent, so that no byte leads to it.
        trie.slots[0].parent = 0;
        let mut search = Search { first: 1 };
        // Ranges of keys that share `depth` bytes and have reached `state`.
        let mut open = vec![(0..keys.len(), 0, 0u32)];
        while let Some((mut range, depth, state)) = open.pop() {
            if let Some((key, value)) = keys.get(range.start).filter(|_| !range.is_empty())
                && key.len() == depth
            {
                trie.slots[state as usize].value = *value;
                range.start += 1;
            }
            let mut children: Vec<(u8, std::ops::Range<usize>)> = Vec::new();
            for at in range {
                let byte = keys[at].0[depth];
                match children.last_mut() {
                    Some((last, some)) if *last == byte => some.end = at + 1,
                    Some(_) | None => children.push((byte, at..at + 1)),
                }
            }
            if children.is_empty() {
                continue;
            }
            let base = search.base(&mut trie.slots, &children);
            trie.slots[state as usize].base = base;
            for (byte, some) in children.into_iter().rev() {
                let child = base ^ u32::from(byte);
                trie.slots[child as usize].parent = state;
                open.push((some, depth + 1, child));
            }
        }
        trie
    }

    /// The state after one more byte. `None` means that no key continues with it.
    #[inline]
    pub fn next(&self, from: State, byte: u8) -> Option<State> {
        let child = self.slots[from.0 as usize].base ^ u32::from(byte);
        // A leaf has base 0, and slot `0 ^ byte` then has another parent.
        let slot = self.slots.get(child as usize)?;
        (slot.parent == from.0 && child != 0).then_some(State(child))
    }

    /// The state after more bytes.
    pub fn walk(&self, from: State, bytes: &[u8]) -> Option<State> {
        bytes.iter().try_fold(from, |state, byte| self.next(state, *byte))
    }

    /// The number of the key that ends in a state.
    #[inline]
    pub fn value(&self, at: State) -> Option<u32> {
        Some(self.slots[at.0 as usize].value).filter(|value| *value != NONE)
    }

    /// The number of a key.
    pub fn get(&self, key: &[u8]) -> Option<u32> {
        self.walk(ROOT, key).and_then(|state| self.value(state))
    }

    /// The length of the longest key that `bytes` begin with.
    #[inline]
    pub fn longest(&self, bytes: &[u8]) -> Option<usize> {
        let (mut state, mut found) = (ROOT, None);
        for (at, byte) in bytes.iter().enumerate() {
            let Some(next) = self.next(state, *byte) else { break };
            state = next;
            if self.value(state).is_some() {
                found = Some(at + 1);
            }
        }
        found
    }
}

/// The search for free slots.
struct Search {
    /// No slot before this one is worth a try.
    first: u32,
}

/// Slots tried in vain before the search starts further behind.
const TRIES: u32 = 64;

impl Search {
    /// A base whose slots for all children are free.
    fn base<T>(&mut self, slots: &mut Vec<Slot>, children: &[(u8, T)]) -> u32 {
        let (mut at, mut tries) = (self.first, 0);
        loop {
            if at as usize + 256 >= slots.len() {
                let more = slots.len() + slots.len().max(1 << 12);
                slots.resize(more, Slot { base: 0, parent: NONE, value: NONE });
            }
            if slots[at as usize].parent == NONE {
                let base = at ^ u32::from(children[0].0);
                let free = |(byte, _): &(u8, T)| {
                    let slot = base ^ u32::from(*byte);
                    slot != 0 && slots.get(slot as usize).is_some_and(|s| s.parent == NONE)
                };
                if children.iter().all(free) {
                    return base;
                }
                tries += 1;
                if tries == TRIES {
                    self.first = at;
                }
            } else if at == self.first {
                self.first += 1;
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn keys_and_only_keys_are_found() {
        let mut random = 1u32;
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 16) % below
        };
        let keys: BTreeMap<Vec<u8>, u32> =
            (0..3000).map(|n| ((0..1 + next(6)).map(|_| (next(7) * 41) as u8).collect(), n)).collect();
        let trie = Trie::new(keys.iter().map(|(key, n)| (key.as_slice(), *n)).collect());
        for (key, n) in &keys {
            assert_eq!(trie.get(key), Some(*n));
        }
        for _ in 0..20_000 {
            let text: Vec<u8> = (0..next(8)).map(|_| (next(8) * 41) as u8).collect();
            assert_eq!(trie.get(&text), keys.get(&text).copied());
            let longest = (1..=text.len()).rev().find(|len| keys.contains_key(&text[..*len]));
            assert_eq!(trie.longest(&text), longest, "{text:?}");
        }
        let empty = Trie::new(vec![]);
        assert_eq!((empty.get(b"a"), empty.longest(b"\0a")), (None, None));
        assert_eq!(Trie::new(vec![(b"\0", 7)]).longest(b"\0\0"), Some(1));
    }
}
