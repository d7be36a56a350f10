//! Damage to files: bytes and texts that are almost right.

use lfm_graphs::testing::Rng;

/// Numbers that lie where checks go wrong.
pub const EDGES: [u64; 12] =
    [0, 1, 2, 7, 1 << 10, 1 << 16, (1 << 31) - 1, 1 << 31, u32::MAX as u64, 1 << 32, 1 << 63, u64::MAX];

/// Damages bytes: bits, cuts, splices, 8-byte fields. The text says what was done.
pub fn bytes(good: &[u8], rng: &mut Rng) -> (Vec<u8>, String) {
    let mut bad = good.to_vec();
    let at = place(good.len(), rng);
    let what = match rng.below(8) {
        0 | 1 => {
            bad[at] ^= 1 << rng.below(8);
            "a flipped bit in"
        }
        2 => {
            bad[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'(', b'9']);
            "another"
        }
        3 => {
            bad.truncate(at);
            "a cut at"
        }
        4 => {
            let from = place(good.len(), rng);
            let n = (1 + rng.below(200) as usize).min(good.len() - at).min(good.len() - from);
            bad[at..at + n].copy_from_slice(&good[from..from + n]);
            "other bytes of the file at"
        }
        5 => {
            let n = 1 + rng.below(100) as usize;
            bad.splice(at..at, good[..n.min(good.len())].iter().copied());
            "bytes put in at"
        }
        6 => {
            bad.drain(at..good.len().min(at + 1 + rng.below(100) as usize));
            "bytes taken out at"
        }
        _ => {
            let at = (at & !7).min(good.len().saturating_sub(8));
            let old = u64::from_le_bytes(good[at..at + 8].try_into().unwrap());
            let new = match rng.below(3) {
                0 => *rng.pick(&EDGES),
                1 => old.wrapping_add(1),
                _ => good.len() as u64 + rng.below(3) as u64 - 1,
            };
            bad[at..at + 8].copy_from_slice(&new.to_le_bytes());
            "another 8-byte number at"
        }
    };
    (bad, format!("{what} byte {at}"))
}

/// Any byte; half of the time one of the first kilobyte, where the lengths are.
fn place(len: usize, rng: &mut Rng) -> usize {
    let most = if rng.once_in(2) { len.min(1024) } else { len };
    rng.below(most as u32) as usize
}

/// Damages a text with numbers and quoted names: a number is changed, names and words are exchanged, lines are
/// dropped, doubled, exchanged. The text says what was done.
pub fn text(good: &str, rng: &mut Rng) -> (String, String) {
    match rng.below(10) {
        0..=4 => number(good, rng),
        5 | 6 => exchange(good, rng, spans(good, |c| c == b'"')),
        7 => exchange(good, rng, words(good)),
        _ => lines(good, rng),
    }
}

/// Changes one number.
fn number(good: &str, rng: &mut Rng) -> (String, String) {
    let numbers = runs(good, |c| c.is_ascii_digit());
    if numbers.is_empty() {
        return lines(good, rng);
    }
    let (start, end) = *rng.pick(&numbers);
    let old = &good[start..end];
    let new = match (old.parse::<u64>(), rng.below(6)) {
        (Ok(n), 0) => n.wrapping_add(1).to_string(),
        (Ok(n), 1) => n.wrapping_sub(1).to_string(),
        (Ok(n), 2) => n.wrapping_mul(2).to_string(),
        (Ok(n), 3) => format!("-{n}"),
        (_, 4) => {
            rng.pick(&["1e39", "NaN", "inf", "-0", "0.5", "1e-46", "999999999999999999999999"]).to_string()
        }
        _ => rng.pick(&EDGES).to_string(),
    };
    let what = format!("{new} in place of {old} at byte {start}");
    (format!("{}{new}{}", &good[..start], &good[end..]), what)
}

/// Puts one of `spans` in place of another.
fn exchange(good: &str, rng: &mut Rng, spans: Vec<(usize, usize)>) -> (String, String) {
    if spans.len() < 2 {
        return lines(good, rng);
    }
    let ((start, end), (from, to)) = (*rng.pick(&spans), *rng.pick(&spans));
    let new = &good[from..to];
    let what = format!("{new:?} in place of {:?} at byte {start}", &good[start..end]);
    (format!("{}{new}{}", &good[..start], &good[end..]), what)
}

/// Drops, doubles or exchanges lines.
fn lines(good: &str, rng: &mut Rng) -> (String, String) {
    let mut lines: Vec<&str> = good.split_inclusive('\n').collect();
    if lines.is_empty() {
        return (String::new(), "nothing in place of nothing".into());
    }
    let (a, b) = (rng.below(lines.len() as u32) as usize, rng.below(lines.len() as u32) as usize);
    let what = match rng.below(3) {
        0 => {
            lines.remove(a);
            format!("without line {}", a + 1)
        }
        1 => {
            lines.insert(b, lines[a]);
            format!("line {} again at {}", a + 1, b + 1)
        }
        _ => {
            lines.swap(a, b);
            format!("lines {} and {} exchanged", a + 1, b + 1)
        }
    };
    (lines.concat(), what)
}

/// Ranges of bytes that all satisfy `is`.
fn runs(text: &str, is: impl Fn(u8) -> bool) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, _) in text.bytes().enumerate().filter(|(_, byte)| is(*byte)) {
        match runs.last_mut() {
            Some((_, end)) if *end == at => *end += 1,
            _ => runs.push((at, at + 1)),
        }
    }
    runs
}

/// What stands between pairs of quotes.
fn spans(text: &str, quote: impl Fn(u8) -> bool) -> Vec<(usize, usize)> {
    let quotes: Vec<usize> =
        text.bytes().enumerate().filter(|(_, byte)| quote(*byte)).map(|(at, _)| at).collect();
    quotes.as_chunks::<2>().0.iter().map(|[open, close]| (open + 1, *close)).collect()
}

/// Words without quotes: keys, variants, numbers.
fn words(text: &str) -> Vec<(usize, usize)> {
    runs(text, |c| c.is_ascii_alphanumeric() || c == b'_')
}
