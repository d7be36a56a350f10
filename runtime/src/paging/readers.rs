//! A few threads that read weights, and park while there is nothing to read.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use memmap2::MmapMut;

use super::source::Source;

/// One matrix to read. The buffer travels with it, so nobody else can touch it meanwhile.
#[derive(Debug)]
pub(super) struct Read {
    /// Whose buffer it is, and which of its three.
    pub(super) slot: usize,
    pub(super) part: usize,
    pub(super) buffer: MmapMut,
    /// First byte, in the weights: the start of a page.
    pub(super) at: u64,
    /// Bytes from there that must be read.
    pub(super) needed: usize,
    /// Whether the buffer has never been used.
    pub(super) fresh: bool,
    /// Whether it was not waited for when it was started.
    pub(super) ahead: bool,
    pub(super) result: io::Result<()>,
}

#[derive(Debug, Default)]
struct Queue {
    /// What is waited for, and after it what will be.
    urgent: VecDeque<Read>,
    ahead: VecDeque<Read>,
    done: VecDeque<Read>,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    source: Source,
    queue: Mutex<Queue>,
    /// There is something to read.
    work: Condvar,
    /// Something has been read.
    read: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Each holder moves one item: a panic leaves nothing half-done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads.
#[derive(Debug)]
pub(super) struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// `threads` readers of `source`; at most `reads` are under way at once. With `lock`, buffers are locked in memory
    /// before their first use, as long as the system allows it.
    pub(super) fn new(source: Source, threads: usize, reads: usize, lock: bool) -> io::Result<Readers> {
        let room = || VecDeque::with_capacity(reads);
        let queue = Queue { urgent: room(), ahead: room(), done: room(), stop: false };
        let shared =
            Arc::new(Shared { source, queue: Mutex::new(queue), work: Condvar::new(), read: Condvar::new() });
        let mut readers = Readers { shared, threads: Vec::with_capacity(threads) };
        for index in 0..threads.max(1) {
            let shared = Arc::clone(&readers.shared);
            let builder = std::thread::Builder::new().name(format!("lfm-read-{index}")).stack_size(128 << 10);
            readers.threads.push(builder.spawn(move || work(&shared, lock))?);
        }
        Ok(readers)
    }

    /// What is read.
    pub(super) fn source(&self) -> &Source {
        &self.shared.source
    }

    /// Reads something: after all that is waited for, before or with what is read ahead.
    pub(super) fn start(&self, read: Read) {
        let mut queue = self.shared.lock();
        if read.ahead { &mut queue.ahead } else { &mut queue.urgent }.push_back(read);
        drop(queue);
        self.shared.work.notify_one();
    }

    /// What was to be read ahead for `slot` is waited for now.
    pub(super) fn hurry(&self, slot: usize) {
        let mut queue = self.shared.lock();
        let Queue { urgent, ahead, .. } = &mut *queue;
        for _ in 0..ahead.len() {
            if let Some(read) = ahead.pop_front() {
                if read.slot == slot { &mut *urgent } else { &mut *ahead }.push_back(read);
            }
        }
    }

    /// Something that has been read. With `wait`, waits until there is something: there must be a read under way.
    pub(super) fn take(&self, wait: bool) -> Option<Read> {
        let mut queue = self.shared.lock();
        loop {
            let read = queue.done.pop_front();
            if read.is_some() || !wait {
                return read;
            }
            queue = self.shared.read.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A reader has nothing left to say.
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared, mut lock: bool) {
    let mut queue = shared.lock();
    while !queue.stop {
        let Some(mut read) = queue.urgent.pop_front().or_else(|| queue.ahead.pop_front()) else {
            queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(queue);
        // What cannot be locked is used all the same; the limit will not grow.
        lock = lock && (!read.fresh || super::lock(&read.buffer));
        read.result = shared.source.read(read.at, &mut read.buffer, read.needed);
        queue = shared.lock();
        queue.done.push_back(read);
        shared.read.notify_one();
    }
}
