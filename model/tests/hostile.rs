//! Checkpoints that are broken or malicious: each is refused with an error that names what is wrong.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::fixture;
use lfm_model::{Checkpoint, Lfm2};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A copy of the checkpoint files of a fixture.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        let file = entry.file_name().into_string().unwrap();
        if file.starts_with("model") || file == "config.json" {
            fs::copy(entry.path(), folder.path().join(file)).unwrap();
        }
    }
    folder
}

/// The header and the data of a safetensors file.
fn read(path: &Path) -> (Map<String, Value>, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + len]).unwrap(), bytes[8 + len..].to_vec())
}

fn write(path: &Path, header: &str, data: &[u8]) {
    let len = (header.len() as u64).to_le_bytes();
    fs::write(path, [&len, header.as_bytes(), data].concat()).unwrap();
}

fn refused(folder: &Path) -> String {
    Checkpoint::open(folder).unwrap_err().to_string()
}

/// Applies `edit` to the header of `all-conv` and gives the error.
fn with_header(edit: impl FnOnce(&mut Map<String, Value>)) -> String {
    let folder = copy("all-conv");
    let path = folder.path().join("model.safetensors");
    let (mut header, data) = read(&path);
    edit(&mut header);
    write(&path, &Value::Object(header).to_string(), &data);
    refused(folder.path())
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.embedding_norm.weight";

#[test]
fn entries() {
    let set = |name: &'static str, key: &'static str, value: Value| {
        with_header(move |header| header[name][key] = value)
    };
    let check = |message: String, expected: &[&str]| {
        for part in expected {
            assert!(message.contains(part), "{message} should say: {part}");
        }
    };
    check(set(EMBEDDING, "dtype", json!("F8_E4M3")), &[EMBEDDING, "F8_E4M3", "F32, F16 or BF16"]);
    check(set(EMBEDDING, "dtype", json!("F32")), &[EMBEDDING, "10240 bytes"]);
    check(set(EMBEDDING, "dtype", json!(3)), &["header", EMBEDDING, "invalid type"]);
    check(set(EMBEDDING, "shape", json!([64, 41])), &[EMBEDDING, "is 5248 bytes"]);
    check(set(EMBEDDING, "shape", json!([40, 64])), &[EMBEDDING, "[40, 64]", "[64, 40]"]);
    check(set(EMBEDDING, "shape", json!([1u64 << 33, 1u64 << 33])), &[EMBEDDING, "overflows"]);
    check(set(EMBEDDING, "shape", json!([-1, 40])), &[EMBEDDING, "invalid value"]);
    check(set(EMBEDDING, "shape", json!([0, 40])), &[EMBEDDING, "is 0 bytes"]);
    check(set(EMBEDDING, "shape", json!(vec![1; 9])), &[EMBEDDING, "9 dimensions"]);
    check(set(NORM, "data_offsets", json!([0, 160])), &["overlap those before"]);
    check(set(NORM, "data_offsets", json!([1u64 << 40, (1u64 << 40) + 160])), &[NORM, "bytes of data"]);
    check(set(NORM, "data_offsets", json!([u64::MAX, 159])), &[NORM]);
    check(set(NORM, "data_offsets", json!([160, 0])), &[NORM]);
    check(set(NORM, "extra", json!(1)), &[NORM, "unknown field"]);
    check(with_header(|header| drop(header.remove(NORM).unwrap())), &["leave a hole"]);

    let rename = |old: &'static str, new: &'static str| {
        with_header(move |header| {
            let entry = header.remove(old).unwrap();
            header.insert(new.to_owned(), entry);
        })
    };
    check(rename(NORM, "model.norm.weight"), &["lacks", NORM]);
    let head = with_header(|header| {
        let end = header.values().filter_map(|entry| entry["data_offsets"][1].as_u64()).max();
        header.insert("other".into(), json!({"dtype": "F32", "shape": [0], "data_offsets": [end, end]}));
    });
    check(head, &["has `other`", "no use"]);
}

#[test]
fn headers() {
    let folder = copy("all-conv");
    let path = folder.path().join("model.safetensors");
    let (header, data) = read(&path);
    let text = Value::Object(header).to_string();

    let twice = text.replacen(r#""model.embedding_norm.weight""#, r#""model.embed_tokens.weight""#, 1);
    write(&path, &twice, &data);
    assert!(refused(folder.path()).contains("`model.embed_tokens.weight` comes twice"));

    write(&path, &text, &[&data[..], &[0]].concat());
    assert!(refused(folder.path()).contains("but the file has"));
    write(&path, &text, &data[1..]);
    assert!(refused(folder.path()).contains("bytes of data"));
    write(&path, "[]", &data);
    assert!(refused(folder.path()).contains("an object of tensors"));
    write(&path, &"[".repeat(100_000), &data);
    assert!(refused(folder.path()).contains("header"));
    write(&path, "{}", &[]);
    assert!(refused(folder.path()).contains("lacks `model.embed_tokens.weight`"));
    for len in [u64::MAX, u64::MAX - 7, 1 << 40, 1 << 24] {
        fs::write(&path, [&len.to_le_bytes(), text.as_bytes(), &data].concat()).unwrap();
        assert!(refused(folder.path()).contains(&format!("its length is {len}")), "{len}");
    }
    fs::write(&path, []).unwrap();
    assert!(refused(folder.path()).contains("the file has 0 bytes"));
    fs::remove_file(&path).unwrap();
    assert!(refused(folder.path()).contains("neither model.safetensors nor"));
    fs::create_dir(&path).unwrap();
    assert!(refused(folder.path()).contains("regular file"));
}

/// Every truncation and thousands of bit flips of the header either fail or leave a readable checkpoint.
#[test]
fn mutations() {
    let folder = copy("all-conv");
    let path = folder.path().join("model.safetensors");
    let good = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for len in (0..good.len()).step_by(101) {
        fs::write(&path, &good[..len]).unwrap();
        refused(folder.path());
    }
    fs::write(&path, &good).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for bit in 0..header * 8 {
        let (at, byte) = (bit as u64 / 8, good[bit / 8]);
        file.write_all_at(&[byte ^ 1 << (bit % 8)], at).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(folder.path()) {
            let elements: usize = checkpoint.tensors().map(|tensor| tensor.elements()).sum();
            let read: usize = checkpoint.names().map(|name| checkpoint.read_f32(name).unwrap().len()).sum();
            assert_eq!(read, elements);
        }
        file.write_all_at(&[byte], at).unwrap();
    }
}

#[test]
fn indices() {
    let folder = copy("tiny-moe-sharded");
    let path = folder.path().join("model.safetensors.index.json");
    let good: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let check = |edit: &dyn Fn(&mut Value), expected: &str| {
        let mut index = good.clone();
        edit(&mut index["weight_map"]);
        fs::write(&path, index.to_string()).unwrap();
        let message = refused(folder.path());
        assert!(message.contains(expected), "{message} should say: {expected}");
    };
    for name in
        ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", ".x.safetensors", "a\\b.safetensors"]
    {
        check(&|map| map[EMBEDDING] = json!(name), "expected a plain name");
    }
    check(&|map| map[EMBEDDING] = json!("absent.safetensors"), "absent.safetensors");
    check(&|map| map[EMBEDDING] = json!("model-00004-of-00004.safetensors"), "does not place tensor");
    check(&|map| map[EMBEDDING] = json!(1), "invalid type");
    check(
        &|map| map["extra"] = json!("model-00001-of-00004.safetensors"),
        "places `extra` in files that lack",
    );
    check(&|map| drop(map.as_object_mut().unwrap().remove(EMBEDDING)), "does not place tensor");
    check(&|map| *map = json!({}), "lacks `model.embed_tokens.weight`");
    let many = |map: &mut Value| {
        *map = (0..2000).map(|i| (format!("t{i}"), json!(format!("{i}.safetensors")))).collect()
    };
    check(&many, "names 2000 files");
    fs::write(&path, r#"{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}"#).unwrap();
    assert!(refused(folder.path()).contains("`a` comes twice"));
    fs::write(&path, "{}").unwrap();
    assert!(refused(folder.path()).contains("weight_map"));
}

#[test]
fn experts() {
    let edit = |fixture: &str, edit: &dyn Fn(&mut Map<String, Value>)| {
        let folder = copy(fixture);
        let path = folder.path().join("model.safetensors");
        let (mut header, data) = read(&path);
        edit(&mut header);
        write(&path, &Value::Object(header).to_string(), &data);
        Checkpoint::open(folder.path())
    };
    let rename = |old: &'static str, new: &'static str| {
        move |header: &mut Map<String, Value>| {
            let entry = header.remove(old).unwrap();
            header.insert(new.to_owned(), entry);
        }
    };
    let (expert, beyond) = (
        "model.layers.2.feed_forward.experts.7.w1.weight",
        "model.layers.2.feed_forward.experts.8.w1.weight",
    );
    let message = edit("tiny-moe", &rename(expert, beyond)).unwrap_err().to_string();
    assert!(message.contains(&format!("lacks `{expert}`")), "{message}");
    let (fused, other) =
        ("model.layers.3.feed_forward.experts.gate_up_proj", "model.layers.3.feed_forward.experts.other");
    let message = edit("tiny-moe-fused", &rename(fused, other)).unwrap_err().to_string();
    assert!(message.contains(&format!("lacks `{fused}`")), "{message}");
    // The selection bias has an alias.
    let (bias, alias) =
        ("model.layers.2.feed_forward.expert_bias", "model.layers.2.feed_forward.expert_bias.weight");
    let checkpoint = edit("tiny-moe", &rename(bias, alias)).unwrap();
    assert!(checkpoint.tensor(bias).is_some() && checkpoint.tensor(alias).is_none());
}

/// A tied checkpoint may repeat its embedding as a head, and nothing else.
#[test]
fn head_beside_a_tied_embedding() {
    let folder = copy("all-conv");
    let path = folder.path().join("model.safetensors");
    let (mut header, mut data) = read(&path);
    let entry = header[EMBEDDING].clone();
    let range = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
    let (start, copy) = (data.len(), data[range(0)..range(1)].to_vec());
    data.extend(&copy);
    let mut head = entry.clone();
    head["data_offsets"] = json!([start, data.len()]);
    header.insert("lm_head.weight".to_owned(), head);
    let text = Value::Object(header).to_string();
    write(&path, &text, &data);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(checkpoint.tensor("lm_head.weight").is_none());
    let last = data.len() - 1;
    data[last] ^= 1;
    write(&path, &text, &data);
    assert!(refused(folder.path()).contains("row 63 of `lm_head.weight` differs"));
}

/// All layouts of one set of weights read the same, whole and by ranges.
#[test]
fn layouts_agree() {
    let open = |name: &str| Checkpoint::open(&fixture(name)).unwrap();
    let apart = open("tiny-moe");
    for other in ["tiny-moe-fused", "tiny-moe-sharded"].map(open) {
        assert!(apart.tensors().eq(other.tensors()));
        for tensor in apart.tensors() {
            let expected = apart.read_f32(tensor.name).unwrap();
            assert_eq!(expected.len(), tensor.elements());
            assert_eq!(other.read_f32(tensor.name).unwrap(), expected, "{}", tensor.name);
            let (first, len) = (expected.len() / 3, expected.len() / 2);
            let mut range = vec![0.0; len];
            other.read_f32_range(tensor.name, first, &mut range).unwrap();
            assert_eq!(range, expected[first..first + len], "{}", tensor.name);
        }
    }
    let past_the_end = apart.read_f32_range(NORM, 60, &mut [0.0; 5]).unwrap_err().to_string();
    assert!(past_the_end.contains("it has 64"));
    assert!(apart.read_f32_range(NORM, usize::MAX, &mut [0.0; 5]).is_err());
    assert!(
        apart
            .read_f32("model.norm.weight")
            .unwrap_err()
            .to_string()
            .contains("no tensor `model.norm.weight`")
    );
}

/// A file that shrinks after it was opened is an error at the tensor, not a crash.
#[test]
fn truncated_after_opening() {
    let folder = copy("all-conv");
    let path = folder.path().join("model.safetensors");
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(fs::metadata(&path).unwrap().len() / 2).unwrap();
    let message = Lfm2::load(&checkpoint, &lfm_model::cpu()).unwrap_err().to_string();
    assert!(message.contains("reading tensor `model.") && message.contains("at byte"), "{message}");
}

/// Reads from several threads at once see the same values.
#[test]
fn reads_from_threads() {
    let checkpoint = Checkpoint::open(&fixture("tiny-moe")).unwrap();
    let expected = checkpoint.read_f32(EMBEDDING).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(checkpoint.read_f32(EMBEDDING).unwrap(), expected));
        }
    });
}
