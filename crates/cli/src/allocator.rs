//! The process's allocator, and giving memory back that documents no longer need.

use std::time::Duration;

/// Returns more memory to the system, and sooner, than the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often freed memory is given back. It costs a look at the allocator's lists.
const INTERVAL: Duration = Duration::from_secs(2);

/// Gives freed memory back from time to time, for ever. Without it, memory that was freed stays with the process
/// until the allocator is used again, which on a server that has become quiet may be never.
pub(crate) async fn give_back() {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        collect();
    }
}

#[expect(unsafe_code, reason = "the allocator's own function has no safe form")]
fn collect() {
    // SAFETY: `mi_collect` takes a flag, touches only the allocator's own structures, and may be called from any
    // thread at any time; mimalloc is the global allocator, so it is initialised.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
