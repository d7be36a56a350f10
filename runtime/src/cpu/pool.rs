//! A persistent pool of threads that run one closure together.
//!
//! A token costs a few dozen parallel sections of some microseconds each, so a section costs two atomic
//! operations a thread and no allocation. Workers spin briefly for the next section, then park: between
//! calls they use no CPU.
#![allow(
    unsafe_code,
    reason = "a section's closure borrows from the caller; the pool erases that lifetime while it runs"
)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Most threads of a pool.
pub const MAX_THREADS: usize = 32;

/// How often a waiting thread looks before it gives up its time slice or parks. About 50 µs.
const SPINS: u32 = 20_000;

type Job = &'static (dyn Fn(usize) + Sync);

#[derive(Default)]
struct Shared {
    /// Sections started so far. A worker runs each exactly once.
    epoch: AtomicU64,
    /// The section that is running.
    job: Mutex<Option<Job>>,
    /// Workers that have not finished the section.
    running: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Workers that are parked, under the lock that `wake` goes with.
    parked: Mutex<usize>,
    wake: Condvar,
}

/// `threads - 1` workers and the thread that calls [`Pool::run`].
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    sections: u64,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

/// Part `index` of `n` things cut into `parts` ranges of nearly equal size; `None` past the last.
pub fn part(n: usize, index: usize, parts: usize) -> Option<std::ops::Range<usize>> {
    (index < parts).then(|| n * index / parts..n * (index + 1) / parts)
}

impl Pool {
    /// A pool of 1 to [`MAX_THREADS`] threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let threads = threads.clamp(1, MAX_THREADS);
        let shared = Arc::new(Shared::default());
        let mut pool = Pool { shared, workers: Vec::with_capacity(threads - 1), sections: 0 };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("lfm-{index}")).stack_size(512 << 10);
            pool.workers.push(builder.spawn(move || worker(&shared, index))?);
        }
        Ok(pool)
    }

    /// How many threads run a section.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Sections that more than one thread has run: each is a barrier.
    pub fn sections(&self) -> u64 {
        self.sections
    }

    /// Runs `job(index)` once for each thread, index 0 on this one, and waits for all.
    ///
    /// # Panics
    /// When `job` panics on any thread.
    pub fn run(&mut self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return job(0);
        }
        self.sections += 1;
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Workers use the reference between the store below and their
        // decrement of `running`, and this function returns or unwinds only after `running` is 0.
        let erased = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        *lock(&shared.job) = Some(erased);
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        if *lock(&shared.parked) > 0 {
            shared.wake.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        let mut spins = 0u32;
        while shared.running.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        *lock(&shared.job) = None;
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a worker thread panicked");
    }

    /// Runs `job` on every part that `next` gives, until it gives none. There are about `parts` of them: no more threads
    /// take part, and a single part costs no barrier. Threads fetch parts one by one, so one that is slow or late does
    /// fewer.
    pub fn each<P>(
        &mut self,
        parts: usize,
        mut next: impl FnMut() -> Option<P> + Send,
        job: impl Fn(P) + Sync,
    ) {
        if parts <= 1 || self.workers.is_empty() {
            while let Some(part) = next() {
                job(part);
            }
            return;
        }
        let next = Mutex::new(next);
        // A function of its own: in a `while let`, the lock would be held while the part is worked on.
        let fetch = || lock(&next)();
        self.run(&|index| {
            if index >= parts {
                return;
            }
            while let Some(part) = fetch() {
                job(part);
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.parked));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic has been reported by the section in which it happened.
            let _ = worker.join();
        }
    }
}

/// The lock's content. A panic while it was held leaves nothing half-done here: each holder does one store.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn worker(shared: &Shared, index: usize) {
    let mut seen = 0;
    while let Some(epoch) = next_epoch(shared, seen) {
        seen = epoch;
        let job = *lock(&shared.job);
        if let Some(job) = job
            && catch_unwind(AssertUnwindSafe(|| job(index))).is_err()
        {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for a section after `seen`; `None` when the pool stops.
fn next_epoch(shared: &Shared, seen: u64) -> Option<u64> {
    let look = || {
        let epoch = shared.epoch.load(Ordering::SeqCst);
        let stop = shared.stop.load(Ordering::SeqCst);
        (epoch != seen || stop).then_some((epoch, stop))
    };
    let ready = (0..SPINS).find_map(|_| {
        std::hint::spin_loop();
        look()
    });
    let (epoch, stop) = ready.unwrap_or_else(|| {
        let mut parked = lock(&shared.parked);
        *parked += 1;
        loop {
            // `epoch` is raised before `parked` is read, so either this look sees it or the wake comes.
            if let Some(ready) = look() {
                *parked -= 1;
                return ready;
            }
            parked = shared.wake.wait(parked).unwrap_or_else(PoisonError::into_inner);
        }
    });
    if stop { None } else { Some(epoch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_every_section_once() {
        for threads in 1..=4 {
            let mut pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for section in 0..2000 {
                pool.run(&|index| {
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                if section % 500 == 0 {
                    // Long enough for the workers to park.
                    std::thread::sleep(std::time::Duration::from_millis(3));
                }
            }
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 2000));
        }
    }

    #[test]
    fn parts_are_owned() {
        let mut pool = Pool::new(3).unwrap();
        let mut data = [0usize; 10];
        for parts in 1..=5 {
            let mut chunks = data.chunks_mut(2).enumerate();
            pool.each(parts, || chunks.next(), |(index, mine)| mine.fill(10 * parts + index));
            assert_eq!(data, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4].map(|index| 10 * parts + index));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let mut pool = Pool::new(2).unwrap();
        for bad in 0..2 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(&|index| assert_ne!(index, bad))));
            assert!(result.is_err());
        }
        let ran = AtomicUsize::new(0);
        pool.run(&|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.into_inner(), 2);
    }
}
