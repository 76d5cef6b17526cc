//! The process's allocator. Documents come and go, and are freed by other threads than those that made them: jemalloc
//! keeps little per thread, and a thread of its own gives back what was freed some seconds ago, however quiet the
//! server has become. Where that thread doesn't exist, the system's allocator serves.

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
