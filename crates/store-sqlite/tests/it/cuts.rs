//! Copies of the database that are taken while it is written to, their write-ahead log cut off anywhere: each holds
//! all that was acknowledged before the cut, and nothing by halves.
//!
//! A log that is cut below what a checkpoint has already moved into the database is no state that a crash leaves,
//! since a checkpoint begins with a sync of the log. So the frames that a checkpoint may have moved are never cut
//! off. Where they end, and how many frames there are, is read from the log's index (the file `-shm`).

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use meshagent_store::Store;
use meshagent_store_sqlite::DATABASE_FILE;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::history::{History, Random, batches_in};
use crate::{StopOnDrop, assert_intact, open, put};

/// Lengths of the log's parts, <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.
const HEADER: usize = 32;
const FRAME: usize = 24 + 4096;
/// Cuts are made in so many frames, so that the test ends soon.
const FRAMES: RangeInclusive<usize> = 30..=120;

#[test]
fn copies_cut_anywhere_hold_what_was_acknowledged() {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    let seed: u64 = number("STORE_SEED").unwrap_or(1);
    let copies = number("STORE_COPIES").unwrap_or(2);
    let directory = TempDir::new().unwrap();
    let acknowledged = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    let store = open(directory.path());
    let database = directory.path().join(DATABASE_FILE);

    let taken = thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            let mut history = History::new(seed);
            while !stop.load(Ordering::Relaxed) {
                let writes = history.batch();
                store.commit(&writes).unwrap();
                history.done(&writes);
                let index = Index::read(&database);
                acknowledged.lock().unwrap().push(index);
            }
        });
        // Long reads, so that some checkpoints stop half-way.
        scope.spawn(|| {
            let mut reader = Connection::open(&database).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let transaction = reader.transaction().unwrap();
                let _: i64 = transaction
                    .query_row("SELECT count(*) FROM entries", [], |row| row.get(0))
                    .unwrap();
                thread::sleep(Duration::from_millis(30));
                drop(transaction);
                thread::sleep(Duration::from_millis(10));
            }
        });
        Copy::take(&database, copies)
    });
    let acknowledged = acknowledged.into_inner().unwrap();

    let mut random = Random(seed);
    for (number, copy) in taken.iter().enumerate() {
        let mut history = History::new(seed);
        let mut opened = 0;
        for (len, torn) in copy.cuts(&mut random) {
            let context =
                format!("STORE_SEED={seed}, copy {number}, log cut at {len}, torn: {torn}");
            let mut wal = copy.wal[..len].to_vec();
            if torn {
                let garbage = usize::try_from(random.below(4096)).unwrap() + 1;
                wal[len - garbage..].fill_with(|| random.next().to_le_bytes()[0]);
            }
            let complete = (len - HEADER) / FRAME - usize::from(torn);
            let at_least = copy.acknowledged(complete, &acknowledged);

            let directory = TempDir::new().unwrap();
            fs::write(directory.path().join(DATABASE_FILE), &copy.database).unwrap();
            fs::write(wal_of(&directory.path().join(DATABASE_FILE)), &wal).unwrap();
            let store = open(directory.path());
            let batches = batches_in(&store);
            assert!(
                batches >= at_least,
                "{context}: {batches} batches are left of {at_least}"
            );
            assert!(
                history.batches() <= batches,
                "{context}: with more of the log"
            );
            history.replay(batches);
            history.assert_kept(&store, &context);
            assert_intact(directory.path(), &context);
            // And it can be written.
            let write = put("after", Vec::new());
            store.commit(&[write]).unwrap().remove(0).unwrap();
            opened += 1;
        }
        assert!(opened >= *FRAMES.start(), "copy {number} was hardly cut");
    }
}

/// A database and its log, as copied one after the other.
struct Copy {
    database: Vec<u8>,
    wal: Vec<u8>,
    salt: [u8; 8],
    /// Frames that a checkpoint may have moved.
    moved: usize,
    /// Frames in the log.
    frames: usize,
}

impl Copy {
    /// So many copies, of different generations of the log. Of every second one a checkpoint has moved a part.
    fn take(database: &Path, copies: u64) -> Vec<Self> {
        let mut taken: Vec<Self> = Vec::new();
        let started = Instant::now();
        while (taken.len() as u64) < copies {
            assert!(
                started.elapsed() < Duration::from_secs(120 + 20 * copies),
                "no copies that can be compared"
            );
            thread::sleep(Duration::from_millis(1));
            let Some(copy) = Self::try_take(database) else {
                continue;
            };
            let is_new = taken.iter().all(|other| other.salt != copy.salt);
            let is_wanted = (copy.moved > 0) == (taken.len() % 2 == 1);
            if is_new && is_wanted && FRAMES.contains(&(copy.frames - copy.moved)) {
                taken.push(copy);
            }
        }
        taken
    }

    fn try_take(path: &Path) -> Option<Self> {
        if !wal_of(path).exists() {
            return None;
        }
        let before = Index::read(path);
        let database = fs::read(path).unwrap();
        let wal = fs::read(wal_of(path)).unwrap();
        // Read last, so that it has every checkpoint that began before.
        let after = Index::read(path);
        let salt = after.salt;
        if before.salt != salt || wal.get(16..24)? != salt {
            return None;
        }
        // Behind the last frame there may be more, from before the log began anew.
        let frames = wal[HEADER..]
            .chunks_exact(FRAME)
            .take_while(|frame| frame[8..16] == salt)
            .count();
        (frames > after.moved).then_some(Self {
            database,
            wal,
            salt,
            moved: after.moved,
            frames,
        })
    }

    /// Where to cut, in ascending order, and whether the last page is torn.
    fn cuts(&self, random: &mut Random) -> Vec<(usize, bool)> {
        let end = |frames: usize| HEADER + frames * FRAME;
        let mut cuts: Vec<(usize, bool)> = (self.moved..=self.frames)
            .map(|frames| (end(frames), false))
            .collect();
        for _ in 0..20 {
            let inside = (end(self.frames) - end(self.moved)) as u64;
            let len = end(self.moved) + usize::try_from(random.below(inside)).unwrap();
            cuts.push((len, false));
            let frames = (self.frames - self.moved) as u64;
            let frames = self.moved + 1 + usize::try_from(random.below(frames)).unwrap();
            cuts.push((end(frames), true));
        }
        // What a torn page leaves is what is complete before it.
        cuts.sort_by_key(|(len, torn)| if *torn { len - FRAME } else { *len });
        cuts
    }

    /// How many batches were acknowledged with so many frames of this log on disk.
    fn acknowledged(&self, frames: usize, all: &[Index]) -> u64 {
        // A log begins anew after all of it was moved.
        let earlier = all
            .iter()
            .position(|index| index.salt == self.salt)
            .unwrap_or(all.len());
        let here = all[earlier..]
            .iter()
            .take_while(|index| index.salt == self.salt && index.frames <= frames);
        (earlier + here.count()) as u64
    }
}

/// What the log's index says, <https://www.sqlite.org/walformat.html#the_wal_index_file_format>.
struct Index {
    /// Different for each time that the log begins anew.
    salt: [u8; 8],
    /// Frames that are committed.
    frames: usize,
    /// Frames that a checkpoint has moved, or is about to.
    moved: usize,
}

impl Index {
    fn read(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-shm");
        loop {
            let bytes = fs::read(&path).unwrap();
            // There are two copies of the header, which differ while it is written.
            if bytes.len() < 136 || bytes[..48] != bytes[48..96] {
                thread::yield_now();
                continue;
            }
            let number =
                |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            return Self {
                salt: bytes[32..40].try_into().unwrap(),
                frames: number(16),
                moved: number(96).max(number(128)),
            };
        }
    }
}

fn wal_of(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}
