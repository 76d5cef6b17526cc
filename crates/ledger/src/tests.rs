//! Tests of the ledger: bounds and sums, and that every charge that waits is served.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;

const MIB: usize = 1 << 20;

/// A quarter is 16 MiB, three eighths are 24 MiB.
fn ledger() -> Arc<Ledger> {
    Ledger::new(Bounds {
        server: 64 * MIB,
        received: 32 * MIB,
    })
}

fn scope<T>(result: &Result<T, OverBound>) -> Scope {
    match result {
        Err(over) => over.scope,
        Ok(_) => panic!("expected a refusal"),
    }
}

async fn is_ready_soon<T>(future: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(20), future)
        .await
        .is_ok()
}

#[test]
fn work_is_bounded_by_other_work_alone() {
    let ledger = ledger();
    let (ann, bob) = (ledger.account("ann"), ledger.account("bob"));
    let full = ledger.common().charge_anyway(Kind::Shared, 64 * MIB);
    let first = ann.try_work(10 * MIB).unwrap();
    assert!(bob.try_work(7 * MIB).is_none());
    let second = bob.try_work(6 * MIB).unwrap();
    assert_eq!((ann.held(), bob.held()), (10 * MIB, 6 * MIB));
    assert_eq!(ledger.held_of(Kind::Work), 16 * MIB);
    drop((first, second));
    let alone = bob.try_work(100 * MIB).unwrap();
    assert!(ann.try_work(1).is_none());
    drop((alone, full));
    assert_eq!((ledger.held(), ledger.held_of(Kind::Work)), (0, 0));
}

#[test]
fn refused_charges_name_the_bound_and_charge_nothing() {
    let ledger = ledger();
    let accounts: Vec<_> = (0..8)
        .map(|number| ledger.account(&format!("p{}", number / 2)))
        .collect();
    let mut held = vec![accounts[0].try_charge(Kind::Upload, 15 * MIB).unwrap()];
    assert_eq!(
        scope(&accounts[0].try_charge(Kind::Upload, 2 * MIB)),
        Scope::Connection
    );
    assert_eq!(
        scope(&accounts[1].try_charge(Kind::Upload, 10 * MIB)),
        Scope::Participant
    );
    held.push(accounts[2].try_charge(Kind::Received, 15 * MIB).unwrap());
    held.push(accounts[4].try_charge(Kind::Received, 15 * MIB).unwrap());
    assert_eq!(
        scope(&accounts[6].try_charge(Kind::Received, 3 * MIB)),
        Scope::Kind
    );
    held.push(accounts[6].try_charge(Kind::Staged, 15 * MIB).unwrap());
    assert_eq!(
        scope(&accounts[7].try_charge(Kind::Staged, 5 * MIB)),
        Scope::Server
    );
    assert_eq!(ledger.held_of(Kind::Received), 30 * MIB);
    assert_eq!(ledger.held_of(Kind::Staged), 15 * MIB);
    drop(held);
    assert_eq!(ledger.held(), 0);
    // A participant is removed with its last connection.
    drop(accounts);
    assert!(ledger.participants.lock().unwrap().is_empty());
}

#[test]
fn charges_change_kind_and_merge() {
    let ledger = ledger();
    let account = ledger.account("p");
    let mut upload = account.try_charge(Kind::Upload, MIB).unwrap();
    upload.try_grow(MIB).unwrap();
    upload.shrink(MIB / 2);
    let staged = upload.into_kind(Kind::Staged);
    assert_eq!(ledger.held_of(Kind::Upload), 0);
    assert_eq!(ledger.held_of(Kind::Staged), 3 * MIB / 2);
    let mut other = account.try_charge(Kind::Staged, MIB).unwrap();
    other.merge(staged).unwrap();
    assert_eq!(other.bytes(), 5 * MIB / 2);
    let early = account.try_charge(Kind::Early, MIB).unwrap();
    let early = other.merge(early).unwrap_err();
    drop((early, other));
    assert_eq!((ledger.held(), account.held()), (0, 0));
}

#[test]
fn small_connections_use_the_reserve_when_others_hold_all() {
    let ledger = ledger();
    let others: Vec<_> = (0..4)
        .map(|number| {
            let account = ledger.account(&format!("p{number}"));
            account.try_charge(Kind::Queued, 16 * MIB).unwrap()
        })
        .collect();
    let innocent = ledger.account("innocent");
    assert!(!innocent.admits(Kind::Received, MIB));
    assert_eq!(
        scope(&innocent.try_charge(Kind::Received, MIB)),
        Scope::Server
    );
    let small = innocent.try_charge(Kind::Received, 60 << 10).unwrap();
    drop((small, others));
    assert_eq!(ledger.held(), 0);
}

#[test]
fn a_charge_larger_than_a_bound_passes_alone() {
    let ledger = ledger();
    let account = ledger.account("p");
    let large = account.try_charge(Kind::Download, 100 * MIB).unwrap();
    assert_eq!(
        scope(&account.try_charge(Kind::Early, 1)),
        Scope::Connection
    );
    // Bytes that exist already are counted nevertheless.
    let counted = account.charge_anyway(Kind::Queued, MIB);
    assert_eq!(account.held(), 101 * MIB);
    drop((large, counted));
    assert_eq!(ledger.held(), 0);
}

#[tokio::test]
async fn waiting_charges_are_served_in_order() {
    let ledger = ledger();
    let first = ledger.account("p").charge(Kind::Received, 16 * MIB).await;
    let second = ledger.account("p").charge(Kind::Received, 8 * MIB).await;
    let large = ledger.account("p");
    let waits = tokio::spawn(async move { large.charge(Kind::Received, 12 * MIB).await });
    tokio::task::yield_now().await;
    drop(second);
    // There is space for it, but another charge waits already.
    let small = ledger.account("p");
    assert!(!is_ready_soon(small.charge(Kind::Received, MIB)).await);
    // A charge of another participant waits behind no other.
    assert!(is_ready_soon(ledger.account("q").charge(Kind::Received, MIB)).await);
    drop(first);
    let large = waits.await.unwrap();
    assert!(is_ready_soon(small.charge(Kind::Received, MIB)).await);
    drop(large);
    assert_eq!(ledger.held(), 0);
}

#[tokio::test]
async fn growing_charges_never_block_each_other_forever() {
    let ledger = ledger();
    let mut tasks = Vec::new();
    for number in 0..40 {
        let account = ledger.account(&format!("p{}", number % 5));
        let mut charge = account.charge(Kind::Received, MIB / 2).await;
        tasks.push(tokio::spawn(async move {
            charge.grow(10 * MIB).await;
            let parsed = account.charge(Kind::Parsed, 20 * MIB).await;
            charge.cover(30 * MIB).await;
            drop((charge, parsed));
        }));
    }
    for task in tasks {
        let done = tokio::time::timeout(Duration::from_secs(20), task).await;
        done.expect("one task after the other continues").unwrap();
    }
    assert_eq!(ledger.held(), 0);
    for kind in Kind::ALL {
        assert_eq!(ledger.held_of(kind), 0, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::print_stdout, reason = "a failure prints what repeats it")]
async fn sums_return_to_zero_after_concurrent_charges() {
    let seed: u64 = std::env::var("LEDGER_SEED").map_or(1, |text| text.parse().unwrap());
    println!("LEDGER_SEED={seed}");
    let ledger = Ledger::new(Bounds {
        server: 4 * MIB,
        received: 2 * MIB,
    });
    let mut tasks = Vec::new();
    for number in 0..16_u64 {
        let account = ledger.account(&format!("p{}", number / 4));
        tasks.push(tokio::spawn(async move {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number + 1);
            let mut random = move |limit: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                usize::try_from(state >> 20).unwrap() % limit
            };
            let mut held: Vec<Charge> = Vec::new();
            for _ in 0..2_000 {
                let kind = Kind::ALL[random(Kind::ALL.len())];
                let limit = [100, 10_000, 700_000][random(3)];
                let bytes = random(limit);
                match random(8) {
                    0 | 1 => held.extend(account.try_charge(kind, bytes)),
                    2 => held.push(account.charge(kind, bytes).await),
                    3 => held.push(account.charge_anyway(kind, bytes)),
                    4 => {
                        if let Some(mut last) = held.pop() {
                            last.grow(bytes).await;
                            last.shrink(random(2 * bytes + 1));
                            held.push(last.into_kind(kind));
                        }
                    }
                    5 => {
                        // A charge may be dropped while it waits.
                        let pause = Duration::from_micros(random(50) as u64);
                        let waits = account.charge(kind, bytes);
                        held.extend(tokio::time::timeout(pause, waits).await);
                    }
                    _ if held.is_empty() => {}
                    6 => {
                        let place = random(held.len());
                        drop(held.swap_remove(place));
                    }
                    _ => held.clear(),
                }
                if held.len() > 8 {
                    held.clear();
                }
            }
        }));
    }
    for task in tasks {
        let done = tokio::time::timeout(Duration::from_mins(1), task).await;
        done.expect("no charge waits forever").unwrap();
    }
    assert_eq!(ledger.held(), 0);
    assert_eq!(ledger.server.waiting.load(Ordering::SeqCst), 0);
    for kind in Kind::ALL {
        assert_eq!(ledger.held_of(kind), 0, "{kind:?}");
    }
    assert!(ledger.participants.lock().unwrap().is_empty());
}
