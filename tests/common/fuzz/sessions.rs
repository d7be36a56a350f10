//! Body of the session file, read into a session of a small bundle of which it claims to be.

use std::cell::RefCell;

use lfm_runtime::{Options, Session};

use super::Room;
use crate::{Bundle, fixture};

/// What is read goes into the session that there is; tokens, checkpoints and the note are lists beside it.
const FILE: Room = Room { per_byte: 4, on_top: 256 << 10 };

/// Bytes of the hash at the end.
const HASH: usize = 32;

/// A session of the bundle that seeds are made with, on one thread.
pub(super) fn small() -> Session {
    let bundle = Bundle::export_with(&fixture("tiny-moe"), "q4_0", |options| {
        options.context = Some(64);
        options.chunk = Some(16);
    });
    bundle.open().session(&Options { threads: Some(1), ..Options::default() }).unwrap()
}

/// The bytes as they are, and with the right hash.
pub(super) fn session(bytes: &[u8]) {
    thread_local!(static SESSION: RefCell<Session> = RefCell::new(small()));
    let mut sealed = bytes.to_vec();
    if let Some(at) = bytes.len().checked_sub(HASH) {
        let hash = blake3::hash(&bytes[..at]);
        sealed[at..].copy_from_slice(hash.as_bytes());
    }
    SESSION.with_borrow_mut(|session| {
        for bytes in [bytes, &sealed] {
            read(session, bytes);
        }
    });
}

/// Reads a file and goes on from what it holds.
fn read(session: &mut Session, bytes: &[u8]) {
    let taken = FILE.hold(bytes.len(), || session.read_from(&mut &*bytes, bytes.len() as u64));
    if taken.is_err() {
        assert_eq!((session.past(), session.tokens().len()), (0, 0), "what is refused leaves nothing");
        return;
    }
    let (past, embeddings) = (session.past(), session.model().embeddings() as u32);
    assert!(past <= session.context() && session.tokens().len() == past);
    assert!(session.tokens().iter().all(|token| *token < embeddings));
    let mut again = Vec::new();
    let note = session.read_from(&mut &*bytes, bytes.len() as u64).unwrap();
    session.write_to(&mut again, &note).unwrap();
    // What lies behind the last position is not kept.
    assert_eq!(again.len(), bytes.len());
    if past < session.context() {
        session.decode(1).unwrap();
    }
    session.rewind(past / 2).unwrap();
}
