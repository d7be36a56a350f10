//! Bus errors: what is left of a mapped file that was cut, or whose disk fails, reads as zeros instead of ending the program,
//! and it is remembered that it did.
//!
//! A process has one handler for a signal, so a library does not install one by itself: `handle_bus_errors` of the
//! module above is for programs to call. Mappings are registered whether it was called or not.
#![allow(unsafe_code, reason = "signal handlers and fixed mappings are the system's")]

use std::io;
use std::ops::Range;
use std::ptr::{null, null_mut};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};

/// Mappings that are guarded at a time; any more are as if there were no handler.
const REGIONS: usize = 64;

/// A place for a mapping. The handler may neither lock nor allocate, so there is a fixed number of them.
struct Slot {
    /// Its first byte; 0 where the place is free.
    start: AtomicUsize,
    /// One past its last byte; 0 while it is not guarded.
    end: AtomicUsize,
    /// Whether a page of it was gone.
    hit: AtomicBool,
}

static SLOTS: [Slot; REGIONS] =
    [const { Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), hit: AtomicBool::new(false) } };
        REGIONS];

/// What handled the signal before.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(null_mut());
/// Bytes of a page.
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// A guarded mapping; dropped before the mapping is.
#[derive(Debug)]
pub(super) struct Region(usize);

impl Region {
    /// Guards the bytes of a mapping of a file, if there is a place left.
    pub(super) fn new(bytes: Range<*const u8>) -> Option<Region> {
        let start = bytes.start.addr();
        let index = SLOTS.iter().position(|s| s.start.compare_exchange(0, start, SeqCst, SeqCst).is_ok())?;
        let slot = SLOTS.get(index)?;
        slot.hit.store(false, SeqCst);
        slot.end.store(bytes.end.addr(), SeqCst);
        Some(Region(index))
    }

    /// Whether some of it was gone when it was read: whatever was computed from it since is wrong.
    pub(super) fn hit(&self) -> bool {
        SLOTS.get(self.0).is_some_and(|slot| slot.hit.load(SeqCst))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(slot) = SLOTS.get(self.0) {
            slot.end.store(0, SeqCst);
            slot.start.store(0, SeqCst);
        }
    }
}

/// Installs the handler, once.
pub(super) fn handle_bus_errors() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut done = Ok(());
    ONCE.call_once(|| done = install());
    done
}

fn install() -> io::Result<()> {
    // SAFETY: a question about the system, without pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    PAGE.store(usize::try_from(page).map_err(io::Error::other)?, SeqCst);
    // SAFETY: all zeros is a valid value of this structure of numbers: no handler, no flags, no signals.
    let mut previous: Box<libc::sigaction> = Box::new(unsafe { std::mem::zeroed() });
    // SAFETY: with a null action nothing is set; the other pointer is to a structure of our own.
    if unsafe { libc::sigaction(libc::SIGBUS, null(), &mut *previous) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // It stays for as long as the handler does, which is for ever.
    PREVIOUS.store(Box::into_raw(previous), SeqCst);
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as extern "C" fn(_, _, _) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and does what a handler may: it reads and writes
    // atomics and calls the system. Nothing that it needs is set later.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system hands a valid structure to handlers that ask for it by SA_SIGINFO; for a SIGBUS of its own
    // (a positive code) it has an address.
    let (code, at) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    if code > 0 && read_as_zeros(at) {
        return;
    }
    // SAFETY: what is stored is null or a structure that is never freed nor changed.
    let previous = unsafe { PREVIOUS.load(SeqCst).as_ref() };
    match previous {
        Some(previous) if previous.sa_sigaction > libc::SIG_IGN => {
            if previous.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: the system says that this is a handler, of this signature because of its flag.
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    unsafe { std::mem::transmute(previous.sa_sigaction) };
                handler(signal, info, context);
            } else {
                // SAFETY: as above; without the flag it takes the signal's number alone.
                let handler: extern "C" fn(libc::c_int) =
                    unsafe { std::mem::transmute(previous.sa_sigaction) };
                handler(signal);
            }
        }
        Some(_) | None => {
            // The access is tried again after this, and ends the program as it would have without us.
            // SAFETY: as in `install`; zeros are the default action.
            unsafe { libc::sigaction(signal, &std::mem::zeroed(), null_mut()) };
        }
    }
}

/// Puts zeros in place of the rest of the guarded mapping that `at` lies in; false where there is none.
fn read_as_zeros(at: usize) -> bool {
    let page = PAGE.load(SeqCst).max(1);
    for slot in &SLOTS {
        let (start, end) = (slot.start.load(SeqCst), slot.end.load(SeqCst));
        if start == 0 || at < start || at >= end {
            continue;
        }
        slot.hit.store(true, SeqCst);
        let first = at - at % page;
        // SAFETY: the pages from `first` to the end are all of one mapping that is registered, so it is alive and ours;
        // they are replaced in one step by others that can be read as well. Only private read-only mappings of files,
        // whose bytes nobody relies on to stay, are registered.
        let zeros = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            libc::mmap(first as *mut libc::c_void, end - first, libc::PROT_READ, flags, -1, 0)
        };
        return zeros != libc::MAP_FAILED;
    }
    false
}
