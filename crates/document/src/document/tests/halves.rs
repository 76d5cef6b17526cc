//! Surrogate halves, as Yjs treats them: it writes each as U+FFFD, joins two that become
//! neighbours, and if it cuts after a first half, it also loses the text after it.

use super::{bytes, document};
use crate::test;
use crate::update::UpdateKind;

/// Updates of Yjs 13.6 while a person typed, its whole state afterwards, and the number of halves
/// that differ.
const TYPED: &[(&str, &[&str], &str, u64)] = &[
    (
        "both halves of one character, one after the other",
        &["010101000401017403efbfbd00", "0101010184010003efbfbd00"],
        "010101000401017404f09f988000",
        2,
    ),
    (
        "something in the middle of a character",
        &["010101000401017404f09f988000", "01010102c401000101017800"],
        "010301000401017403efbfbd84010003efbfbdc401000101017800",
        0,
    ),
    (
        "a first half, é, and x between them: é is lost",
        &[
            "010101000401017403efbfbd00",
            "0101010184010002c3a900",
            "01010102c401000101017800",
        ],
        "010301000401017403efbfbd84010003efbfbdc401000101017800",
        1,
    ),
    (
        "a first half and é, and the half is deleted",
        &[
            "010101000401017405efbfbdc3a900",
            "01010102840101017a00",
            "000101010001",
        ],
        "01020100010101740184010004efbfbd7a0101010001",
        1,
    ),
    (
        "a first half and éa, and the half becomes bold",
        &[
            "010101000401017403efbfbd00",
            "0101010184010003c3a96100",
            "0102010346010001620474727565c6010001010162046e756c6c00",
        ],
        "010401000401017403efbfbd84010004efbfbd6146010001620474727565c6010001010162046e756c6c00",
        1,
    ),
    (
        "a first half and a line break, cut and joined again",
        &["010101000401017404efbfbd0a00"],
        "010101000401017406efbfbdefbfbd00",
        1,
    ),
    (
        "a first half and a whole character, and x between them",
        &[
            "010101000401017403efbfbd00",
            "0101010184010004f09f988000",
            "01010103c401000101017800",
        ],
        "010301000401017403efbfbd84010006efbfbdefbfbdc401000101017800",
        2,
    ),
];

#[test]
fn surrogate_halves_of_yjs_do_not_conflict() {
    for &(what, sent, state, differ) in TYPED {
        let mut here = document(9);
        for update in sent {
            let inspection = here.inspect(&bytes(update)).unwrap();
            assert_eq!(inspection.conflict, None, "{what}");
            here.apply_update(&bytes(update)).unwrap();
        }
        let inspection = here.inspect(&bytes(state)).unwrap();
        assert_eq!(inspection.kind, UpdateKind::Contained, "{what}");
        assert_eq!(
            (inspection.erased, inspection.halves),
            (0, differ),
            "{what}"
        );

        // The reverse: the state came first, and the updates are late.
        let mut here = document(9);
        here.apply_update(&bytes(state)).unwrap();
        for update in sent {
            let inspection = here.inspect(&bytes(update)).unwrap();
            assert_eq!(inspection.conflict, None, "{what}, late");
        }
    }
}

#[test]
fn text_without_half_before_it_conflicts() {
    let (first, lost) = ("0101010004010174016100", "0101010184010003efbfbd00");
    let (half, other) = ("010101000401017403efbfbd00", "0101010184010002c3a900");
    for (known, new) in [
        // a and U+FFFD, a and é, one after the other.
        ([first, lost], other),
        ([first, other], lost),
        // A half can't become another character, nor can a character after a half.
        ([half, other], "01010101840100016200"),
        ([half, other], "0101010004010174016200"),
    ] {
        let mut here = document(9);
        for update in known {
            here.apply_update(&bytes(update)).unwrap();
        }
        let inspection = here.inspect(&bytes(new)).unwrap();
        assert_eq!(inspection.kind, UpdateKind::Conflict, "{known:?}, {new}");
    }
}
