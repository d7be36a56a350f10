//! Every truncation, every flipped bit, and many forged headers: always an error, never a panic.

use super::*;

#[test]
fn every_truncation_is_refused() {
    let bytes = bundle();
    for length in 0..bytes.len() {
        assert!(Bundle::parse(&bytes[..length]).is_err(), "the first {length} bytes");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let good = bundle();
    let weights = Bundle::parse(&good).unwrap().entry(Kind::Weights).unwrap().range();
    let mut bytes = good.clone();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            match Bundle::parse(&bytes) {
                Err(_) => {
                    assert!(!weights.contains(&at), "byte {at}, bit {bit}: weights are hashed on demand")
                }
                Ok(bundle) => {
                    assert!(weights.contains(&at), "byte {at}, bit {bit}");
                    assert!(bundle.verify_weights().is_err(), "byte {at}, bit {bit}");
                }
            }
            bytes[at] ^= 1 << bit;
        }
    }
    assert!(bytes == good, "every flip is undone");
}

#[test]
fn forged_headers_are_refused_or_stay_inside_the_file() {
    // Values that sit on the borders of the checks.
    let good = bundle();
    let file = good.len() as u64;
    let words = [
        0,
        1,
        63,
        64,
        4096,
        8192,
        file - 1,
        file,
        file + 1,
        1 << 26,
        1 << 32,
        1 << 63,
        u64::MAX - 63,
        u64::MAX,
    ];
    let mut random = Random(42);
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(2) {
            let entry = TABLE_AT + random.below(12) * ENTRY_LEN;
            match random.below(5) {
                0 => bytes[12] = random.below(80) as u8,
                1 => bytes[entry..entry + 16].rotate_left(random.below(16)),
                2 => {
                    let from = TABLE_AT + random.below(12) * ENTRY_LEN;
                    bytes.copy_within(from..from + ENTRY_LEN, entry);
                }
                field => {
                    let at = entry + 16 + (field - 3) * 8;
                    let word = match random.below(3) {
                        0 => random.next(),
                        1 => {
                            u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
                                ^ (1 << random.below(64))
                        }
                        _ => words[random.below(words.len())],
                    };
                    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        reseal(&mut bytes);
        match Bundle::parse(&bytes) {
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("section") || message.contains("header"), "{message}");
                refused += 1;
            }
            Ok(bundle) => {
                // Left are changes that undo each other, and weights of another length or hash.
                assert!(bytes == good || bundle.verify_weights().is_err(), "{:?}", bundle.sections());
                assert!(bundle.sections().iter().all(|section| good.get(section.range()).is_some()));
                accepted += 1;
            }
        }
    }
    assert!(refused > 15_000 && accepted < 5_000, "{refused} refused, {accepted} accepted");
}

#[test]
fn random_files_are_refused() {
    let mut random = Random(7);
    for _ in 0..2_000 {
        let length = random.below(10_000);
        let mut bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        assert!(Bundle::parse(&bytes).is_err());
        // The same with a header that gets past the first checks.
        if bytes.len() > HEADER_LEN {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..16].copy_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
            bytes[24..32].fill(0);
            bytes[TABLE_AT + 5 * ENTRY_LEN..HASH_AT].fill(0);
            bytes[TABLE_AT..TABLE_AT + 16].copy_from_slice(b"manifest\0\0\0\0\0\0\0\0");
            set_file_len(&mut bytes);
            assert!(Bundle::parse(&bytes).is_err());
        }
    }
}

/// xorshift64*: the same mutations on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize) % limit
    }
}
