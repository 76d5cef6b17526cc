//! The process's allocator. Documents come and go, and are freed by other threads than those that made them: jemalloc
//! keeps little per thread, and a thread of its own gives back what was freed some seconds ago, however quiet the
//! server has become. Where that thread doesn't exist, the system's allocator serves.
//!
//! It serves SQLite too (the feature `unprefixed_malloc_on_supported_platforms`), whose reads would otherwise have glibc
//! reserve 64 MiB of address space for each of up to eight threads per core. And it returns address space together with
//! the memory (`retain:false`, in `.cargo/config.toml`, since it is set when jemalloc is built): a bound on the
//! process's address space then bounds what is in use.

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
