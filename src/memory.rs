//! The program's allocator: jemalloc, set up for many small sessions on a small machine. Everything that a session had goes
//! back to the system a second after its end, also when nothing else happens.
//!
//! Only names it and its settings; `main` makes it the program's, so that tests may count with another. Measured against
//! glibc's and mimalloc with 1,000 sessions, see `BENCHMARKS.md`.

pub use tikv_jemallocator::Jemalloc as Allocator;

/// One arena, as two keep apart what would fit together; free pages go back after a second, by a thread that sleeps while there
/// are none; nothing above 1 KiB and at most 20 pieces of a size are kept for a thread: up to 4 KiB, 4 MiB more are there with
/// 1,000 sessions and 2 after they were deleted. What is at most 256 bytes lies in single pages, not in runs of up to seven. All
/// that, as one small thing that stays holds all that it lies in: after 300 sessions were deleted, 29 MiB stay instead of 46.
/// With all up to 768 bytes so, 1 to 2 MiB more stay after 1,000 were deleted, and 3 to 4 while they are there. Read by jemalloc
/// when the process begins, which `_RJEM_MALLOC_CONF` in the environment may change (jemalloc's manual, `MALLOC_CONF` and
/// `slab_sizes`).
#[expect(unsafe_code, reason = "jemalloc looks for its settings under this name, which nothing else has")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static SETTINGS: &[u8] =
    b"narenas:1,background_thread:true,max_background_threads:1,dirty_decay_ms:1000,muzzy_decay_ms:0,lg_tcache_max:10,\
tcache_nslots_small_min:4,tcache_nslots_small_max:20,slab_sizes:1-256:1\0";
