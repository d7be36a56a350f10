//! Bundles that are cut or written to while they are in use: an error that says so, and no logits.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Made, Recipe, name};
use lfm_graphs::testing::Tiny;
use lfm_graphs::weights::Format;
use lfm_runtime::model::handle_bus_errors;
use lfm_runtime::{Error, Model, Options, Session};

fn made() -> Made {
    Recipe::new(Tiny::moe(), Format::Q4_0).make()
}

fn session(made: &Made) -> Session {
    Model::open(&made.path).unwrap().session(&Options { threads: Some(2), ..Options::default() }).unwrap()
}

fn tokens(n: usize) -> Vec<u32> {
    common::tokens(n, Tiny::moe().vocab as usize)
}

fn cut(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// Long enough for the next write to have another time.
fn wait() {
    std::thread::sleep(Duration::from_millis(30));
}

fn is_cut<T: std::fmt::Debug>(result: Result<T, Error>, path: &Path, to: u64) {
    let error = result.unwrap_err();
    let Error::Changed { path: found, was, now } = &error else { panic!("{error}") };
    assert_eq!((found.as_path(), *now), (path, to));
    let message = error.to_string();
    for part in [format!("{} was cut", path.display()), format!("{was} bytes"), format!("has {to} now")] {
        assert!(message.contains(&part), "{message}");
    }
}

#[test]
fn between_calls() {
    let made = made();
    let mut session = session(&made);
    session.prefill(&tokens(20)).unwrap();
    cut(&made.path, 5000);
    is_cut(session.decode(1), &made.path, 5000);
    is_cut(session.prefill(&[1, 2]), &made.path, 5000);
    is_cut(session.model().golden(), &made.path, 5000);
}

/// The weights are gone while they are read.
#[test]
fn in_the_middle_of_a_pass() {
    handle_bus_errors().unwrap();
    let made = made();
    let mut session = session(&made);
    let mut groups = 0;
    let result = session.prefill_all(&tokens(60), |_, _| {
        groups += 1;
        cut(&made.path, 4096);
        Ok(())
    });
    is_cut(result, &made.path, 4096);
    assert_eq!(groups, 1, "logits of weights that were gone have been handed out");
}

#[test]
fn while_hashes_are_checked() {
    handle_bus_errors().unwrap();
    let tiny = Tiny { vocab: 80_000, ..Tiny::dense() };
    let made = Recipe::new(tiny, Format::F32).make();
    let len = fs::metadata(&made.path).unwrap().len();
    assert!(len > 8 << 20, "{len} bytes are hashed in one step");
    let model = Model::open(&made.path).unwrap();
    model.verify_weights(|_, _| {}).unwrap();
    is_cut(model.verify_weights(|_, _| cut(&made.path, 4096)), &made.path, 4096);
    // Another mapping is another matter.
    drop(model);
    let other = self::made();
    Model::open(&other.path).unwrap().verify_weights(|_, _| {}).unwrap();
}

#[test]
fn written_to() {
    let made = made();
    let mut session = session(&made);
    session.prefill(&[1, 2]).unwrap();
    wait();
    let file = OpenOptions::new().write(true).open(&made.path).unwrap();
    file.write_all_at(&[1], fs::metadata(&made.path).unwrap().len() - 1).unwrap();
    let error = session.decode(3).unwrap_err();
    assert!(matches!(&error, Error::Changed { was, now, .. } if was == now), "{error}");
    assert!(error.to_string().contains("was changed while it was in use"), "{error}");
}

/// Another file under the name, or no file, is no change of the one that is in use. So is a cut after a copy was made.
#[test]
fn replaced_removed_or_copied() {
    let made = made();
    let mut session = session(&made);
    let expected = session.prefill(&[1, 2]).unwrap().to_vec();
    wait();
    let other = made.path.with_extension("other");
    fs::write(&other, "something else").unwrap();
    fs::rename(&other, &made.path).unwrap();
    session.clear();
    assert_eq!(session.prefill(&[1, 2]).unwrap(), expected);
    fs::remove_file(&made.path).unwrap();
    session.clear();
    assert_eq!(session.prefill(&[1, 2]).unwrap(), expected);

    let made = self::made();
    let model = Model::open(&made.path).unwrap().with_huge_pages(2).unwrap();
    cut(&made.path, 0);
    let mut session = model.session(&Options::default()).unwrap();
    assert_eq!(session.prefill(&[1, 2]).unwrap(), expected);
}

/// The program, at any moment: the code for what could not run, never a signal.
#[test]
fn programs_say_so() {
    for delay in [0, 5, 60, 400] {
        let made = made();
        let child = Command::new(env!("CARGO_BIN_EXE_lfm-run"))
            .args(["bench", name(&made.path), "-p", "100", "-n", "20", "-r", "1000000"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        cut(&made.path, 4096);
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "after {delay} ms: {:?}, {message}", output.status);
        assert!(message.contains(made.path.to_str().unwrap()), "{message}");
    }
}

/// Says to the test below that it is the child.
const CHILD: &str = "LFM_TEST_BUS_ERROR";

/// A mapping that is not ours ends the program, as it did before.
#[test]
fn other_bus_errors_are_not_ours() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bus_error_of_another_mapping"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(7), "{:?}", output.status);
}

#[test]
#[allow(unsafe_code, reason = "only a mapping of its own gives a bus error that is not the library's")]
fn bus_error_of_another_mapping() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let made = made();
    let _model = Model::open(&made.path).unwrap();
    handle_bus_errors().unwrap();
    let file = fs::File::open(&made.path).unwrap();
    // SAFETY: the mapping is read only; that it faults is what this process is for.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    cut(&made.path, 0);
    std::hint::black_box(map[0]);
}
