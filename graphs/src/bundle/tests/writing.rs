//! Exports that fail or stop half way leave no trace, and never a wrong bundle.

use std::error::Error as _;
use std::fs::OpenOptions;
use std::path::PathBuf;

use super::*;

/// The names in a folder, sorted.
fn list(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A folder and a path in it.
fn destination() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.lfmb");
    (folder, path)
}

#[test]
fn dropped_at_any_stage_leaves_nothing() {
    let (folder, path) = destination();
    let weights = weights(100);
    for stage in 0..4 {
        let writer = writer(&path);
        assert_eq!(list(folder.path()).len(), 1);
        assert!(list(folder.path())[0].starts_with(".lfmb.partial-"));
        if stage == 0 {
            drop(writer);
        } else {
            let mut writer = writer.weights_writer(100).unwrap();
            writer.append(&weights[..50]).unwrap();
            if stage > 1 {
                writer.append(&weights[50..]).unwrap();
                let sealed = writer.seal_without_golden().unwrap();
                if stage > 2 {
                    drop(sealed.add_golden(golden().to_ron()).unwrap());
                }
            }
        }
        assert_eq!(list(folder.path()), [""; 0], "stage {stage}");
    }
}

#[test]
fn existing_file_is_kept_until_the_new_one_is_complete() {
    let (folder, path) = destination();
    fs::write(&path, "old").unwrap();
    drop(writer(&path).weights_writer(100).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"old");

    let mut writer = writer(&path).weights_writer(100).unwrap();
    writer.append(&weights(100)).unwrap();
    let sealed = writer.seal_without_golden().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    sealed.publish().unwrap();
    Bundle::parse(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(list(folder.path()), ["model.lfmb"]);
}

#[test]
fn unfinished_file_is_not_a_bundle() {
    let (folder, path) = destination();
    let mut writer = writer(&path).weights_writer(2 << 20).unwrap();
    writer.append(&weights(2 << 20)).unwrap();
    let partial = folder.path().join(&list(folder.path())[0]);
    let error = error_of(&fs::read(partial).unwrap());
    assert!(matches!(error, BundleError::BadMagic { .. }), "{error:?}");
}

#[test]
fn killed_before_publishing_leaves_no_final_file() {
    let (folder, path) = destination();
    let mut writer = writer(&path).weights_writer(100).unwrap();
    writer.append(&weights(100)).unwrap();
    // As after a kill, nothing is cleaned up.
    std::mem::forget(writer.seal_without_golden().unwrap());
    assert!(!path.exists());
    assert_eq!(list(folder.path()).len(), 1);
}

#[test]
fn names_that_are_in_use_are_passed_over() {
    let (folder, path) = destination();
    let name = |i| folder.path().join(format!(".lfmb.partial-{}-{i}", std::process::id()));
    let used: Vec<_> = (0..300)
        .map(|i| {
            fs::write(name(i), "in use").unwrap();
            let file = OpenOptions::new().write(true).open(name(i)).unwrap();
            file.lock().unwrap();
            file
        })
        .collect();
    drop(writer(&path).weights_writer(100).unwrap());
    for i in 0..used.len() {
        assert_eq!(fs::read(name(i)).unwrap(), b"in use");
    }
}

#[test]
fn sealed_bundle_can_be_read_before_it_has_golden_vectors() {
    let (_folder, path) = destination();
    let mut writer = writer(&path).weights_writer(100).unwrap();
    writer.append(&weights(100)).unwrap();
    let sealed = writer.seal_without_golden().unwrap();
    let bytes = fs::read(sealed.path()).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    bundle.verify_weights().unwrap();
    assert_eq!(bundle.id(), sealed.id());
    assert_eq!(bundle.golden().unwrap(), None);
    assert!(!path.exists());

    let sealed = sealed.add_golden(golden().to_ron()).unwrap();
    assert_ne!(sealed.id(), bundle.id());
    assert_eq!(fs::read(sealed.path()).unwrap(), self::bundle());
    let error = sealed.add_golden(golden().to_ron()).unwrap_err();
    assert!(matches!(error, WriteError::Duplicate { section: Kind::Golden }), "{error:?}");
}

#[test]
fn two_exports_to_one_path_do_not_mix() {
    let (folder, path) = destination();
    let mut writers = [1_u8, 2].map(|fill| (fill, writer(&path).weights_writer(3 << 20).unwrap()));
    assert_eq!(list(folder.path()).len(), 2);
    for _ in 0..3 {
        for (fill, writer) in &mut writers {
            writer.append(&vec![*fill; 1 << 20]).unwrap();
        }
    }
    for (fill, writer) in writers {
        writer.seal_without_golden().unwrap().publish().unwrap();
        let bytes = fs::read(&path).unwrap();
        let bundle = Bundle::parse(&bytes).unwrap();
        bundle.verify_weights().unwrap();
        assert!(bundle.weights().iter().all(|&byte| byte == fill), "export {fill}");
    }
    assert_eq!(list(folder.path()), ["model.lfmb"]);
}

#[test]
fn sections_are_checked_when_given() {
    let (_folder, path) = destination();
    let mut writer = BundleWriter::create(&path).unwrap();
    let mut message = |kind, bytes: &[u8]| writer.section(kind, bytes).unwrap_err().to_string();
    assert_eq!(message(Kind::Graph, b""), "section `graph` is empty, expected at least 1 byte");
    assert_eq!(message(Kind::Plan, b"ab\xff"), "section `plan`, byte 2 of it: not UTF-8 text");
    let large = vec![b' '; (4 << 20) + 1];
    assert_eq!(
        message(Kind::Manifest, &large),
        "section `manifest` has 4194305 bytes, at most 4194304 are allowed"
    );
    for kind in [Kind::Weights, Kind::Golden] {
        assert!(message(kind, b"x").contains("can not be added here"), "{kind}");
    }
    writer.section(Kind::Graph, "g").unwrap();
    assert_eq!(writer.section(Kind::Graph, "g").unwrap_err().to_string(), "section `graph` is given twice");
    assert_eq!(writer.weights_writer(1).unwrap_err().to_string(), "section `manifest` is missing");
}

#[test]
fn weights_must_fit_what_was_announced() {
    let (folder, path) = destination();
    let mut writer = writer(&path).weights_writer(100).unwrap();
    writer.write_at(10, &[1; 10]).unwrap();
    let message = |result: Result<(), WriteError>| result.unwrap_err().to_string();
    insta::assert_snapshot!(message(writer.write_at(19, &[1])), @"weights, byte 19 of the section: bytes up to 20 are already written, expected ascending offsets");
    insta::assert_snapshot!(message(writer.write_at(90, &[1; 11])), @"weights, bytes 90..101 of the section: it was announced with 100");
    insta::assert_snapshot!(message(writer.write_at(u64::MAX, &[1])), @"weights, bytes 18446744073709551615..18446744073709551615 of the section: it was announced with 100");
    insta::assert_snapshot!(message(writer.pad_to(101)), @"weights, bytes 101..101 of the section: it was announced with 100");
    assert_eq!(writer.position(), 20);
    insta::assert_snapshot!(writer.seal_without_golden().unwrap_err().to_string(), @"weights: 20 bytes were written, expected the announced 100");
    assert_eq!(list(folder.path()), [""; 0]);
}

#[test]
fn announced_length_beyond_64_bits_is_refused() {
    let (_folder, path) = destination();
    let error = writer(&path).weights_writer(u64::MAX).unwrap_err();
    assert!(matches!(error, WriteError::TooLarge { section: Kind::Weights, .. }), "{error:?}");
}

#[test]
fn destinations_that_can_not_work_are_refused_at_once() {
    let (folder, path) = destination();
    let message = |path: &Path| {
        let error = BundleWriter::create(path).unwrap_err();
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{cause}").replace(folder.path().to_str().unwrap(), "DIR")
    };
    insta::assert_snapshot!(message(folder.path()), @"cannot write a bundle to DIR: it is a folder, expected a new or a regular file");
    insta::assert_snapshot!(message(&folder.path().join("..")), @"cannot write a bundle to DIR/..: it is not a file name, expected a new or a regular file");
    assert!(
        message(&folder.path().join("no/such/x.lfmb"))
            .starts_with("cannot create a temporary file in DIR/no/such: ")
    );
    fs::write(&path, "a file").unwrap();
    assert!(message(&path.join("x.lfmb")).starts_with("cannot create a temporary file in DIR/model.lfmb: "));
    #[cfg(unix)]
    insta::assert_snapshot!(message(Path::new("/dev/null")), @"cannot write a bundle to /dev/null: it is a device or a pipe, expected a new or a regular file");
}

/// What a killed process left behind goes when the next one writes; what a living one writes, and anything else, stays.
#[cfg(unix)]
#[test]
fn files_of_killed_processes_are_removed() {
    let (folder, path) = destination();
    let put = |name: &str| fs::write(folder.path().join(name), "x").unwrap();
    for name in [".lfmb.partial-1-0", ".lfmb.partial-4294967295-17"] {
        put(name);
    }
    let others = [".lfmb.partial-", ".lfmb.partial-1-x", ".lfmb.partial-7-7", "lfmb.partial-1-0"];
    others.iter().for_each(|name| put(name));
    let held = OpenOptions::new().write(true).open(folder.path().join(others[2])).unwrap();
    held.lock().unwrap();
    fs::create_dir(folder.path().join(".lfmb.partial-1-1")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join(".lfmb.partial-1-2")).unwrap();
    let first = writer(&path);
    let second = writer(&path);
    drop((first, second));
    let mut left = [&others[..], &[".lfmb.partial-1-1", ".lfmb.partial-1-2"]].concat();
    left.sort_unstable();
    assert_eq!(list(folder.path()), left);
}

/// Root may write everywhere, so the folder is one that nobody may create files in.
#[cfg(target_os = "linux")]
#[test]
fn unwritable_folder() {
    let error = BundleWriter::create(Path::new("/proc/self/x.lfmb")).unwrap_err();
    assert_eq!(error.to_string(), "cannot create a temporary file in /proc/self");
    assert!(error.source().is_some());
}

#[cfg(target_os = "linux")]
#[test]
fn disk_full() {
    let (folder, path) = destination();
    fs::write(&path, "old").unwrap();
    let mut writer = writer(&path).weights_writer(3 << 20).unwrap();
    writer.append(&weights(1000)).unwrap();
    writer.replace_file(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let error = writer.append(&weights(2 << 20)).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("cannot write section `weights`, bytes 8192.."), "{message}");
    assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
    assert!(error.source().unwrap().to_string().contains("No space left"), "{error:?}");
    drop(writer);
    assert_eq!(list(folder.path()), ["model.lfmb"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn failing_publish_removes_the_temporary_file() {
    let (folder, path) = destination();
    let mut writer = writer(&path).weights_writer(100).unwrap();
    writer.append(&weights(100)).unwrap();
    let sealed = writer.seal_without_golden().unwrap();
    fs::create_dir(&path).unwrap();
    let error = sealed.publish().unwrap_err();
    assert!(error.to_string().starts_with("cannot move the finished file to "), "{error}");
    assert_eq!(list(folder.path()), ["model.lfmb"]);
    assert!(path.is_dir());
}
