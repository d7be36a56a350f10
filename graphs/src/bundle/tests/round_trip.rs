//! What the writer writes, the reader reads.

use super::*;

#[test]
fn every_section_comes_back() {
    let bytes = bundle();
    let bundle = Bundle::parse(&bytes).unwrap();
    bundle.verify_weights().unwrap();
    for (kind, content) in contents() {
        assert_eq!(bundle.section(kind), Some(&content[..]), "{kind}");
        let entry = bundle.entry(kind).unwrap();
        assert_eq!(entry.hash(), blake3::hash(&content), "{kind}");
        assert_eq!(entry.length(), content.len() as u64, "{kind}");
        assert!(entry.offset().is_multiple_of(kind.alignment()), "{kind}");
        assert_eq!(&bytes[entry.range()], &content[..], "{kind}");
        if kind.is_text() {
            assert_eq!(bundle.text(kind).unwrap().as_bytes(), &content[..], "{kind}");
        }
    }
    assert_eq!(bundle.sections().len(), Kind::ALL.len());
    assert_eq!(bundle.file_len(), bytes.len() as u64);
    assert_eq!(bundle.weights(), weights(100));
    assert_eq!(bundle.manifest().unwrap(), manifest());
    assert_eq!(bundle.golden().unwrap(), Some(golden()));
    assert_eq!(bundle.id().as_bytes()[..], bytes[HASH_AT..HEADER_LEN]);
}

#[test]
fn the_layout_is_the_documented_one() {
    let bytes = bundle();
    let mut table = String::new();
    for section in Bundle::parse(&bytes).unwrap().sections() {
        use std::fmt::Write as _;
        writeln!(table, "{:13} {:5} {:3}", section.kind(), section.offset(), section.length()).unwrap();
    }
    insta::assert_snapshot!(table, @r#"
        manifest       4096 307
        graph          4416  14
        plan           4480  13
        target         4544  15
        tokenizer      4608   8
        chat_template  4672  11
        text_config    4736  20
        generation     4800  19
        licence        4864  16
        request        4928 114
        weights        8192 100
        golden         8320 260
        "#);
    assert_eq!(&bytes[..8], b"\x89LFMB\r\n\x1a");
    assert_eq!(bytes[8..16], [1, 0, 0, 0, 12, 0, 0, 0]);
    assert_eq!(bytes[32..48], *b"manifest\0\0\0\0\0\0\0\0");
}

#[test]
fn the_same_input_gives_the_same_bytes_in_whatever_order_it_comes() {
    let first = bundle();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("another name");
    let mut writer = BundleWriter::create(&path).unwrap();
    for (kind, bytes) in contents().into_iter().rev() {
        if kind < Kind::Weights {
            writer.section(kind, bytes).unwrap();
        }
    }
    let mut writer = writer.weights_writer(100).unwrap();
    for byte in weights(100) {
        writer.append(&[byte]).unwrap();
    }
    let sealed = writer.seal_without_golden().unwrap().add_golden(golden().to_ron()).unwrap();
    sealed.publish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
}

#[test]
fn optional_sections_may_be_absent_and_weights_empty() {
    let folder = tempfile::tempdir().unwrap();
    for (name, golden) in [("plain", None), ("golden", Some(golden()))] {
        let path = folder.path().join(name);
        let mut writer = BundleWriter::create(&path).unwrap();
        for (kind, bytes) in contents() {
            if kind.is_required() && kind != Kind::Weights {
                writer.section(kind, bytes).unwrap();
            }
        }
        let mut sealed = writer.weights_writer(0).unwrap().seal_without_golden().unwrap();
        if let Some(golden) = &golden {
            sealed = sealed.add_golden(golden.to_ron()).unwrap();
        }
        sealed.publish().unwrap();
        let bytes = fs::read(&path).unwrap();
        let bundle = Bundle::parse(&bytes).unwrap();
        bundle.verify_weights().unwrap();
        assert_eq!(bundle.weights(), b"");
        assert_eq!(bundle.golden().unwrap(), golden);
        assert_eq!(bundle.section(Kind::Tokenizer), None);
        assert_eq!(
            bundle.text(Kind::Licence).unwrap_err().to_string(),
            "section table, bytes 32..4064: section `licence` is missing"
        );
    }
}

#[test]
fn weights_of_many_buffers_are_placed_padded_and_hashed() {
    const LENGTH: usize = (5 << 20) + 333;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.lfmb");
    let mut expected = vec![0; LENGTH];
    let mut writer = writer(&path).weights_writer(LENGTH as u64).unwrap();
    assert_eq!((writer.position(), writer.length()), (0, LENGTH as u64));
    for (at, length) in [(0, 10), (64, 1 << 20), (2 << 20, 3_000_000), (5_200_000, 1), (5_200_001, 7)] {
        let bytes = weights(length);
        writer.write_at(at as u64, &bytes).unwrap();
        expected[at..at + length].copy_from_slice(&bytes);
        assert_eq!(writer.position(), (at + length) as u64);
    }
    writer.pad_to(LENGTH as u64).unwrap();
    writer.seal_without_golden().unwrap().publish().unwrap();

    let bytes = fs::read(&path).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    assert!(bundle.weights() == expected, "the weights differ");
    let mut steps = Vec::new();
    bundle.verify_weights_with(|done, total| steps.push((done, total))).unwrap();
    assert_eq!(steps, [(4 << 20, LENGTH as u64), (LENGTH as u64, LENGTH as u64)]);
}

#[test]
fn identity_covers_every_section() {
    let folder = tempfile::tempdir().unwrap();
    let identity = |changed: Option<Kind>| {
        let mut writer = BundleWriter::create(&folder.path().join("a")).unwrap();
        let mut last = Vec::new();
        for (kind, mut bytes) in contents() {
            if changed == Some(kind) {
                bytes.push(b'\n');
            }
            match kind {
                Kind::Golden => last = bytes,
                Kind::Weights => {}
                _ => writer.section(kind, bytes).unwrap(),
            }
        }
        let mut weights = weights(100);
        if changed == Some(Kind::Weights) {
            weights[50] ^= 1;
        }
        let mut writer = writer.weights_writer(100).unwrap();
        writer.append(&weights).unwrap();
        writer.seal_without_golden().unwrap().add_golden(last).unwrap().id()
    };
    let plain = identity(None);
    for kind in Kind::ALL {
        assert_ne!(identity(Some(kind)), plain, "{kind}");
    }
}
