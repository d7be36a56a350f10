//! Layers in names: `l3.ffn.moe` is `lN.ffn.moe` of layer 3. What differs alike in many layers is said once.

use std::fmt::Write;

/// The layer that a name belongs to.
pub(super) fn layer(name: &str) -> Option<u32> {
    prefix(name).map(|(layer, _)| layer)
}

/// A layer's number and the length of `l3.`, where a text starts with one.
fn prefix(text: &str) -> Option<(u32, usize)> {
    let digits = text.strip_prefix('l')?;
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = digits.split_at(length);
    rest.starts_with('.').then_some(())?;
    Some((number.parse().ok()?, length + 2))
}

/// `text` as seen from a layer: names of that layer start with `lN.`, those of the one before with `lN-1.`.
pub(super) fn relative(text: &str, layer: u32) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut inside = false;
    while let Some(c) = rest.chars().next() {
        if !inside && let Some((found, length)) = prefix(rest) {
            out.push_str("lN");
            if found != layer {
                let _ = write!(out, "{:+}", i64::from(found) - i64::from(layer));
            }
            out.push('.');
            rest = &rest[length..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
        inside = c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    }
    out
}

/// `0-3, 7`: the numbers in ascending order as ranges.
pub(super) fn ranges(mut layers: Vec<u32>) -> String {
    layers.sort_unstable();
    layers.dedup();
    let mut out = String::new();
    let runs = layers.chunk_by(|a, b| a + 1 == *b);
    for run in runs {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let separator = if out.is_empty() { "" } else { ", " };
        let _ = match last - first {
            0 => write!(out, "{separator}{first}"),
            1 => write!(out, "{separator}{first}, {last}"),
            _ => write!(out, "{separator}{first}-{last}"),
        };
    }
    out
}

/// Things of which each member says the same but for its layer.
#[derive(Debug)]
pub(super) struct Group<T> {
    /// What all say: of one member as it is, of many as seen from their layers.
    pub(super) text: String,
    /// The layers, where there are many members.
    pub(super) layers: Vec<u32>,
    /// The members, in their order.
    pub(super) members: Vec<T>,
}

/// Groups items in the order of the first of each group. `text` is what an item says, starting with its name.
pub(super) fn group<T>(items: impl IntoIterator<Item = T>, text: impl Fn(&T) -> String) -> Vec<Group<T>> {
    let mut groups = Vec::<Group<T>>::new();
    let mut known = std::collections::BTreeMap::<String, usize>::new();
    for item in items {
        let plain = text(&item);
        let layer = layer(plain.trim_start_matches(['+', '-', '%', '@', ' ']));
        let key = layer.map_or_else(|| plain.clone(), |layer| relative(&plain, layer));
        let at = *known.entry(key.clone()).or_insert_with(|| {
            groups.push(Group { text: plain, layers: Vec::new(), members: Vec::new() });
            groups.len() - 1
        });
        let Some(group) = groups.get_mut(at) else { continue };
        group.layers.extend(layer);
        group.members.push(item);
        if group.members.len() > 1 {
            group.text = key;
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_names() {
        assert_eq!(layer("l12.ffn.moe"), Some(12));
        for other in ["last", "l.x", "l1", "l1x.y", "embed", "l99999999999.x", ""] {
            assert_eq!(layer(other), None, "{other}");
        }
    }

    #[test]
    fn neighbours_are_relative() {
        let text = "l3.out LinearAdd [l3.gate, %l3.out, l2.ffn.moe:1, all1.x] \"l30.y\" é";
        let expected = "lN.out LinearAdd [lN.gate, %lN.out, lN-1.ffn.moe:1, all1.x] \"lN+27.y\" é";
        assert_eq!(relative(text, 3), expected);
    }

    #[test]
    fn runs_of_layers() {
        assert_eq!(ranges(vec![3, 0, 1, 2, 7, 9, 10]), "0-3, 7, 9, 10");
        assert_eq!(ranges(vec![]), "");
        assert_eq!(ranges(vec![u32::MAX, u32::MAX - 1]), "4294967294, 4294967295");
    }

    #[test]
    fn equal_but_for_the_layer_is_one_group() {
        let items = ["l0.a: x l0.b", "head: y", "l1.a: x l1.b", "l2.a: x l1.b"];
        let groups = group(items, |item| (*item).to_owned());
        let texts: Vec<&str> = groups.iter().map(|group| group.text.as_str()).collect();
        assert_eq!(texts, ["lN.a: x lN.b", "head: y", "l2.a: x l1.b"]);
        assert_eq!(groups[0].layers, [0, 1]);
    }
}
