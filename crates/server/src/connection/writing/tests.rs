//! Writing to peers that read much in one step, little, or nothing.

use std::time::Duration;

use meshagent_ledger::{Bounds, Ledger};
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::gather::Gather;

/// Writes a packet of `bytes` bytes to a peer that may read nothing for `patience`; returns whether
/// it was written.
async fn write<W: AsyncWrite + Unpin>(
    inner: W,
    taken: &Taken,
    bytes: usize,
    patience: Duration,
) -> bool {
    let ledger = Ledger::new(Bounds {
        server: 64 << 20,
        received: 32 << 20,
    });
    let account = ledger.account("ann");
    let outbox = Outbox::new(1 << 20, &account);
    let mut taking = Taking {
        outbox: &outbox,
        account: &account,
        taken,
        patience,
        pace: Pace::new(Duration::from_secs(5), &account),
        turn: Turn::default(),
        unreported: Unreported::default(),
    };
    let mut writer = Gather::new(Counting { inner, taken });
    let packet = vec![7; bytes];
    write_packet(&mut writer, &packet, bytes, &mut taking).await
        && taking.in_time(0, writer.flush()).await
}

#[tokio::test]
async fn others_have_a_turn_after_each_piece_of_a_packet() {
    const BYTES: usize = 100_000;
    const HEAD_BYTES: usize = 10;
    let taken = Taken::new();
    let (mut all, mut most) = (0, 0);
    let others = async {
        loop {
            let bytes = taken.bytes();
            (all, most) = (all + bytes, most.max(bytes));
            tokio::task::yield_now().await;
        }
    };
    // The peer reads everything immediately.
    let writing = write(tokio::io::sink(), &taken, BYTES, Duration::from_mins(1));
    let written = tokio::select! {
        biased;
        written = writing => written,
        () = others => unreachable!("it never ends"),
    };
    assert!(written);
    assert_eq!(all + taken.bytes(), BYTES + HEAD_BYTES);
    assert!(most <= TURN_BYTES + HEAD_BYTES, "{most} in one turn");
}

#[tokio::test]
async fn whoever_takes_something_all_the_time_is_in_time_and_whoever_stops_is_not() {
    const STEP_BYTES: usize = 2 << 10;
    const STEP: Duration = Duration::from_millis(150);
    // A piece of the packet takes longer than this.
    const PATIENCE: Duration = Duration::from_secs(1);
    let (ours, mut theirs) = tokio::io::duplex(STEP_BYTES);
    let taken = Taken::new();
    let reading = async {
        let mut step = [0; STEP_BYTES];
        while theirs.read_exact(&mut step).await.is_ok() {
            tokio::time::sleep(STEP).await;
        }
        std::future::pending::<()>().await;
    };
    let written = tokio::select! {
        written = write(ours, &taken, 2 * TURN_BYTES, PATIENCE) => written,
        () = reading => unreachable!("it goes on"),
    };
    assert!(written);

    let (ours, theirs) = tokio::io::duplex(STEP_BYTES);
    let patience = Duration::from_millis(50);
    let written = write(ours, &Taken::new(), 2 * TURN_BYTES, patience).await;
    assert!(!written);
    drop(theirs);
}
