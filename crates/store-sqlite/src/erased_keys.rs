//! Removes the rows of erased keys.
//!
//! SQLite moves rows between neighbouring pages when rows are removed, and a page keeps remains of
//! a row that moved. A remain of a key in use would survive the erasure of that key. So a row is
//! only removed if the rows on its page and on both neighbours are erased ones, for which as many
//! erased rows as fit on some pages must lie on both sides of it. Those stay, until the keys in use
//! beside them are erased, too.

use std::collections::VecDeque;

use rusqlite::Connection;

use crate::seal::KEY_BYTES;

/// The rows that one step goes through, besides those that only count as neighbours.
const STEP: usize = 2_048;
/// The least bytes of a row: key, header, id, and its place in the page.
const ROW_BYTES: usize = KEY_BYTES + 6;
/// The pages with erased rows on both sides of a row that is removed; two are necessary.
const PAGES: usize = 3;
/// The table is gone through again when this fraction of its rows was erased.
const FRACTION: u64 = 16;

/// How far the table was gone through.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    /// The keys that were erased since the table was gone through.
    erased: u64,
    /// The rows that the last time left.
    rows: u64,
    under_way: Option<Place>,
}

/// A place in the table.
#[derive(Clone, Debug)]
struct Place {
    after: i64,
    /// The erased rows that lie directly before it, or the number that is needed.
    erased_before: usize,
    rows: u64,
}

impl Sweep {
    /// Earlier processes may have left rows.
    pub(crate) fn new() -> Self {
        Self {
            erased: 1,
            rows: 0,
            under_way: None,
        }
    }

    /// Records that keys were erased.
    pub(crate) fn add_erased(&mut self, keys: usize) {
        self.erased = self.erased.saturating_add(keys as u64);
    }

    /// Leaves a damaged table to the next process.
    pub(crate) fn give_up(&mut self) {
        self.under_way = None;
        self.rows = u64::MAX;
        self.erased = 0;
    }

    pub(crate) fn is_due(&self) -> bool {
        self.under_way.is_some() || self.erased > self.rows / FRACTION
    }

    /// Removes some rows. The state after it is valid when the transaction is committed.
    pub(crate) fn step(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let page_size: usize = connection.pragma_query_value(None, "page_size", |row| {
            row.get::<_, i64>(0)
                .map(|bytes| usize::try_from(bytes).unwrap_or(0))
        })?;
        let margin = PAGES * page_size.div_ceil(ROW_BYTES);
        let mut place = self.under_way.take().unwrap_or_else(|| {
            self.erased = 0;
            Place {
                after: i64::MIN,
                erased_before: margin,
                rows: 0,
            }
        });
        let limit = STEP + margin;
        let rows: Vec<(i64, bool)> = connection
            .prepare_cached(
                "SELECT entry, key = zeroblob(32) FROM keys WHERE entry > ?1
                 ORDER BY entry LIMIT ?2",
            )?
            .query_map([place.after, i64::try_from(limit).unwrap_or(0)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let is_end = rows.len() < limit;
        // Erased rows with enough of them before, and perhaps not enough behind.
        let mut waiting = VecDeque::new();
        for (entry, is_erased) in rows {
            if is_erased && place.erased_before >= margin {
                waiting.push_back(entry);
                if waiting.len() > margin
                    && let Some(first) = waiting.pop_front()
                {
                    remove(connection, first)?;
                }
                continue;
            }
            // The erased rows before a key in use stay.
            place.rows += waiting.len() as u64 + 1;
            waiting.clear();
            place.after = entry;
            place.erased_before = if is_erased {
                place.erased_before + 1
            } else {
                0
            };
        }
        if is_end {
            for entry in waiting {
                remove(connection, entry)?;
            }
            self.rows = place.rows;
        } else {
            // The next step begins with the rows that wait.
            self.under_way = Some(place);
        }
        Ok(())
    }
}

fn remove(connection: &Connection, entry: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM keys WHERE entry = ?1")?
        .execute([entry])?;
    Ok(())
}
