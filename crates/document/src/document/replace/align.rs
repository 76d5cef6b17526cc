//! Alignment of two sequences.

use std::collections::{HashSet, VecDeque};

/// Up to this many comparisons, children are aligned optimally; beyond, in one pass.
const MAX_COMPARISONS: usize = 250_000;

/// A longest common subsequence, as pairs of indices.
pub(super) fn common(
    a: &[usize],
    b: &[usize],
    same: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, usize)> {
    let mut prefix = 0;
    while prefix < a.len().min(b.len()) && same(a[prefix], b[prefix]) {
        prefix += 1;
    }
    let (mut a_end, mut b_end) = (a.len(), b.len());
    while a_end > prefix && b_end > prefix && same(a[a_end - 1], b[b_end - 1]) {
        a_end -= 1;
        b_end -= 1;
    }
    let mut pairs: Vec<(usize, usize)> = (0..prefix).map(|at| (at, at)).collect();
    let (rows, columns) = (a_end - prefix, b_end - prefix);
    if rows.saturating_mul(columns) > MAX_COMPARISONS {
        let mut rest: VecDeque<usize> = (prefix..a_end).collect();
        for (at, &wanted) in b.iter().enumerate().take(b_end).skip(prefix) {
            const LOOK_AHEAD: usize = 16;
            let ahead = rest
                .iter()
                .take(LOOK_AHEAD)
                .position(|&child| same(a[child], wanted));
            if let Some(ahead) = ahead {
                pairs.push((rest[ahead], at));
                rest.drain(..=ahead);
            }
        }
    } else if rows > 0 && columns > 0 {
        let mut lengths = vec![0_u32; (rows + 1) * (columns + 1)];
        let cell = |row: usize, column: usize| row * (columns + 1) + column;
        let mut equal = vec![false; rows * columns];
        for row in (0..rows).rev() {
            for column in (0..columns).rev() {
                let is_equal = same(a[prefix + row], b[prefix + column]);
                equal[row * columns + column] = is_equal;
                lengths[cell(row, column)] = if is_equal {
                    lengths[cell(row + 1, column + 1)] + 1
                } else {
                    lengths[cell(row + 1, column)].max(lengths[cell(row, column + 1)])
                };
            }
        }
        let (mut row, mut column) = (0, 0);
        while row < rows && column < columns {
            if equal[row * columns + column] {
                pairs.push((prefix + row, prefix + column));
                row += 1;
                column += 1;
            } else if lengths[cell(row + 1, column)] >= lengths[cell(row, column + 1)] {
                row += 1;
            } else {
                column += 1;
            }
        }
    }
    pairs.extend((a_end..a.len()).zip(b_end..b.len()));
    pairs
}

/// The largest set of matches that keep their order.
pub(super) fn longest_increasing(matches: &[Option<usize>]) -> HashSet<usize> {
    // The last match of the best sequence of each length, and each match's predecessor.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; matches.len()];
    for (at, child) in matches.iter().enumerate() {
        let Some(child) = child else {
            continue;
        };
        let length = ends.partition_point(|&end| matches[end] < Some(*child));
        before[at] = length.checked_sub(1).map(|shorter| ends[shorter]);
        ends.truncate(length.max(ends.len().min(length + 1)));
        if length < ends.len() {
            ends[length] = at;
        } else {
            ends.push(at);
        }
    }
    let mut stay = HashSet::new();
    let mut at = ends.last().copied();
    while let Some(place) = at {
        stay.insert(place);
        at = before[place];
    }
    stay
}
