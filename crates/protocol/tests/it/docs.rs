//! `docs/protocol.md` agrees with the code.

use meshagent_protocol::ErrorCode;

use crate::test;

#[test]
fn error_code_table_matches_code() {
    let text = include_str!("../../../../docs/protocol.md");
    let rows: Vec<(i64, String)> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let number = cells.next()?.parse().ok()?;
            Some((number, cells.next()?.to_owned()))
        })
        .collect();
    let codes = ErrorCode::ALL.map(|code| (code as i64, code.name().to_owned()));
    assert_eq!(rows, codes);
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_number(code.number()), Some(code));
    }
    assert_eq!(ErrorCode::from_number(1007), None);
}
