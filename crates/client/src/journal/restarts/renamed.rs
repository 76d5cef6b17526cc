//! Tests of edits that were made again under other names, and of the updates that replace the old
//! ones.

use super::{Run, Seen};

#[test]
fn edits_made_again_after_a_conflict_are_there_once_wherever_the_program_ends() {
    for is_killed_before_the_journal_is_written in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let mut seen = Seen::default();
        let mut run = Run::new(0, directory.path());
        run.is_moody = false;
        run.edit();
        run.edit();
        run.write();
        run.take_place();
        while seen.conflicts < 2 {
            run.send(&mut seen);
            run.answer();
        }
        if !is_killed_before_the_journal_is_written {
            run.write();
        }
        // These updates are stored, but the answers are lost.
        run.send(&mut seen);
        run.send(&mut seen);
        run.end_program();
        run.begin_program();
        run.end();
    }
}

/// Lets a program make an edit again, because the server refused the one before it. Both were sent.
/// The update that replaces the old names waits behind the edit. Returns the numbers of both.
fn edit_made_again(run: &mut Run<'_>) -> (u64, u64) {
    run.is_moody = false;
    let sent = [(); 2].map(|()| {
        run.edit();
        run.replica.next_to_send().expect("it is sent").number
    });
    assert!(!run.replica.refused(sent[0]));
    run.start_over();
    run.write();
    kept(run)
}

/// The numbers of the edit, and of the update without edits behind it.
fn kept(run: &Run<'_>) -> (u64, u64) {
    let kept: Vec<(u64, u32)> = run
        .replica
        .edits_after(0)
        .map(|one| (one.number, one.count))
        .collect();
    let [(edit, 1), (blank, 0)] = kept[..] else {
        panic!("{kept:?}");
    };
    (edit, blank)
}

#[test]
fn what_takes_the_place_of_old_names_fills_no_gap_after_a_restart() {
    for has_restarted in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let mut run = Run::new(0, directory.path());
        let (mut edit, mut blank) = edit_made_again(&mut run);
        if has_restarted {
            run.end_program();
            run.begin_program();
            (edit, blank) = kept(&run);
        }
        let first = run.replica.next_to_send().expect("the edit is sent");
        assert_eq!(first.number, edit, "the edit comes first");
        let vector = run.server.state_vector();
        assert!(run.replica.fill_gap(edit, &vector).unwrap());
        let fill = run.replica.next_to_send().expect("the gap is filled");
        assert!(fill.number > blank, "the gap is filled by more than it");
        run.replica.acknowledged(blank);
        assert!(run.replica.saved_number() < edit, "the edit is not shown");
        run.replica.acknowledged(fill.number);
        assert!(run.replica.is_saved());
    }
}

#[test]
fn what_takes_the_place_of_old_names_may_be_refused_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::new(0, directory.path());
    edit_made_again(&mut run);
    run.end_program();
    run.begin_program();
    let (edit, blank) = kept(&run);
    run.replica.acknowledged(edit);
    let last = run.replica.next_to_send().expect("it is sent last");
    assert_eq!(last.number, blank);
    assert!(run.replica.refused(blank), "things go on without it");
    assert!(run.replica.is_saved());
}
