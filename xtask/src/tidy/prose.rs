//! Checks of texts and sources: 100 columns, and phrases from the word list in `CONTRIBUTING.md`.

use super::{absolute, read, tracked_files};

const COLUMNS: usize = 100;

/// Documents that a command writes.
const GENERATED: [&str; 1] = ["docs/benchmarks/servers.md"];

/// Files and directories of sources that follow the rules already. This list only becomes longer.
const REWRITTEN_SOURCES: [&str; 9] = [
    "abuse",
    "bench",
    "crates/cli",
    "crates/document",
    "crates/import",
    "crates/ledger",
    "crates/protocol",
    "crates/rights",
    "xtask",
];

/// Directories of sources whose comments follow the rules, while strings may be longer than a line.
/// They move to [`REWRITTEN_SOURCES`] when those are wrapped, too.
const REWRITTEN_COMMENTS: [&str; 5] = [
    "crates/client",
    "crates/server",
    "crates/store",
    "crates/store-sqlite",
    "crates/testing",
];

/// Phrases in lower case, each with what to write instead.
const PHRASES: [(&str, &str); 17] = [
    ("anew", "again"),
    ("are told", "receive, learn"),
    ("at once", "immediately; together"),
    ("becomes of", "happens to; name the result"),
    ("goes out", "is sent"),
    ("is told", "receives, learns"),
    ("is worn", "needs compaction"),
    ("let go", "evicted, unloaded"),
    ("mend", "fix"),
    ("mended", "fixed"),
    ("mends", "fixes"),
    ("read from later", "reads pause"),
    ("read off", "inferred from"),
    ("taken up", "applied"),
    ("tells", "reports, says"),
    ("who gives", "without a; name the participant"),
    ("whoever", "name the participant"),
];

#[test]
fn documents_wrap_at_100_columns() {
    let long: Vec<String> = documents()
        .iter()
        .flat_map(|path| long_lines(path, &read(path)))
        .collect();
    assert!(
        long.is_empty(),
        "wrap these at {COLUMNS} columns: {long:#?}"
    );
}

#[test]
fn documents_use_the_word_list() {
    let found: Vec<String> = documents()
        .iter()
        .flat_map(|path| phrases_in(path, &read(path)))
        .collect();
    assert!(found.is_empty(), "see `CONTRIBUTING.md`: {found:#?}");
}

#[test]
fn comments_use_the_word_list() {
    let mut found = Vec::new();
    let sources = [
        rust_files(&REWRITTEN_SOURCES),
        rust_files(&REWRITTEN_COMMENTS),
    ];
    for path in sources.concat() {
        let text = read(&path);
        let comments: Vec<&str> = text.lines().map(comment).collect();
        found.extend(phrases_in(&path, &comments.join("\n")));
        found.extend(one_word_docs(&path, &text));
    }
    assert!(found.is_empty(), "see `CONTRIBUTING.md`: {found:#?}");
}

#[test]
fn rewritten_sources_wrap_at_100_columns() {
    let of_sources = |path: &String| long_source_lines(path, &read(path));
    let of_comments = |path: &String| long_comments(path, &read(path));
    let sources = rust_files(&REWRITTEN_SOURCES);
    let mut long: Vec<String> = sources.iter().flat_map(of_sources).collect();
    let commented = rust_files(&REWRITTEN_COMMENTS);
    long.extend(commented.iter().flat_map(of_comments));
    assert!(
        long.is_empty(),
        "wrap these at {COLUMNS} columns: {long:#?}"
    );
}

/// The Rust files among these files and directories.
fn rust_files(entries: &[&str]) -> Vec<String> {
    let mut sources = Vec::new();
    for &entry in entries {
        let is_directory = absolute(entry).is_dir();
        let pattern = if is_directory {
            format!("{entry}/*.rs")
        } else {
            entry.to_owned()
        };
        let mut files = tracked_files(&[&pattern]);
        assert!(!files.is_empty(), "git lists no Rust file in {entry}");
        sources.append(&mut files);
    }
    sources
}

/// Everything tracked that people read, except what a command writes.
fn documents() -> Vec<String> {
    let mut documents = tracked_files(&["*.md"]);
    documents.retain(|path| !GENERATED.contains(&path.as_str()));
    assert!(documents.len() > 5, "git lists {documents:?}");
    documents
}

/// The text of a line that is a comment; other lines give an empty text.
fn comment(line: &str) -> &str {
    let line = line.trim_start();
    let text = ["//! ", "/// ", "// "]
        .iter()
        .find_map(|start| line.strip_prefix(start));
    text.unwrap_or_default()
}

/// Lines of prose, with their numbers: no code blocks, and nothing between a comment that ends in
/// "begins here" and one that ends in "ends here".
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let (mut is_code, mut is_skipped) = (false, false);
    (1..).zip(text.lines()).filter(move |(_, line)| {
        is_skipped =
            (is_skipped || line.ends_with("begins here -->")) && !line.ends_with("ends here -->");
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence && !is_skipped
    })
}

/// Lines that are too long and could be shorter: tables and lines without a space could not.
fn long_lines(path: &str, text: &str) -> Vec<String> {
    prose(text)
        .filter(|(_, line)| line.chars().count() > COLUMNS)
        .filter(|(_, line)| !line.starts_with('|') && line.trim().contains(' '))
        .map(|(number, line)| format!("{path}:{number}: {} columns", line.chars().count()))
        .collect()
}

/// Source lines that are too long and could be shorter.
///
/// rustfmt wraps code at the same width, but leaves strings and the content of macros unchanged. A
/// raw string or JSON may therefore be longer.
fn long_source_lines(path: &str, text: &str) -> Vec<String> {
    let could_be_shorter = |line: &str| {
        let is_raw_or_json = line.contains("r#") || line.contains("\":");
        let is_comment = line.trim_start().starts_with("//");
        line.trim().contains(' ') && (is_comment || !is_raw_or_json)
    };
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| line.chars().count() > COLUMNS && could_be_shorter(line))
        .map(|(number, line)| format!("{path}:{number}: {} columns", line.chars().count()))
        .collect()
}

/// Comments that are too long and could be shorter.
fn long_comments(path: &str, text: &str) -> Vec<String> {
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| line.chars().count() > COLUMNS && comment(line).contains(' '))
        .map(|(number, line)| format!("{path}:{number}: {} columns", line.chars().count()))
        .collect()
}

/// Doc comments that are only one word. Code and links are not words.
fn one_word_docs(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let is_text = |at: usize| {
        let line = lines.get(at);
        line.is_some_and(|line| line.starts_with("/// "))
    };
    let is_one_word = |at: usize| {
        let comment = comment(lines[at]);
        let is_word = !comment.contains(' ') && !comment.starts_with(['`', '#', '|', '[']);
        let has_neighbour = is_text(at + 1) || (at > 0 && is_text(at - 1));
        is_text(at) && is_word && !has_neighbour
    };
    (0..lines.len())
        .filter(|&at| is_one_word(at))
        .map(|at| format!("{path}:{}: a doc comment of one word", at + 1))
        .collect()
}

fn phrases_in(path: &str, text: &str) -> Vec<String> {
    let words: Vec<(usize, String)> = prose(text)
        .flat_map(|(number, line)| words(line).into_iter().map(move |word| (number, word)))
        .collect();
    let mut found = Vec::new();
    for (at, (number, _)) in words.iter().enumerate() {
        let begins = |phrase: &str| {
            let rest = words[at..].iter().map(|(_, word)| word.as_str());
            phrase.split(' ').eq(rest.take(phrase.split(' ').count()))
        };
        for (phrase, better) in PHRASES {
            if begins(phrase) {
                found.push(format!("{path}:{number}: {phrase:?}, say {better:?}"));
            }
        }
        // "There is no" and "is no longer" are usual.
        let is_there = at > 0 && words[at - 1].1 == "there";
        if begins("is no") && !begins("is no longer") && !is_there {
            found.push(format!("{path}:{number}: \"is no\", say \"is not a\""));
        }
    }
    found
}

/// The words of a line in lower case, without its code. Punctuation between sentences is a word.
fn words(line: &str) -> Vec<String> {
    let outside_code: Vec<&str> = line.split('`').step_by(2).collect();
    let mut text = outside_code.join(" code ").to_lowercase();
    for mark in [".", ":", ";", "?", "!", "|"] {
        text = text.replace(mark, &format!(" {mark} "));
    }
    text.split_whitespace()
        .map(|word| {
            word.trim_matches(|char: char| !char.is_alphanumeric() && !".:;?!|".contains(char))
        })
        .filter(|word| !word.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn phrases_are_found_in_prose_only() {
    let text = "\
It begins anew; `anew` is code.
```text
whoever reads this
```
<!-- the list begins here -->
| anew |
<!-- and ends here -->
There is no file, and it is no longer there.
The file is no
document. The state is sent at
once. Renewed.
";
    let lines: Vec<String> = phrases_in("page", text)
        .iter()
        .map(|found| found.split(',').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(
        lines,
        [
            "page:1: \"anew\"",
            "page:9: \"is no\"",
            "page:10: \"at once\""
        ]
    );
}

#[test]
fn long_lines_are_counted_in_characters() {
    let fits = "ä ".repeat(50);
    assert!(long_lines("page", &fits).is_empty());
    assert_eq!(
        long_lines("page", &format!("{fits}ö")),
        ["page:1: 101 columns"]
    );
    assert!(long_lines("page", &format!("| {fits} |")).is_empty());
    assert!(long_lines("page", &"x".repeat(200)).is_empty());
}

#[test]
fn long_source_lines_may_only_be_raw_strings_and_json() {
    let long = "word ".repeat(30);
    for line in [
        format!("let text = r#\"{long}\"#;"),
        format!("json!({{\"text\": \"{long}\"}})"),
        format!("let text = \"{}\";", "x".repeat(200)).replace(' ', ""),
        "x ".repeat(50),
    ] {
        assert!(long_source_lines("file", &line).is_empty(), "{line}");
    }
    for line in [
        format!("// {long}"),
        format!("//! \"json\": {long}"),
        format!("bail!(\"{long}\");"),
    ] {
        assert_eq!(long_source_lines("file", &line).len(), 1, "{line}");
    }
}

#[test]
fn a_doc_comment_of_one_word_is_found_unless_it_ends_a_sentence() {
    // These lines must not begin as comments: this file is checked, too.
    let text = "\
DOC Milliseconds.
a: u64,
DOC The median of all rounds, in
DOC milliseconds.
b: u64,
DOC `code`
DOC
DOC Again.
c: u64,
";
    let text = text.replace("DOC", "///");
    let message = "a doc comment of one word";
    assert_eq!(
        one_word_docs("file", &text),
        [1, 8].map(|line| format!("file:{line}: {message}"))
    );
}
