//! What a package of the command installs beside it: completions and man pages.

use std::fs;

use tempfile::TempDir;

use crate::{meshagent, run};

#[test]
fn completions_name_the_commands_of_each_level() {
    let home = TempDir::new().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run(&mut meshagent(home.path(), &["completions", shell]));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{shell}");
        let mut words = vec!["serve", "connect", "sync", "validate", "storage", "exists"];
        if shell != "fish" {
            // It is told of two levels of commands and their flags; these are flags of the third.
            words.extend(["ignore-case", "overwrite"]);
        }
        for word in words {
            assert!(ran.stdout.contains(word), "{word} is not in {shell}'s");
        }
    }
    let ran = run(&mut meshagent(home.path(), &["completions", "tcsh"]));
    assert_eq!(ran.code, Some(2));
}

#[test]
fn each_command_has_a_man_page() {
    let home = TempDir::new().unwrap();
    let ran =
        run(meshagent(home.path(), &["man", "--output", "man/man1"]).current_dir(home.path()));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for (page, words) in [
        ("meshagent", "serve"),
        ("meshagent-room-sync", "Exit codes"),
        ("meshagent-room-sync-update", "patch"),
        ("meshagent-room-storage-cp", "Examples"),
    ] {
        let text = fs::read_to_string(home.path().join(format!("man/man1/{page}.1"))).unwrap();
        assert!(
            text.starts_with('.') && text.contains(words),
            "{page}:\n{text}"
        );
    }
}
