//! Ctrl-C: the first ends the answer that is being written, another one the program.

use std::sync::atomic::{AtomicBool, Ordering};

use lfm_runtime::Error;

use super::error::Result;

/// Whether the answer is to end.
static CANCEL: AtomicBool = AtomicBool::new(false);
/// Whether an answer is being written.
static ANSWERING: AtomicBool = AtomicBool::new(false);

/// As shells report an interrupt.
const INTERRUPTED: i32 = 130;

/// Handles interrupts from now on.
pub(crate) fn install() -> Result<()> {
    let handler = || {
        if !ANSWERING.load(Ordering::SeqCst) || CANCEL.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
    };
    ctrlc::set_handler(handler).map_err(|error| {
        let attempt = "cannot handle interrupts".into();
        Error::System { attempt, source: std::io::Error::other(error) }.into()
    })
}

/// An answer that is being written, until this is dropped.
#[derive(Debug)]
pub(crate) struct Answer(());

impl Answer {
    /// Starts an answer.
    pub(crate) fn start() -> Answer {
        CANCEL.store(false, Ordering::SeqCst);
        ANSWERING.store(true, Ordering::SeqCst);
        Answer(())
    }

    /// True once the answer is to end.
    pub(crate) fn cancel(&self) -> &'static AtomicBool {
        &CANCEL
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        ANSWERING.store(false, Ordering::SeqCst);
    }
}
