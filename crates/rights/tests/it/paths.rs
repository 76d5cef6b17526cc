//! Paths and room names.

use meshagent_rights::{DocPath, InvalidPath, RoomName};

use crate::test;

#[test]
fn paths_are_normalised_like_in_sdks() {
    for (text, expected) in [
        ("a/b.document", "a/b.document"),
        ("./a", "a"),
        ("././/a", "a"),
        ("/a", "a"),
        ("/./a", "a"),
        ("a/", "a"),
        (".", ""),
        ("./", ""),
        ("/", ""),
        ("", ""),
        ("a b/ü.txt", "a b/ü.txt"),
        (".schemas/x.json", ".schemas/x.json"),
        ("...", "..."),
    ] {
        let path = DocPath::parse(text).unwrap();
        assert_eq!(path.as_str(), expected, "{text}");
        assert_eq!(path.is_root(), expected.is_empty());
        assert_eq!(DocPath::parse(expected), Ok(path));
    }
}

#[test]
fn invalid_paths_are_rejected() {
    for (text, expected) in [
        ("..", InvalidPath::Segment),
        ("../a", InvalidPath::Segment),
        ("a/../b", InvalidPath::Segment),
        ("a/./b", InvalidPath::Segment),
        ("a//b", InvalidPath::Segment),
        ("a/..", InvalidPath::Segment),
        ("a/.", InvalidPath::Segment),
        ("a\\b", InvalidPath::Backslash),
        ("a\0b", InvalidPath::ControlCharacter),
        ("a\nb", InvalidPath::ControlCharacter),
        ("a\u{7f}b", InvalidPath::ControlCharacter),
        ("a\u{85}b", InvalidPath::ControlCharacter),
    ] {
        assert_eq!(DocPath::parse(text), Err(expected), "{text:?}");
    }
    assert!(DocPath::parse(&"x".repeat(1024)).is_ok());
    assert_eq!(DocPath::parse(&"x".repeat(1025)), Err(InvalidPath::TooLong));
}

#[test]
fn paths_have_parent_name_and_extension() {
    let path = |text| DocPath::parse(text).unwrap();
    assert_eq!(path("a/b.tar.gz").extension(), Some("gz"));
    assert_eq!(path("a.b/c").extension(), None);
    assert_eq!(path(".document").extension(), None);
    assert_eq!(path("a.").extension(), None);
    assert_eq!(path("a/b").file_name(), "b");
    assert_eq!(path("a/b").parent(), Some(path("a")));
    assert_eq!(path("a").parent(), Some(path("")));
    assert_eq!(path("").parent(), None);
    assert!(path("a/b/c").is_below(&path("a")));
    assert!(path("a").is_below(&path("")));
    assert!(!path("ab").is_below(&path("a")));
    assert!(!path("a").is_below(&path("a")));
    assert!(!path("").is_below(&path("")));
}

#[test]
fn room_names_are_dns_labels() {
    let longest = "a".repeat(63);
    for name in ["a", "0", "my-room", "a--b", longest.as_str()] {
        assert_eq!(RoomName::parse(name).unwrap().as_str(), name);
    }
    let too_long = "a".repeat(64);
    for name in [
        "",
        "-",
        "-a",
        "a-",
        "A",
        "a_b",
        "a.b",
        "ä",
        "a b",
        "a/b",
        too_long.as_str(),
    ] {
        assert!(RoomName::parse(name).is_err(), "{name}");
    }
}
