//! The byte-level alphabet: every byte has a printable character, and a token is a string of them.

/// The byte that a character of the alphabet stands for.
///
/// Printable Latin-1 bytes stand for themselves; the other 68 bytes, in ascending order, have
/// U+0100, U+0101, ...
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(), // 0x00..=0x20
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(), // 0x7f..=0xa0
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Appends the bytes of a token. A token with a character outside of the alphabet (an added token
/// with a space in it) is its own UTF-8.
pub(super) fn append_bytes(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut seen = [0u32; 256];
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(c) {
                seen[usize::from(byte)] += 1;
            }
        }
        assert!(seen.iter().all(|&n| n == 1), "{seen:?}");
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }

    #[test]
    fn a_foreign_character_makes_the_token_literal() {
        let mut out = b"x".to_vec();
        append_bytes("Ġa b", &mut out);
        assert_eq!(out, "xĠa b".as_bytes());
    }
}
