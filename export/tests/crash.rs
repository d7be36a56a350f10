//! Exports that are killed, run out of disk or meet another one: at the path is the old file or the new one, whole, and what
//! is left beside it is nothing that anybody takes for a bundle. `CRASHES=200` sets at how many random points;
//! `just crash-tests` runs them in a release build.
#![cfg(unix)]
#![allow(clippy::print_stdout, reason = "figures of a long run are for whoever started it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lfm_graphs::bundle::{Bundle, Kind};
use lfm_graphs::testing::Rng;
use tempfile::TempDir;

const LFMC: &str = env!("CARGO_BIN_EXE_lfmc");

/// Random points of each kind of crash.
fn points() -> u32 {
    match std::env::var("CRASHES") {
        Ok(points) => points.parse().unwrap_or_else(|_| panic!("CRASHES is {points}, expected a number")),
        Err(_) => 6,
    }
}

/// An export that is interrupted, the file that it replaces, and the one that it makes.
struct Export {
    folder: TempDir,
    old: Vec<u8>,
    new: Vec<u8>,
    /// What it takes undisturbed.
    time: Duration,
}

impl Export {
    fn new() -> Export {
        let folder = TempDir::new().unwrap();
        let export = |weights: &str| {
            let path = folder.path().join("model.lfmb");
            let output = command(LFMC.as_ref(), &path, weights).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            fs::read(path).unwrap()
        };
        let old = export("q8_0");
        let start = Instant::now();
        let new = export("q4_0");
        Export { time: start.elapsed(), old, new, folder }
    }

    /// The path of the file, with the old one at it.
    fn path(&self) -> PathBuf {
        let path = self.folder.path().join("model.lfmb");
        fs::write(&path, &self.old).unwrap();
        path
    }

    /// Checks what is at the path, and what is left beside it; whether the new file is there.
    fn check(&self, what: &str) -> bool {
        let found = fs::read(self.folder.path().join("model.lfmb")).unwrap();
        assert!(found == self.old || found == self.new, "{what}: neither the old nor the new file");
        for name in names(self.folder.path()) {
            if name != "model.lfmb" {
                assert!(name.starts_with(".lfmb.partial-"), "{what}: {name}");
                self.check_partial(&fs::read(self.folder.path().join(&name)).unwrap(), what);
            }
        }
        found == self.new
    }

    /// A file that was left behind is no bundle, or one with all that the new one has, golden vectors aside.
    fn check_partial(&self, bytes: &[u8], what: &str) {
        let Ok(found) = Bundle::parse(bytes) else { return };
        let expected = Bundle::parse(&self.new).unwrap();
        found.verify_weights().unwrap_or_else(|e| panic!("{what}: {e}"));
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Golden) {
            assert!(found.section(kind) == expected.section(kind), "{what}: section {kind} differs");
        }
    }
}

/// A command that exports to `path`; `program` is `lfmc` or what starts it.
fn command(program: &Path, path: &Path, weights: &str) -> Command {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-moe");
    let mut command = Command::new(program);
    if program != Path::new(LFMC) {
        command.arg(LFMC);
    }
    command.arg("export").arg(source).arg("-o").arg(path).args(["--weights", weights, "--context", "64"]);
    command
}

/// Starts an export that says nothing.
fn spawn(path: &Path, weights: &str) -> Child {
    let mut export = command(LFMC.as_ref(), path, weights);
    export.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn killed() {
    let export = Export::new();
    let mut rng = Rng::new(1);
    let (mut done, mut left) = (0, 0);
    for point in 0..points() {
        let path = export.path();
        let mut child = spawn(&path, "q4_0");
        let after = export.time.mul_f32(f32::abs(rng.unit()) * 1.05);
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
        done += u32::from(export.check(&format!("kill {point} after {after:?}")));
        left += names(export.folder.path()).len() - 1;
    }
    // The next export clears up.
    let path = export.path();
    assert!(command(LFMC.as_ref(), &path, "q4_0").output().unwrap().status.success());
    assert!(export.check("after all"));
    assert_eq!(names(export.folder.path()), ["model.lfmb"]);
    println!("{} kills: {done} came too late, {left} times a temporary file was left", points());
}

/// Writes that fail at any byte, by the limit on the size of a file, which needs no privilege.
#[test]
fn writes_that_fail() {
    let export = Export::new();
    let mut rng = Rng::new(2);
    for point in 0..points() {
        let path = export.path();
        let blocks = rng.below(export.new.len() as u32 / 512);
        let limit = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let export_to = command("limited".as_ref(), &path, "q4_0");
        let output = Command::new("sh").arg("-c").arg(limit).args(export_to.get_args()).output().unwrap();
        let what = format!("failure {point} at {blocks} blocks");
        assert_eq!(output.status.code(), Some(2), "{what}: {}", stderr(&output));
        assert!(stderr(&output).contains("File too large"), "{what}: {}", stderr(&output));
        assert!(!export.check(&what), "{what}: exported");
        assert_eq!(names(export.folder.path()), ["model.lfmb"], "{what}");
    }
}

/// A file system that is full, of any size, where this process may mount one for itself.
#[cfg(target_os = "linux")]
#[test]
fn full_disk() {
    let export = Export::new();
    let script =
        "mount -t tmpfs -o size=$1 tmpfs $2 && cp $3 $2/model.lfmb && shift 3 && { \"$0\" \"$@\"; echo $?; }";
    let (disk, old) = (TempDir::new().unwrap(), export.path());
    let path = disk.path().join("model.lfmb");
    let mut rng = Rng::new(3);
    let run = |bytes: u64| {
        let export_to = command(LFMC.as_ref(), &path, "q4_0");
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg(format!("{script} && ls -A {0} && cat {0}/model.lfmb", disk.path().display()))
            .arg(LFMC)
            .arg(bytes.to_string())
            .args([disk.path(), &old])
            .args(export_to.get_args())
            .output()
            .unwrap()
    };
    let roomy = run(64 << 20);
    if !roomy.status.success() {
        println!("no file system of its own, writes_that_fail has to do: {}", stderr(&roomy));
        return;
    }
    let new = [b"0\nmodel.lfmb\n", &export.new[..]].concat();
    assert!(roomy.stdout.ends_with(&new), "{}", stderr(&roomy));
    let kept = [b"2\nmodel.lfmb\n", &export.old[..]].concat();
    let room = export.old.len() as u64;
    for point in 0..points() {
        let free = u64::from(rng.below(export.new.len() as u32 - 8192));
        let output = run(room + 4096 + free);
        let what = format!("disk {point} with {free} bytes free: {}", stderr(&output));
        assert!(stderr(&output).contains("No space left"), "{what}");
        assert!(output.stdout == kept, "{what}");
    }
}

#[test]
fn at_once() {
    let export = Export::new();
    for round in 0..points().div_ceil(8) {
        let path = export.path();
        let children: Vec<_> = ["q4_0", "q8_0", "q4_0"].map(|weights| spawn(&path, weights)).into();
        for mut child in children {
            assert!(child.wait().unwrap().success(), "round {round}");
        }
        export.check(&format!("round {round}"));
        assert_eq!(names(export.folder.path()), ["model.lfmb"]);
    }
}

/// Root may write everywhere, so the folder is one that nobody may create files in.
#[cfg(target_os = "linux")]
#[test]
fn unwritable_folder() {
    let path = Path::new("/proc/self/model.lfmb");
    let output = command(LFMC.as_ref(), path, "q4_0").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot create a temporary file in /proc/self"), "{}", stderr(&output));
}
