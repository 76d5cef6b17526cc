//! Help texts: examples that can be pasted, and the order of flags.

use tempfile::TempDir;

use crate::{meshagent, run};

/// The longest line that a terminal of 80 columns does not wrap; wrapped examples can't be pasted.
const WIDTH: usize = 78;

/// The name and help of each command, on a terminal with this number of columns.
fn pages(columns: &str) -> Vec<(String, String)> {
    let home = TempDir::new().unwrap();
    let mut pages = Vec::new();
    let mut rest = vec![String::new()];
    while let Some(command) = rest.pop() {
        let words = command.split_whitespace().chain(["--help"]);
        let words: Vec<&str> = words.collect();
        let ran = run(meshagent(home.path(), &words).env("COLUMNS", columns));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{command}");
        let commands = ran.stdout.split("\nCommands:\n").nth(1).unwrap_or_default();
        for line in commands.lines().take_while(|line| !line.is_empty()) {
            let name = line
                .strip_prefix("  ")
                .filter(|rest| !rest.starts_with(' '));
            let name = name.and_then(|rest| rest.split_whitespace().next());
            if let Some(name) = name.filter(|name| *name != "help") {
                rest.push(format!("{command} {name}"));
            }
        }
        pages.push((command, ran.stdout));
    }
    assert!(pages.len() > 20, "{} commands", pages.len());
    pages
}

/// The part after the flags.
fn after_flags(page: &str) -> &str {
    let starts = ["\nExample", "\nThe file is YAML:", "\nExit codes:"];
    let starts = starts.iter().filter_map(|start| page.find(start));
    starts.min().map_or("", |start| &page[start..])
}

#[test]
fn examples_are_not_wrapped() {
    for (command, page) in pages("400") {
        for line in after_flags(&page).lines() {
            assert!(
                line.chars().count() <= WIDTH,
                "`{command}` has a long line: {line}"
            );
        }
    }
    for ((command, narrow), (_, wide)) in pages("80").iter().zip(pages("400")) {
        assert_eq!(after_flags(narrow), after_flags(&wide), "`{command}`");
    }
}

/// A continued line ends in a backslash or a pipe, so that the shell reads the next line.
#[test]
fn example_lines_begin_or_continue_a_command() {
    for (command, page) in pages("80") {
        let examples = after_flags(&page)
            .split("\nExample")
            .nth(1)
            .unwrap_or_default();
        let mut goes_on = false;
        for line in examples.lines().skip(1).take_while(|line| !line.is_empty()) {
            let begins = line.starts_with("  ") && !line.starts_with("   ");
            assert!(begins || goes_on, "`{command}`: {line}");
            goes_on = line.ends_with(['\\', '|']);
        }
        assert!(!goes_on, "`{command}` ends in the middle");
    }
}

#[test]
fn global_flags_come_last() {
    for (command, page) in pages("80") {
        let Some((own, global)) = page.split_once("\nGlobal options:\n") else {
            assert!(!page.contains("--quiet"), "`{command}`:\n{page}");
            continue;
        };
        for flag in ["  --quiet", "  --color <WHEN>"] {
            assert!(
                global.contains(flag) && !own.contains(flag),
                "`{command}`:\n{page}"
            );
        }
        // The flags for the room and the participant follow the command's own flags.
        if let Some((_, room)) = own.split_once("  --room <NAME>\n") {
            let flags = room
                .lines()
                .filter(|line| line.trim_start().starts_with('-'));
            let flags: Vec<&str> = flags.map(str::trim).collect();
            let expected = [
                "--identity <NAME>",
                "--project-id <ID>",
                "--data-dir <DIR>",
                "-h, --help",
            ];
            assert_eq!(flags, expected, "`{command}`");
        }
    }
}
