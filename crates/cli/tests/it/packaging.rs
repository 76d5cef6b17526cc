//! Files for packages: completions and man pages.

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
            // Its completions cover two levels of commands; these flags belong to the third.
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

/// The published command accepts the flag after each of these commands.
#[test]
fn completions_replace_those_of_the_published_command() {
    let home = TempDir::new().unwrap();
    let file = |name: &str| fs::read_to_string(home.path().join(name)).unwrap();
    fs::write(home.path().join(".bashrc"), "alias l=ls").unwrap();
    let source = format!(
        "source '{}/.bash_completions/meshagent.sh'",
        home.path().display()
    );
    for (shell, script, start, expected) in [
        (
            "bash",
            ".bash_completions/meshagent.sh",
            Some(".bashrc"),
            format!("alias l=ls\n{source}\n"),
        ),
        (
            "zsh",
            ".zfunc/_meshagent",
            Some(".zshrc"),
            "fpath+=~/.zfunc; autoload -Uz compinit; compinit\n".to_owned(),
        ),
        (
            "fish",
            ".config/fish/completions/meshagent.fish",
            None,
            String::new(),
        ),
    ] {
        let with_shell = |arguments: &[&str]| {
            run(meshagent(home.path(), arguments).env("SHELL", format!("/usr/bin/{shell}")))
        };
        let expected_script = with_shell(&["completions", shell]).stdout;
        let shown = with_shell(&["room", "sync", "--show-completion"]);
        assert_eq!(
            (shown.code, shown.stdout.as_str()),
            (Some(0), expected_script.as_str())
        );
        for command in [
            &["--install-completion"][..],
            &["room", "sync", "import", "--install-completion"],
        ] {
            let ran = with_shell(command);
            let message = format!(
                "{shell} completion installed in {}\n\
                 Completion will take effect once you restart the terminal\n",
                home.path().join(script).display()
            );
            assert_eq!(
                (ran.code, ran.stdout, ran.stderr.as_str()),
                (Some(0), message, "")
            );
            assert_eq!(file(script), expected_script);
            // Added only once.
            assert_eq!(start.map_or(String::new(), file), expected);
        }
    }
    for shell in ["elvish", "unheard-of"] {
        let ran =
            run(meshagent(home.path(), &["token", "--install-completion"]).env("SHELL", shell));
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("hint: `meshagent completions "),
            "{}",
            ran.stderr
        );
    }
    // The flag is an argument of another program, or follows no command.
    let ran = run(&mut meshagent(
        home.path(),
        &["room", "connect", "--", "true", "--show-completion"],
    ));
    assert!(ran.stderr.contains("--room"), "{}", ran.stderr);
    let ran = run(&mut meshagent(home.path(), &["frob", "--show-completion"]));
    assert_eq!(ran.code, Some(2));
}
