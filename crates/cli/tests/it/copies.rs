//! `meshagent room storage cp` between folders that contain more than files.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use crate::room::{Home, refused};

#[test]
fn cp_refuses_a_source_and_a_destination_on_this_machine() {
    let home = Home::new();
    fs::write(home.path().join("a.txt"), "a").unwrap();
    home.done(&["storage", "cp", "a.txt", "room://b.txt"]);
    let words = [
        "is in the room",
        "\nhint: paths in the room need the prefix room://",
    ];
    for arguments in [
        &["storage", "cp", "a.txt", "b.txt"][..],
        &["storage", "cp", "a.txt", "room://b.txt", "copies/"],
        &["storage", "cp", "-", "b.txt"],
    ] {
        refused(&home.run(arguments), 2, &words);
    }
    assert!(!home.path().join("copies").exists() && !home.path().join("b.txt").exists());
}

#[test]
fn cp_follows_links_in_the_source_and_names_what_it_skips() {
    let home = Home::new();
    let at = |path: &str| home.path().join(path);
    fs::create_dir_all(at("site/sub")).unwrap();
    fs::create_dir_all(at("elsewhere")).unwrap();
    fs::write(at("site/plain.txt"), "plain").unwrap();
    fs::write(at("elsewhere/far.txt"), "far").unwrap();
    symlink("../elsewhere", at("site/folder")).unwrap();
    symlink("../elsewhere/far.txt", at("site/file.txt")).unwrap();
    assert_eq!(
        home.run(&["storage", "cp", "-r", "site", "room://www"])
            .code,
        Some(0)
    );
    let tree = "file.txt\nfolder/\n  far.txt\nplain.txt\n";
    assert_eq!(home.done(&["storage", "ls", "-r", "www"]), tree);

    symlink("nowhere", at("site/broken")).unwrap();
    symlink("..", at("site/sub/up")).unwrap();
    symlink("self", at("site/self")).unwrap();
    let _socket = UnixListener::bind(at("site/socket")).unwrap();
    let mkfifo = std::process::Command::new("mkfifo")
        .arg(at("site/pipe"))
        .status();
    assert!(mkfifo.unwrap().success());
    let ran = home.run(&["storage", "cp", "-r", "site", "room://again", "--quiet"]);
    refused(
        &ran,
        1,
        &[
            "\n  site/broken: a broken symbolic link\n",
            "\n  site/pipe: a named pipe\n",
            "\n  site/self: a loop of symbolic links\n",
            "\n  site/socket: a socket\n",
            "\n  site/sub/up: a loop of symbolic links\n",
        ],
    );
    assert_eq!(home.done(&["storage", "ls", "-r", "again"]), tree);

    // Back, as plain files.
    home.done(&["storage", "cp", "-r", "room://www", "back"]);
    assert_eq!(
        fs::read_to_string(at("back/folder/far.txt")).unwrap(),
        "far"
    );
    assert!(!at("back/folder").is_symlink() && !at("back/file.txt").is_symlink());
}

/// Somebody else may have put it there, to have a file of the user replaced.
#[test]
fn cp_writes_through_no_link_that_leads_out_of_the_destination() {
    let home = Home::new();
    let at = |path: &str| home.path().join(path);
    home.done_with(&["storage", "cp", "-", "room://www/sub/a.txt"], b"new");
    home.done_with(&["storage", "cp", "-", "room://www/b.txt"], b"new");
    fs::create_dir(at("outside")).unwrap();
    fs::write(at("outside/a.txt"), "old").unwrap();
    let recursive = ["storage", "cp", "-r", "room://www", "folder"];
    let one = ["storage", "cp", "room://www/b.txt", "folder/www/"];
    for (link, target, commands) in [
        ("folder/www/sub", "../../outside", &[&recursive[..]][..]),
        (
            "folder/www/b.txt",
            "../../outside/a.txt",
            &[&recursive, &one],
        ),
        // Nothing is created either.
        (
            "folder/www/b.txt",
            "../../outside/new.txt",
            &[&recursive, &one],
        ),
        ("folder/www/b.txt", "/dev/null", &[&recursive, &one]),
    ] {
        let _ = fs::remove_dir_all(at("folder"));
        fs::create_dir_all(at("folder/www")).unwrap();
        symlink(target, at(link)).unwrap();
        for command in commands {
            let ran = home.run(&[command, &["--quiet"][..]].concat());
            refused(
                &ran,
                1,
                &[
                    &format!("refused to write through {link}: "),
                    "\nhint: remove ",
                ],
            );
        }
        assert_eq!(fs::read_to_string(at("outside/a.txt")).unwrap(), "old");
        assert!(!at("outside/new.txt").exists());
    }
    // A link that stays inside is followed, and so is one that the user names.
    fs::remove_dir_all(at("folder")).unwrap();
    fs::create_dir_all(at("folder/real")).unwrap();
    symlink("real", at("folder/sub")).unwrap();
    symlink("outside/a.txt", at("link")).unwrap();
    symlink("folder", at("named")).unwrap();
    home.done(&["storage", "cp", "-r", "room://www/sub", "named"]);
    assert_eq!(fs::read_to_string(at("folder/real/a.txt")).unwrap(), "new");
    home.done(&["storage", "cp", "room://www/b.txt", "link"]);
    assert_eq!(fs::read_to_string(at("outside/a.txt")).unwrap(), "new");
}

#[test]
fn cp_skips_an_unreadable_subfolder() {
    let home = Home::new();
    let at = |path: &str| home.path().join(path);
    fs::create_dir_all(at("site/closed")).unwrap();
    fs::create_dir_all(at("site/open")).unwrap();
    fs::write(at("site/open/a.txt"), "a").unwrap();
    let close = |mode| fs::set_permissions(at("site/closed"), Permissions::from_mode(mode));
    close(0o000).unwrap();
    // Root may read it.
    if fs::read_dir(at("site/closed")).is_err() {
        let copy = ["storage", "cp", "-r", "site", "room://www", "--quiet"];
        refused(
            &home.run(&copy),
            1,
            &["\n  site/closed: it can't be read\n"],
        );
        let listed = home.done(&["storage", "ls", "-r", "www"]);
        assert_eq!(listed, "open/\n  a.txt\n");
        let copy = ["storage", "cp", "-r", "site/closed", "room://closed"];
        refused(&home.run(&copy), 2, &["can't read site/closed"]);
    }
    close(0o755).unwrap();
}

#[test]
fn a_copy_that_ends_early_lists_what_it_skipped() {
    let home = Home::new();
    let at = |path: &str| home.path().join(path);
    home.done_with(&["storage", "cp", "-", "room://www/a"], b"new");
    home.done_with(&["storage", "cp", "-", "room://www/b"], b"new");
    fs::create_dir_all(at("www/a")).unwrap();
    symlink("nowhere", at("www/b")).unwrap();
    let words = [
        "\n  ./www/a: a folder has its path\n",
        "\nerror: refused to write through ./www/b: it is a symbolic link that leads out of the \
         destination or nowhere\n",
    ];
    refused(
        &home.run(&["storage", "cp", "-r", "room://www", "."]),
        1,
        &words,
    );
}
