//! Writes the seeds of every target to `FOLDER/TARGET/seed-N`.

use std::fs;
use std::path::Path;

use lfm_tests::fuzz::{TARGETS, seeds::seeds};

fn main() {
    let folder = std::env::args_os().nth(1).expect("the folder as the only argument");
    for (target, _) in TARGETS {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder).expect("a folder that can be written to");
        for (index, seed) in seeds(target).iter().enumerate() {
            fs::write(folder.join(format!("seed-{index}")), seed).expect("a folder that can be written to");
        }
    }
}
