//! Memory is back where it was when connections are gone. A test binary of its own, for the allocator
//! that counts; with one test, as others would be counted, too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use polyquic::{NoneTokenLog, smol};
use polyquic_testkit::fixtures::Setup;

/// Bytes that are allocated, by everybody.
static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the caller of an allocator promises.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the caller of an allocator promises.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Connections that are open at the same time.
const BATCH: usize = 100;
/// Before the first look: tables have grown to what a batch needs, lazily made things are made.
const WARM_UP_BATCHES: usize = 40;
/// Between two looks.
const BLOCK_BATCHES: usize = 20;
const BLOCKS: usize = 5;
/// Four bytes for each connection of a block: a leak of any allocation per connection is larger, in
/// every block. In a block or two a hash table may double (34 kB were seen), so the least growth
/// counts. Measured: less than 200 bytes.
const BLOCK_SLACK_BYTES: isize = 4 * (BATCH * BLOCK_BATCHES) as isize;
/// What tables may grow by in all blocks.
const SLACK_BYTES: isize = 256 << 10;

#[test]
fn ten_thousand_connections_leave_the_memory_where_it_was() {
    smol::run(1, |rt| async move {
        // The server's list of address tokens that were used grows to a fixed size (10 MiB) on purpose.
        let setup = Setup::new().with(|setup| {
            setup.server.validation_token.log(Arc::new(NoneTokenLog));
        });
        let ends = setup.start(&rt);
        let mut looks = Vec::new();
        for batch in 1..=WARM_UP_BATCHES + BLOCKS * BLOCK_BATCHES {
            let mut connections = Vec::with_capacity(2 * BATCH);
            for _ in 0..BATCH {
                let (client, server) = ends.connect().await;
                // A stream there and back, so that there is something to leak.
                let (mut send, mut recv) = client.open_bi().await.expect("a stream may be opened");
                send.write_all(b"question").await.expect("connected");
                send.finish().expect("it is open");
                let (mut answer, mut question) = server.accept_bi().await.expect("opened");
                assert_eq!(question.read_to_end(100).await.expect("sent"), b"question");
                answer.write_all(b"answer").await.expect("connected");
                answer.finish().expect("it is open");
                assert_eq!(recv.read_to_end(100).await.expect("sent"), b"answer");
                connections.extend([client, server]);
            }
            assert!(ends.server.open_connections() >= BATCH);
            for connection in connections {
                connection.close(0u32.into(), b"");
            }
            ends.client.wait_idle().await;
            ends.server.wait_idle().await;
            if batch >= WARM_UP_BATCHES && (batch - WARM_UP_BATCHES).is_multiple_of(BLOCK_BATCHES) {
                let live = LIVE_BYTES.load(Ordering::Relaxed);
                println!("{} connections: {live} bytes", batch * BATCH);
                looks.push(live);
            }
        }
        assert_eq!(looks.len(), BLOCKS + 1);
        let growth: Vec<_> = looks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let least = growth.iter().min().expect("there are blocks");
        assert!(
            *least < BLOCK_SLACK_BYTES && growth.iter().sum::<isize>() < SLACK_BYTES,
            "each {} connections left so many bytes: {growth:?}",
            BATCH * BLOCK_BATCHES
        );
    })
    .expect("the executor starts");
}
