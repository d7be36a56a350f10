//! Sessions in files: nothing but a whole file of the same bundle is taken over, and no crash leaves another.

mod common;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Made, Recipe, name, tokens};
use lfm_graphs::DType;
use lfm_graphs::testing::{Rng, Tiny};
use lfm_graphs::weights::Format;
use lfm_runtime::session::file::{FileError, HEADER_LEN};
use lfm_runtime::{Error, Model, Options, Session};

fn made() -> Made {
    Recipe { chunk: 8, ..Recipe::new(Tiny { kv: DType::F16, ..Tiny::moe() }, Format::Q8_0) }.make()
}

fn session(made: &Made) -> Session {
    let options = Options { threads: Some(1), ..Options::default() };
    Model::open(&made.path).unwrap().session(&options).unwrap()
}

fn bytes(session: &mut Session) -> Vec<u8> {
    let mut bytes = Vec::new();
    session.write_to(&mut bytes, b"a note").unwrap();
    bytes
}

fn read(session: &mut Session, bytes: &[u8]) -> Result<Vec<u8>, FileError> {
    session.read_from(&mut &*bytes, bytes.len() as u64)
}

/// Only a regular file is replaced: a device, a pipe or a folder would be gone. Nor is a pipe opened that has the name of a
/// temporary file, since that can take for ever.
#[cfg(unix)]
#[test]
fn nothing_but_files_is_replaced() {
    let made = made();
    let mut session = session(&made);
    session.prefill(&[1, 2, 3]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let like_ours = folder.path().join(".lfm-session.partial-1-1");
    for path in [&pipe, &like_ours] {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }
    for (path, found) in [(pipe.as_path(), "a device or a pipe"), (folder.path(), "a folder")] {
        let error = session.save(path, b"").unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, format!("it is {found}, expected a new or a regular file"));
        assert!(path.exists() && !path.is_file());
    }
    session.save(folder.path().join("session"), b"").unwrap();
    assert!(like_ours.exists());
}

/// With the hash of what they are now.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - 32;
    let hash = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(hash.as_bytes());
    bytes
}

#[test]
fn every_damaged_byte_and_every_cut_is_an_error() {
    let made = made();
    let mut session = session(&made);
    session.prefill(&tokens(11, 96)).unwrap();
    session.decode(3).unwrap();
    let good = bytes(&mut session);
    let digest = |session: &mut Session| session.decode(1).unwrap().to_vec();
    let expected = digest(&mut session);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(read(&mut session, &bad).is_err(), "byte {at} of {}", good.len());
        assert_eq!((session.past(), session.checkpoints().len()), (0, 0));
        assert!(read(&mut session, &good[..at]).is_err(), "the first {at} bytes");
        // A file that is shorter than the system says.
        assert!(session.read_from(&mut &good[..at], good.len() as u64).is_err());
    }
    assert!(read(&mut session, &[&good[..], &[0]].concat()).is_err(), "a byte more");
    assert_eq!(read(&mut session, &good).unwrap(), b"a note");
    assert_eq!(digest(&mut session), expected);
}

#[test]
fn lies_under_a_right_hash_are_errors() {
    let made = made();
    let mut session = session(&made);
    session.prefill(&tokens(20, 96)).unwrap();
    let good = bytes(&mut session);
    let mut message = |at: usize, with: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + with.len()].copy_from_slice(with);
        let message = read(&mut session, &sealed(bad)).unwrap_err().to_string();
        assert_eq!(session.past(), 0);
        message
    };
    let max = [255; 4];
    assert!(message(0, b"GGUF").starts_with("it is no session: its first bytes are [47, 47, 55, 46"));
    assert_eq!(message(8, &[2]), "it has version 2 of the format, expected 1");
    assert_eq!(message(12, &[1]), "its states are those of backend 1, expected 0, the CPU");
    assert!(
        message(16, &[0; 32]).starts_with(&format!("it belongs to bundle {}, expected ", "0".repeat(64)))
    );
    assert_eq!(message(48, &max), "the number of positions is 4294967295, expected 0 to 160");
    assert_eq!(message(52, &max), "the number of checkpoints is 4294967295, expected 0 to 20");
    assert_eq!(message(56, &[21]), "the position of the logits is 21, expected 0 to 20");
    assert_eq!(message(60, &max), "the length of the note is 4294967295, expected 0 to 16777216");
    for (at, with) in [(48, 160), (48, 0), (52, 20), (56, 0), (60, 255)] {
        let found = message(at, &[with]);
        let expected = format!("it has {} bytes, expected ", good.len());
        let number = if (at, with) == (48, 0) { "the number of checkpoints is 3" } else { expected.as_str() };
        assert!(found.starts_with(number), "{found}");
    }
    assert_eq!(message(HEADER_LEN, &96u32.to_le_bytes()), "a token is 96, expected 0 to 95");
    let checkpoints = HEADER_LEN + 4 * 20;
    assert_eq!(message(checkpoints, &[0]), "the position of a checkpoint is 0, expected 1 to 20");
    assert_eq!(message(checkpoints + 4, &[8]), "the position of a checkpoint is 8, expected 9 to 20");
    assert_eq!(message(checkpoints + 8, &[21]), "the position of a checkpoint is 21, expected 17 to 20");

    // States may be any bits: they give no sense, but no fault either.
    let states = checkpoints + 4 * 3 + 6;
    for fill in [0, 0x7f, 0xff] {
        let mut bad = good.clone();
        let end = bad.len() - 32;
        bad[states..end].fill(fill);
        read(&mut session, &sealed(bad)).unwrap();
        session.decode(1).unwrap();
        session.rewind(10).unwrap();
        session.prefill(&tokens(40, 96)).unwrap();
    }
}

#[test]
fn a_file_fits_other_options_and_no_other_bundle() {
    let made = made();
    let mut session = session(&made);
    session.prefill(&tokens(50, 96)).unwrap();
    let bytes = bytes(&mut session);
    let expected = session.decode(1).unwrap().to_vec();
    let model = session.model().clone();
    for (context, chunk) in [(51, 8), (64, 3), (160, 1)] {
        let options = Options { context: Some(context), chunk: Some(chunk), ..Options::default() };
        let mut other = model.session(&options).unwrap();
        read(&mut other, &bytes).unwrap();
        assert_eq!(other.decode(1).unwrap(), expected);
        assert_eq!(other.rewind(20).unwrap(), 16);
    }
    let mut small = model.session(&Options { context: Some(49), ..Options::default() }).unwrap();
    assert!(matches!(read(&mut small, &bytes), Err(FileError::Range { found: 50, most: 49, .. })));
    let other = Recipe::new(Tiny::moe(), Format::Q8_0).make();
    let mut other = Model::open(&other.path).unwrap().session(&Options::default()).unwrap();
    assert!(matches!(read(&mut other, &bytes), Err(FileError::Bundle { .. })));
}

/// What fails after some bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let some = bytes.len().min(self.0);
        self.0 -= some;
        Ok(some)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_the_session_goes_on() {
    let made = made();
    let mut session = session(&made);
    session.prefill(&tokens(30, 96)).unwrap();
    let good = bytes(&mut session);
    for room in (0..good.len()).step_by(7) {
        assert!(matches!(session.write_to(&mut Full(room), b"a note"), Err(Error::System { .. })));
    }
    assert!(bytes(&mut session) == good);
}

fn lfm_run(arguments: &[&str]) -> (Option<i32>, serde_json::Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lfm-run")).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), text)
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Files in a folder, but for the bundle.
fn files(made: &Made) -> Vec<String> {
    let names = std::fs::read_dir(made.folder.path()).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name != "tiny.lfmb");
    names
}

#[test]
fn commands_go_on_from_a_file() {
    let made = made();
    let (bundle, file) = (name(&made.path), made.folder.path().join("kept"));
    let session = ["--session", name(&file)];
    let first = tokens(100, 96);
    let second = [&first[..90], &[1, 2, 3, 4]].concat();
    let generate = |ids: &[u32], more: &[&str]| {
        let ids = list(ids);
        let arguments = ["generate", bundle, "--tokens", &ids, "--greedy", "-n", "9", "--json"];
        let (code, json, text) = lfm_run(&[&arguments[..], more].concat());
        assert_eq!(code, Some(0), "{text}");
        json
    };
    let logits = |ids: &[u32], more: &[&str]| {
        let (code, json, text) = lfm_run(&[&["logits", bundle, "--tokens", &list(ids)], more].concat());
        assert_eq!(code, Some(0), "{text}");
        json
    };
    assert!(generate(&first, &[]).get("reused_tokens").is_none());
    for (ids, reused) in [(&first, 0), (&first, 100), (&second, 88), (&second, 94)] {
        let found = generate(ids, &session);
        assert_eq!(found["reused_tokens"], reused);
        assert_eq!(found["tokens"], generate(ids, &[])["tokens"]);
        assert_eq!(files(&made), ["kept"]);
    }
    let found = logits(&first, &session);
    assert_eq!((&found["reused_tokens"], &found["digest"]), (&88.into(), &logits(&first, &[])["digest"]));

    let all = lfm_run(&[&["logits", bundle, "--tokens", "1", "--all"], &session[..]].concat());
    assert_eq!(all.0, Some(2));
    let before = std::fs::read(&file).unwrap();
    std::fs::write(&file, &before[1..]).unwrap();
    let (code, _, text) = lfm_run(&[&["logits", bundle, "--tokens", "1"], &session[..]].concat());
    assert_eq!(code, Some(2));
    assert!(
        text.starts_with("error: ")
            && text.contains("kept is not a session of this bundle\ncause: it is no session")
    );
    assert_eq!(std::fs::read(&file).unwrap(), before[1..], "what cannot be read is not replaced");
    let folder = name(made.folder.path());
    let (code, _, text) = lfm_run(&["logits", bundle, "--tokens", "1", "--session", folder]);
    assert!(code == Some(2) && text.contains("found no regular file"), "{text}");
    let (code, _, text) = lfm_run(&["logits", bundle, "--tokens", "1", "--session", "/no/such/folder/kept"]);
    assert!(code == Some(2) && text.starts_with("error: cannot write /no/such/folder/kept\n"), "{text}");
}

/// A process that may not write more than some bytes to a file fails as one whose disk is full.
#[cfg(unix)]
#[test]
fn a_save_that_fails_leaves_the_file() {
    let made = made();
    let file = made.folder.path().join("kept");
    let mut session = session(&made);
    session.prefill(&tokens(5, 96)).unwrap();
    session.save(&file, b"").unwrap();
    let before = std::fs::read(&file).unwrap();
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$@\"";
    let ids = list(&tokens(150, 96));
    let output = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_lfm-run"), "logits", name(&made.path)])
        .args(["--tokens", &ids, "--session", name(&file)])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("cannot write ") && text.contains("kept\ncause: File too large"), "{text}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
    assert_eq!(files(&made), ["kept"]);
}

/// What is run in a process of its own: it replaces one file by two sessions in turn until it is killed.
const CHILD: &str = "SESSION_FILE_CHILD";

#[test]
fn replaces_a_file_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let path = Path::new(&path);
    let model = Model::open(path.join("tiny.lfmb")).unwrap();
    let mut session = model.session(&Options { threads: Some(1), ..Options::default() }).unwrap();
    loop {
        for n in [40, 2000] {
            session.start(&tokens(n, 96)).unwrap();
            session.save(path.join("kept"), b"").unwrap();
        }
    }
}

#[test]
fn a_killed_save_leaves_the_old_file_or_the_new_one() {
    let made = Recipe { context: 2048, ..Recipe::new(Tiny::dense(), Format::Q8_0) }.make();
    let file = made.folder.path().join("kept");
    let mut session = session(&made);
    session.prefill(&tokens(40, 96)).unwrap();
    session.save(&file, b"").unwrap();
    let mut rng = Rng::new(11);
    let mut found = [0, 0];
    for _ in 0..200 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "replaces_a_file_until_it_is_killed", "--test-threads=1"])
            .env(CHILD, made.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(u64::from(5_000 + rng.below(25_000))));
        child.kill().unwrap();
        child.wait().unwrap();
        session.restore(&file).unwrap();
        match session.past() {
            40 => found[0] += 1,
            2000 => found[1] += 1,
            other => panic!("{other} positions"),
        }
        session.decode(1).unwrap();
    }
    assert_eq!(found[0] + found[1], 200);
    // What killed ones left goes with the next save.
    session.save(&file, b"").unwrap();
    assert_eq!(files(&made), ["kept"]);
}
