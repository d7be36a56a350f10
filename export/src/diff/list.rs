//! Two lists of named things: what is in one only, what differs, what stands elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// A property with its two values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its name.
    pub field: String,
    /// In A.
    pub a: String,
    /// In B.
    pub b: String,
}

impl Field {
    /// The property, if its values differ.
    pub(super) fn new(field: &str, a: impl ToString, b: impl ToString) -> Option<Field> {
        let (a, b) = (a.to_string(), b.to_string());
        (a != b).then(|| Field { field: field.to_owned(), a, b })
    }
}

/// What happened to a thing on the way from A to B.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is in A only. Its text.
    Removed(String),
    /// It is in B only. Its text.
    Added(String),
    /// It is in both under different names. The name in B.
    Renamed(String),
    /// It is in both and differs.
    Changed(Vec<Field>),
    /// It stands behind another thing of B, or first.
    Moved(Option<String>),
}

/// A thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Its name, in A unless it is in B only.
    pub name: String,
    /// What happened.
    pub change: Change,
}

/// One side of a list.
pub(super) struct Named<'a, T> {
    pub(super) name: &'a str,
    pub(super) item: &'a T,
}

/// Compares two lists by name. `renamed` leads from names in A to names in B where those differ, `show` prints a
/// thing of one side, `fields` compares the two of one name.
pub(super) fn compare<T>(
    a: &[Named<'_, T>],
    b: &[Named<'_, T>],
    renamed: &BTreeMap<String, String>,
    show_a: impl Fn(&T) -> String,
    show_b: impl Fn(&T) -> String,
    fields: impl Fn(&T, &T) -> Vec<Field>,
) -> Vec<Item> {
    let index: BTreeMap<&str, usize> = b.iter().enumerate().map(|(at, b)| (b.name, at)).collect();
    let mut items = Vec::new();
    // Places in B of what is in both, in the order of A.
    let mut places = Vec::new();
    for one in a {
        let name = renamed.get(one.name).map_or(one.name, String::as_str);
        let mut put = |change| items.push(Item { name: one.name.to_owned(), change });
        let Some((at, other)) = index.get(name).and_then(|at| Some((*at, b.get(*at)?))) else {
            put(Change::Removed(show_a(one.item)));
            continue;
        };
        places.push(at);
        if name != one.name {
            put(Change::Renamed(name.to_owned()));
        }
        let fields = fields(one.item, other.item);
        if !fields.is_empty() {
            put(Change::Changed(fields));
        }
    }
    let in_both: BTreeSet<usize> = places.iter().copied().collect();
    let stay = longest_ascending(&places);
    for (at, one) in b.iter().enumerate() {
        let change = if !in_both.contains(&at) {
            Change::Added(show_b(one.item))
        } else if !stay.contains(&at) {
            Change::Moved(at.checked_sub(1).and_then(|before| b.get(before)).map(|one| one.name.to_owned()))
        } else {
            continue;
        };
        items.push(Item { name: one.name.to_owned(), change });
    }
    items
}

/// The members of one longest ascending subsequence of distinct numbers.
fn longest_ascending(numbers: &[usize]) -> BTreeSet<usize> {
    // For each length, the position of the least number that ends such a subsequence.
    let mut ends = Vec::<usize>::new();
    let mut before = vec![None; numbers.len()];
    for (at, number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|end| numbers[*end] < *number);
        before[at] = length.checked_sub(1).map(|length| ends[length]);
        if length == ends.len() {
            ends.push(at);
        } else {
            ends[length] = at;
        }
    }
    let mut members = BTreeSet::new();
    let mut next = ends.last().copied();
    while let Some(at) = next {
        members.insert(numbers[at]);
        next = before[at];
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &'static str) -> Vec<Named<'static, char>> {
        text.char_indices().map(|(at, _)| Named { name: &text[at..at + 1], item: &'x' }).collect()
    }

    fn changes(a: &'static str, b: &'static str) -> Vec<(String, Change)> {
        let items =
            compare(&list(a), &list(b), &BTreeMap::new(), |_| "a".into(), |_| "b".into(), |_, _| vec![]);
        items.into_iter().map(|item| (item.name, item.change)).collect()
    }

    #[test]
    fn few_things_move() {
        assert!(changes("abcde", "abcde").is_empty());
        assert_eq!(changes("abcde", "bcdea"), [("a".into(), Change::Moved(Some("e".into())))]);
        assert_eq!(changes("abcde", "eabcd"), [("e".into(), Change::Moved(None))]);
        assert_eq!(
            changes("abc", "axc"),
            [("b".into(), Change::Removed("a".into())), ("x".into(), Change::Added("b".into()))]
        );
    }

    #[test]
    fn subsequences() {
        let members = |numbers: &[usize]| longest_ascending(numbers).into_iter().collect::<Vec<_>>();
        assert!(members(&[]).is_empty());
        assert_eq!(members(&[3, 1, 2, 0, 4]), [1, 2, 4]);
        assert_eq!(members(&[4, 3, 2]).len(), 1);
    }
}
