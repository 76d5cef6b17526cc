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
    assert!(ledger.names.lock().unwrap().is_empty());
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
    // One that holds little, and one that holds much.
    let innocent = ledger.account("innocent");
    assert!(innocent.admits(Kind::Received, MIB));
    assert_eq!(
        scope(&innocent.try_charge(Kind::Received, 5 * MIB)),
        Scope::Server
    );
    let large = ledger.account("p0");
    assert_eq!(scope(&large.try_charge(Kind::Received, MIB)), Scope::Server);
    let small = large.try_charge(Kind::Received, 60 << 10).unwrap();
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
        drop(account);
        tasks.push(tokio::spawn(async move {
            charge.grow(10 * MIB).await;
            let parsed = charge.beside(Kind::Parsed, 20 * MIB).await;
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
                // Of a connection's charges, only one may exceed a bound and wait.
                let older = held.len().saturating_sub(1);
                held[..older].iter_mut().for_each(Charge::stand_back);
                match random(9) {
                    0 | 1 => held.extend(account.try_charge(kind, bytes)),
                    2 => {
                        held.iter_mut().for_each(Charge::stand_back);
                        held.push(account.charge(kind, bytes).await);
                    }
                    8 => {
                        if let Some(last) = held.last_mut() {
                            let beside = last.beside(kind, bytes).await;
                            held.push(beside);
                        }
                    }
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
                        held.iter_mut().for_each(Charge::stand_back);
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
    assert_eq!(ledger.server.passing(1), 0);
    for kind in Kind::ALL {
        let level = ledger.kind(kind);
        assert_eq!((level.held(), level.passing(1)), (0, 0), "{kind:?}");
    }
    assert!(ledger.participants.lock().unwrap().is_empty());
    assert!(ledger.names.lock().unwrap().is_empty());
}

/// Names of which some are long and Chinese.
fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("慢慢发送的人{number}"))
}

/// Charges steps for each participant until none is admitted; `step` is well below its share.
fn fill(ledger: &Arc<Ledger>, names: impl Iterator<Item = String>, kind: Kind) -> Vec<Charge> {
    let step = MIB / 4;
    let mut held = Vec::new();
    for name in names {
        let account = ledger.account(&name);
        while let Ok(charge) = account.try_charge(kind, step) {
            held.push(charge);
        }
    }
    held
}

#[tokio::test]
async fn participants_that_hold_little_continue_beside_senders_that_hold_all() {
    for kind in [Kind::Received, Kind::Parsed, Kind::Upload] {
        let ledger = ledger();
        let bound = if kind == Kind::Received { 32 } else { 64 } * MIB;
        // A connection for each quarter of a MiB, under three names in many rooms.
        let senders: Vec<_> = (0..400)
            .map(|number| {
                let room = format!("房間{}", number % 40);
                ledger.account_in(&room, ["慢一", "慢二", "慢三"][number % 3])
            })
            .collect();
        let mut held: Vec<_> = senders
            .iter()
            .filter_map(|sender| sender.try_charge(kind, MIB / 4).ok())
            .collect();
        assert_eq!(ledger.held_of(kind), bound, "{kind:?}");
        // The others wait, and so do the holders for more. One of them may exceed the bound.
        let mut waiting = Vec::new();
        for mut charge in held.split_off(bound / MIB) {
            waiting.push(tokio::spawn(async move {
                charge.grow(5 * MIB).await;
                std::future::pending::<()>().await;
            }));
        }
        tokio::task::yield_now().await;
        // Small connections of the three names take a half of the reserve, at most.
        let small: Vec<_> = (0..4_000)
            .map(|number| ledger.account_in("房間", ["慢一", "慢二", "慢三"][number % 3]))
            .filter_map(|account| account.try_charge(kind, 60 << 10).ok())
            .collect();
        let innocent = ledger.account("無辜");
        assert!(innocent.admits(kind, MIB), "{kind:?}");
        let soon = is_ready_soon(async {
            let edit = innocent.charge(kind, 200 << 10).await;
            let upload = ledger.account("無辜").charge(kind, MIB).await;
            (edit, upload)
        });
        assert!(soon.await, "{kind:?}");
        // A sixteenth is all that it may have.
        let most = bound / 16;
        let part = innocent.try_charge(kind, most - MIB / 4).unwrap();
        let refused = innocent.try_charge(kind, MIB / 2);
        let expected = if kind == Kind::Received {
            Scope::Kind
        } else {
            Scope::Server
        };
        assert_eq!(scope(&refused), expected, "{kind:?}");
        for task in &waiting {
            task.abort();
        }
        for task in waiting {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        drop((part, small, held));
        assert_eq!(ledger.held(), 0);
    }
}

#[test]
fn the_reserve_has_a_bound_whatever_the_number_of_names() {
    for kind in [Kind::Received, Kind::Upload] {
        let ledger = ledger();
        let bound = if kind == Kind::Received { 32 } else { 64 } * MIB;
        // One connection may hold 16 MiB.
        let large = bound / (16 * MIB);
        let held = fill(&ledger, names(large), kind);
        assert_eq!(ledger.held_of(kind), bound);
        let others = fill(&ledger, names(1_000).skip(large), kind);
        let most = bound + bound / 8;
        assert!(ledger.held_of(kind) <= most && ledger.held_of(kind) > most - MIB / 2);
        let last = ledger.account("無辜");
        assert!(!last.admits(kind, MIB / 2));
        drop((held, others));
        assert_eq!(ledger.held(), 0);
    }
}

/// The first bytes of a message, within the reserve for small connections.
fn begun(account: &Arc<Account>) -> Charge {
    account.try_charge(Kind::Received, 60 << 10).unwrap()
}

#[tokio::test]
async fn only_one_message_of_a_connection_may_exceed_the_bounds() {
    let ledger = ledger();
    let held = fill(&ledger, names(4), Kind::Parsed);
    let account = ledger.account("慢慢发送的人0");
    let mut first = begun(&account);
    first.grow(MIB).await;
    let values = first.beside(Kind::Parsed, MIB).await;
    // While it is handled, the next message waits as those of other connections do.
    let staged = Held::new(first, values).into_kind(Kind::Staged);
    let mut next = std::pin::pin!(account.charge(Kind::Received, MIB));
    assert!(!is_ready_soon(&mut next).await);
    drop(staged);
    assert!(is_ready_soon(&mut next).await);
    drop(held);
}

#[tokio::test]
async fn other_charges_of_the_connection_leave_the_reserve_as_it_is() {
    let ledger = ledger();
    let held = fill(&ledger, names(4), Kind::Upload);
    let account = ledger.account("慢慢发送的人4");
    let little = account.try_charge(Kind::Upload, 3 * MIB).unwrap();
    let passing = account.charge(Kind::Upload, 8 * MIB).await;
    assert_eq!(ledger.held(), 75 * MIB);
    drop(little);
    // The whole reserve is left.
    let all = ["無辜", "無害"].map(|name| ledger.account(name));
    let all = all.map(|one| one.try_charge(Kind::Upload, 4 * MIB).unwrap());
    assert_eq!(ledger.server.passing(1), 8 * MIB);
    drop(passing);
    assert_eq!(ledger.server.passing(1), 0);
    drop((all, held));
    assert_eq!(ledger.held(), 0);
}

#[tokio::test]
async fn who_waits_for_its_peer_is_within_the_bounds_or_is_refused() {
    let ledger = ledger();
    let mut held = fill(&ledger, names(4), Kind::Parsed);
    let account = ledger.account("慢慢发送的人0");
    let mut message = begun(&account);
    message.grow(MIB).await;
    let mut message = Held::from(message).into_kind(Kind::Early);
    let refused = message.try_stand_back();
    assert_eq!(refused.unwrap_err().scope, Scope::Server);
    let mut other = begun(&ledger.account("慢慢发送的人1"));
    let mut next = std::pin::pin!(other.grow(MIB));
    assert!(!is_ready_soon(&mut next).await);
    held.truncate(held.len() - 8);
    message.try_stand_back().unwrap();
    assert!(is_ready_soon(&mut next).await);
    drop(message);
}

#[tokio::test]
async fn waiting_charge_uses_the_reserve_as_soon_as_its_participant_holds_little() {
    for is_same_connection in [true, false] {
        let ledger = ledger();
        let innocent = ledger.account("無辜");
        let staged = innocent.try_charge(Kind::Staged, 8 * MIB).unwrap();
        let held = fill(&ledger, names(4), Kind::Parsed);
        let mut passing = begun(&ledger.account("慢慢发送的人0"));
        passing.grow(MIB).await;
        let mut first = begun(&ledger.account("慢慢发送的人1"));
        let ahead = tokio::spawn(async move { first.grow(MIB).await });
        tokio::task::yield_now().await;
        let next = if is_same_connection {
            Arc::clone(&innocent)
        } else {
            ledger.account("無辜")
        };
        let next = tokio::spawn(async move { next.charge(Kind::Received, MIB).await });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        // What is released is taken by nobody who waits: it exists already.
        let other = ledger.common().charge_anyway(Kind::Shared, 8 * MIB);
        drop(staged);
        let served = tokio::time::timeout(Duration::from_secs(20), next).await;
        drop(served.expect("the reserve").unwrap());
        drop((passing, other, held));
        ahead.await.unwrap();
        assert_eq!(ledger.held(), 0);
    }
}

#[tokio::test]
async fn small_holders_wait_only_behind_other_small_holders() {
    let ledger = ledger();
    let held = fill(&ledger, names(2), Kind::Received);
    let mut others = fill(&ledger, names(100).skip(2), Kind::Received);
    let greedy = ledger.account("慢慢发送的人0");
    let passing = greedy.charge(Kind::Received, 8 * MIB).await;
    let next = ledger.account("慢慢发送的人1");
    let waits = tokio::spawn(async move { next.charge(Kind::Received, 8 * MIB).await });
    tokio::task::yield_now().await;
    let innocent = ledger.account("無辜");
    let served = tokio::spawn(async move { innocent.charge(Kind::Received, MIB / 2).await });
    tokio::task::yield_now().await;
    assert!(!served.is_finished());
    // The next one exceeds the bound now, which takes nothing of the reserve.
    others.drain(..2);
    drop(passing);
    let served = tokio::time::timeout(Duration::from_secs(20), served).await;
    drop(served.expect("the reserve").unwrap());
    drop((waits.await.unwrap(), held, others));
    assert_eq!(ledger.held(), 0);
}

#[tokio::test]
async fn senders_have_to_be_faster_the_longer_others_wait() {
    let ledger = ledger();
    let window = Duration::from_secs(5);
    let sender = ledger.account("慢");
    let held = sender.try_charge(Kind::Received, 3 * MIB).unwrap();
    // Windows until it is in the way.
    let ends_after = |bytes: usize, account: &Account, waits: bool| {
        let mut pace = Pace::of_sender(window, account);
        let _wanted = waits.then(|| ledger.want());
        (1..20).find(|_| {
            pace.add(bytes);
            let ends = pace.ends();
            pace.is_in_the_way(account, 0, 0, ends)
        })
    };
    assert_eq!(ends_after(60 << 10, &sender, true), Some(1));
    assert_eq!(ends_after(110 << 10, &sender, true), Some(2));
    assert_eq!(ends_after(200 << 10, &sender, true), Some(3));
    assert_eq!(ends_after(500 << 10, &sender, true), Some(4));
    // A healthy sender continues, and so does everybody while nobody waits.
    assert_eq!(ends_after(600 << 10, &sender, true), None);
    assert_eq!(ends_after(1 << 10, &sender, false), None);
    // A holder of little may be as slow as before.
    let little = ledger.account("少");
    let part = little.try_charge(Kind::Received, 200 << 10).unwrap();
    assert_eq!(ends_after(66 << 10, &little, true), None);
    drop((held, part));
}
