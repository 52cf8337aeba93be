//! What the heap is asked for, counted for each thread: a test and all that it simulates are on one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::{Add, Sub};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static WORK: Cell<Work> = const { Cell::new(Work { allocations: 0, bytes: 0 }) };
}

/// What was allocated, whether or not it is alive: a measure of work that is the same on every machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) allocations: u64,
    pub(crate) bytes: u64,
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            allocations: self.allocations + other.allocations,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Sub for Work {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            allocations: self.allocations.saturating_sub(other.allocations),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

fn add(bytes: isize) {
    // Threads may free after their locals are gone; nobody counts then.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

fn work(bytes: usize) {
    let _ = WORK.try_with(|work| {
        let one = Work {
            allocations: 1,
            bytes: bytes as u64,
        };
        work.set(work.get() + one);
    });
}

// SAFETY: everything is passed on to the system's allocator as it came; counting neither allocates
// nor panics.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait demands of the caller.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        work(layout.size());
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the trait demands of the caller.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Heap bytes that this thread allocated and did not free.
pub(crate) fn live_bytes() -> isize {
    LIVE.with(Cell::get)
}

/// What this thread allocated so far. One that grows counts anew, in full.
pub(crate) fn allocated() -> Work {
    WORK.with(Cell::get)
}

#[test]
fn what_is_alive_is_counted() {
    let (before, work) = (live_bytes(), allocated());
    let bytes = std::hint::black_box(vec![1u8; 100_000]);
    assert!(live_bytes() - before >= 100_000);
    drop(bytes);
    assert!(live_bytes() - before < 100_000);
    let work = allocated() - work;
    assert!(work.allocations >= 1 && work.bytes >= 100_000, "{work:?}");
}
