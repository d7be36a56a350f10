//! One test for each way in which a file can lie. Hashes are right wherever the lie is not the hash.

use super::*;

/// Asserts the error's variant and prints its message, which names section and byte, into a snapshot.
macro_rules! assert_error {
    ($bytes:expr, $variant:pat, @$message:literal) => {{
        let error = error_of($bytes);
        assert!(matches!(error, $variant), "{error:?}");
        insta::assert_snapshot!(error.to_string(), @$message);
    }};
}

#[test]
fn empty_and_foreign_files() {
    assert_error!(b"", BundleError::HeaderTruncated { .. }, @"header: it needs bytes 0..4096, the file has 0");
    assert_error!(b"hi", BundleError::BadMagic { .. }, @r#"header, byte 0: the file starts with "hi", a bundle starts with "\x89LFMB\r\n\x1a""#);
    assert_error!(&[b'x'; 9000], BundleError::BadMagic { .. }, @r#"header, byte 0: the file starts with "xxxxxxxx", a bundle starts with "\x89LFMB\r\n\x1a""#);
}

#[test]
fn truncated_header() {
    assert_error!(&bundle()[..4095], BundleError::HeaderTruncated { .. }, @"header: it needs bytes 0..4096, the file has 4095");
}

#[test]
fn truncated_file() {
    assert_error!(&bundle()[..8000], BundleError::FileTruncated { .. }, @"header, byte 16: the bundle is 8580 bytes long, the file has 8000: it was truncated");
}

#[test]
fn trailing_bytes() {
    let mut bytes = bundle();
    bytes.push(0);
    assert_error!(&bytes, BundleError::FileTooLong { .. }, @"header, byte 16: the bundle is 8580 bytes long, the file has 8581: bytes 8580..8581 do not belong to it");
    set_file_len(&mut bytes);
    assert_error!(&bytes, BundleError::Unclaimed { .. }, @"section `golden` is the last and ends at byte 8580, the file has 8581");
}

#[test]
fn wrong_endian_magic() {
    for word in [2, 4, 8] {
        let mut bytes = bundle();
        bytes.chunks_mut(word).for_each(<[u8]>::reverse);
        assert!(matches!(error_of(&bytes), BundleError::WrongEndian { byte: 0, .. }), "words of {word}");
    }
    let mut bytes = bundle();
    bytes[..8].reverse();
    assert_error!(&bytes, BundleError::WrongEndian { .. }, @r#"header, byte 0: the magic is in the wrong byte order, "\x1a\n\rBMFL\x89"; bundles are little-endian on every machine"#);
}

#[test]
fn wrong_endian_version() {
    let mut bytes = bundle();
    bytes[8..12].reverse();
    assert_error!(&bytes, BundleError::WrongEndian { .. }, @r#"header, byte 8: the format version is in the wrong byte order, "\x00\x00\x00\x01"; bundles are little-endian on every machine"#);
}

#[test]
fn newer_version() {
    let mut bytes = bundle();
    bytes[8] = 2;
    assert_error!(&bytes, BundleError::Version { found: 2, .. }, @"header, byte 8: bundle format version 2, this build reads version 1; use a newer build, or export the bundle again");
}

#[test]
fn version_zero() {
    let mut bytes = bundle();
    bytes[8] = 0;
    assert_error!(&bytes, BundleError::Version { found: 0, .. }, @"header, byte 8: bundle format version 0, this build reads version 1");
}

#[test]
fn count_huge() {
    for (count, message) in [(u32::MAX, "4294967295"), (64, "64"), (0, "0")] {
        let mut bytes = bundle();
        bytes[12..16].copy_from_slice(&count.to_le_bytes());
        reseal(&mut bytes);
        let error = error_of(&bytes).to_string();
        assert_eq!(error, format!("header, byte 12: {message} sections, expected 1 to 63"));
    }
}

#[test]
fn count_above_the_entries() {
    let mut bytes = bundle();
    bytes[12] = 63;
    reseal(&mut bytes);
    assert_error!(&bytes, BundleError::UnknownSection { .. }, @r#"section table, byte 800: unknown section """#);
}

#[test]
fn count_below_the_entries() {
    let mut bytes = bundle();
    bytes[12] = 11;
    reseal(&mut bytes);
    assert_error!(&bytes, BundleError::Padding { .. }, @"header, byte 736: padding is 0x67, expected 0");
}

#[test]
fn header_hash() {
    let mut bytes = bundle();
    bytes[40] ^= 1;
    assert!(matches!(error_of(&bytes), BundleError::HeaderHash { end: 4064, .. }));
}

#[test]
fn reserved_header_bytes() {
    let mut bytes = bundle();
    bytes[31] = 3;
    reseal(&mut bytes);
    assert_error!(&bytes, BundleError::Padding { byte: 31, .. }, @"header, byte 31: padding is 0x03, expected 0");
    let mut bytes = bundle();
    bytes[HASH_AT - 1] = 3;
    reseal(&mut bytes);
    assert_error!(&bytes, BundleError::Padding { byte: 4063, .. }, @"header, byte 4063: padding is 0x03, expected 0");
}

#[test]
fn unknown_kind() {
    let mut bytes = bundle();
    let at = entry_at(&bytes, Kind::Licence);
    bytes[at..at + 7].copy_from_slice(b"\x1b[2Jxx\"");
    reseal(&mut bytes);
    assert_error!(&bytes, BundleError::UnknownSection { .. }, @r#"section table, byte 544: unknown section "\x1b[2Jxx\"""#);
}

#[test]
fn name_with_something_behind_its_end() {
    let mut bytes = bundle();
    let at = entry_at(&bytes, Kind::Plan);
    bytes[at + 15] = b'x';
    reseal(&mut bytes);
    assert_error!(&bytes, BundleError::UnknownSection { .. }, @r#"section table, byte 160: unknown section "plan\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00x""#);
}

#[test]
fn duplicate_section() {
    let mut bytes = bundle();
    let at = entry_at(&bytes, Kind::Plan);
    let graph = entry_at(&bytes, Kind::Graph);
    bytes.copy_within(graph..graph + 16, at);
    reseal(&mut bytes);
    assert_error!(&bytes, BundleError::Duplicate { section: Kind::Graph, .. }, @"section table, byte 160: section `graph` occurs twice");
}

#[test]
fn out_of_order() {
    let mut bytes = bundle();
    let (graph, plan) = (entry_at(&bytes, Kind::Graph), entry_at(&bytes, Kind::Plan));
    let (a, b) = bytes.split_at_mut(plan);
    a[graph..graph + 16].swap_with_slice(&mut b[..16]);
    reseal(&mut bytes);
    assert_error!(&bytes, BundleError::Order { section: Kind::Graph, .. }, @"section table, byte 160: section `graph` comes after `plan`, expected before it");
}

#[test]
fn missing_section() {
    let mut bytes = bundle();
    let target = entry_at(&bytes, Kind::Target);
    bytes[target..target + 16].copy_from_slice(b"tokenizer\0\0\0\0\0\0\0");
    let tokenizer = target + ENTRY_LEN;
    bytes[tokenizer..tokenizer + 16].copy_from_slice(b"chat_template\0\0\0");
    let template = tokenizer + ENTRY_LEN;
    bytes[template..template + 16].copy_from_slice(b"text_config\0\0\0\0\0");
    let config = template + ENTRY_LEN;
    bytes[config..config + 16].copy_from_slice(b"generation\0\0\0\0\0\0");
    // The old `generation` goes: its entry is taken out, `licence` moves up to where it was.
    let old = config + ENTRY_LEN;
    bytes.copy_within(old + ENTRY_LEN..HASH_AT, old);
    bytes[12] = 11;
    let (offset, _) = place(&bytes, Kind::Generation);
    let (licence, length) = place(&bytes, Kind::Licence);
    set_place(&mut bytes, Kind::Generation, offset, licence - 64 - offset + 1);
    set_place(&mut bytes, Kind::Licence, licence, length);
    assert_error!(&bytes, BundleError::Missing { section: Kind::Target }, @"section table, bytes 32..4064: section `target` is missing");
}

#[test]
fn empty_section() {
    let mut bytes = bundle();
    let (offset, _) = place(&bytes, Kind::Licence);
    set_place(&mut bytes, Kind::Licence, offset, 0);
    assert_error!(&bytes, BundleError::Empty { .. }, @"section `licence`, byte 568: length 0, expected at least 1");
}

#[test]
fn section_above_its_cap() {
    let mut bytes = bundle();
    let (offset, _) = place(&bytes, Kind::Graph);
    set_place(&mut bytes, Kind::Graph, offset, (64 << 20) + 1);
    assert_error!(&bytes, BundleError::TooLarge { .. }, @"section `graph`, byte 120: 67108865 bytes long, at most 67108864 are allowed");
}

#[test]
fn size_sum_overflow() {
    let mut bytes = bundle();
    set_place(&mut bytes, Kind::Weights, u64::MAX - 4095, 8192);
    assert_error!(&bytes, BundleError::Overflow { .. }, @"section `weights`, byte 688: offset 18446744073709547520 plus length 8192 is above 2^64 - 1");
    let (offset, _) = place(&bundle(), Kind::Weights);
    set_place(&mut bytes, Kind::Weights, offset, u64::MAX);
    assert!(matches!(error_of(&bytes), BundleError::Overflow { .. }));
}

#[test]
fn past_the_end() {
    let mut bytes = bundle();
    let (offset, _) = place(&bytes, Kind::Weights);
    set_place(&mut bytes, Kind::Weights, offset, 1 << 33);
    assert_error!(&bytes, BundleError::PastEnd { .. }, @"section `weights`, byte 688: it needs bytes 8192..8589942784, the file has 8580");
}

#[test]
fn overlap() {
    let mut bytes = bundle();
    let (_, length) = place(&bytes, Kind::Plan);
    let (graph, _) = place(&bytes, Kind::Graph);
    set_place(&mut bytes, Kind::Plan, graph, length);
    assert_error!(&bytes, BundleError::Overlap { .. }, @"section `plan`, byte 176: offset 4416 overlaps `graph`, which ends at 4430");
    let mut bytes = bundle();
    let (_, length) = place(&bytes, Kind::Manifest);
    set_place(&mut bytes, Kind::Manifest, 0, length);
    assert_error!(&bytes, BundleError::Overlap { .. }, @"section `manifest`, byte 48: offset 0 overlaps the header, which ends at 4096");
}

#[test]
fn hole() {
    let mut bytes = bundle();
    let (offset, length) = place(&bytes, Kind::Licence);
    set_place(&mut bytes, Kind::Licence, offset + 64, length);
    assert_error!(&bytes, BundleError::Hole { .. }, @"section `licence`, byte 560: offset 4928 leaves a hole, expected 4864");
}

#[test]
fn unaligned() {
    let mut bytes = bundle();
    let (offset, length) = place(&bytes, Kind::Weights);
    set_place(&mut bytes, Kind::Weights, offset + 64, length - 64);
    assert_error!(&bytes, BundleError::Unaligned { .. }, @"section `weights`, byte 688: offset 8256 is not a multiple of 4096");
}

#[test]
fn nonzero_padding() {
    let mut bytes = bundle();
    let (offset, _) = place(&bytes, Kind::Weights);
    bytes[offset as usize - 1] = 0x20;
    assert_error!(&bytes, BundleError::Padding { .. }, @"before section `weights`, byte 8191: padding is 0x20, expected 0");
    let mut bytes = bundle();
    let (offset, length) = place(&bytes, Kind::Weights);
    bytes[(offset + length) as usize] = 1;
    assert_error!(&bytes, BundleError::Padding { .. }, @"before section `golden`, byte 8292: padding is 0x01, expected 0");
}

#[test]
fn section_hash() {
    let mut bytes = bundle();
    let (offset, _) = place(&bytes, Kind::Target);
    bytes[offset as usize + 3] ^= 0x40;
    assert_error!(&bytes, BundleError::SectionHash { section: Kind::Target, .. }, @"section `target`: bytes 4544..4559 hash to 601bf52b1b66b89a3f8152c3581629d26b1d74ac5827d88e743eee6f85dbbeaf, the section table says f0f131322b5ab391396f08cf1734fb16e4abfe1f5199968b0d815523b170b090");
}

#[test]
fn weights_hash() {
    let mut bytes = bundle();
    let (offset, _) = place(&bytes, Kind::Weights);
    bytes[offset as usize + 99] ^= 0x80;
    let bundle = Bundle::parse(&bytes).unwrap();
    let error = bundle.verify_weights().unwrap_err();
    assert!(matches!(error, BundleError::SectionHash { section: Kind::Weights, .. }), "{error:?}");
}

#[test]
fn bad_utf8() {
    let mut bytes = bundle();
    let (offset, length) = place(&bytes, Kind::ChatTemplate);
    let (start, end) = (offset as usize, (offset + length) as usize);
    bytes[start + 4] = 0xC0;
    let hash = blake3::hash(&bytes[start..end]);
    let at = entry_at(&bytes, Kind::ChatTemplate) + 32;
    bytes[at..at + 32].copy_from_slice(hash.as_bytes());
    reseal(&mut bytes);
    assert_error!(&bytes, BundleError::BadUtf8 { section: Kind::ChatTemplate, .. }, @"section `chat_template`, byte 4676: 0xc0 does not continue UTF-8 text");
}

#[test]
fn bytes_are_not_text() {
    let bytes = bundle();
    let error = Bundle::parse(&bytes).unwrap().text(Kind::Tokenizer).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"section `tokenizer`, byte 4610: 0xff does not continue UTF-8 text");
}
