//! `docs/protocol.md` says what the code says.

use meshagent_protocol::ErrorCode;

#[test]
fn the_table_of_error_codes_is_the_codes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
    let text = std::fs::read_to_string(path).unwrap();
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
