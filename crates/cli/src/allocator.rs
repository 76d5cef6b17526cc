//! The process's allocator: jemalloc on Linux, the system's allocator elsewhere.
//!
//! Documents are often freed by another thread than the one that allocated them. jemalloc caches
//! little memory per thread, and its background thread returns freed memory to the system after
//! some seconds, even if the server is idle.
//!
//! SQLite uses it too (feature `unprefixed_malloc_on_supported_platforms`). With glibc, SQLite's
//! reads would reserve 64 MiB of address space for each of up to eight threads per core. jemalloc
//! also returns address space (`retain:false`, in `.cargo/config.toml`, because it is a build-time
//! setting), so a limit on the process's address space limits the memory in use.
//!
//! For the same reason it keeps freed memory for 300 milliseconds instead of ten seconds, and
//! blocks of 1 MiB and more not at all. Rooms that make descriptions and handle large patches free
//! hundreds of megabytes in a second; kept for ten, they would take more than everything in use.

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
