//! Local files as sources and destinations: strange names, devices, a full disk.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::room::{Home, PLAN, refused};
use crate::run;

fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
fn cp_skips_names_that_a_room_cannot_have() {
    let home = Home::new();
    let site = home.path().join("site");
    fs::create_dir_all(site.join(OsStr::from_bytes(b"folder\xc3"))).unwrap();
    for (name, content) in [
        (&b"a\xff"[..], "one"),
        (b"a\xfe", "two"),
        (b"folder\xc3/below", "three"),
        ("a\u{fffd}".as_bytes(), "four"),
        (b"a\nb", "five"),
        (b"a\\b", "six"),
        (b"z", "last"),
    ] {
        fs::write(site.join(OsStr::from_bytes(name)), content).unwrap();
    }
    let ran = home.run(&["storage", "cp", "-r", "site", "room://www", "--quiet"]);
    refused(
        &ran,
        1,
        &[
            "\n  site/a\\xff: its name is not UTF-8\n",
            "\n  site/a\\xfe: its name is not UTF-8\n",
            "\n  site/folder\\xc3: its name is not UTF-8\n",
            "\n  site/a\\nb: its name is not allowed in a room\n",
            "\n  site/a\\b: its name is not allowed in a room\n",
        ],
    );
    let listed = home.done(&["storage", "ls", "-r", "www"]);
    assert_eq!(listed, "a\u{fffd}\nz\n");
    assert_eq!(
        home.done(&["storage", "get", "www/a\u{fffd}"]).trim_end(),
        "four"
    );
}

#[test]
fn cp_copies_the_content_of_the_folder_dot() {
    let home = Home::new();
    let site = home.path().join("site");
    fs::create_dir_all(site.join("sub")).unwrap();
    fs::write(site.join("a.txt"), "a").unwrap();
    fs::write(site.join("sub/b.txt"), "b").unwrap();
    for (source, folder) in [(".", "one"), ("sub/..", "two"), ("../site/.", "three")] {
        let target = format!("room://{folder}/");
        let mut cp = home.command(&["storage", "cp", "-r", source, &target]);
        let ran = run(cp.current_dir(&site));
        assert_eq!(ran.code, Some(0), "{source}: {}", ran.stderr);
        let listed = home.done(&["storage", "ls", "-r", folder]);
        assert_eq!(listed, "a.txt\nsub/\n  b.txt\n", "{source}");
    }
    let mut without = home.command(&["storage", "cp", ".", "room://four/"]);
    let ran = run(without.current_dir(&site));
    refused(&ran, 1, &["\".\" is a folder", "use -r"]);
}

#[test]
fn cp_names_what_a_local_folder_cannot_hold_and_copies_the_rest() {
    let home = Home::new();
    for path in ["both/x", "both/x/y", "both/z"] {
        home.done_with(&["storage", "cp", "-", &format!("room://{path}")], b"new");
    }
    let at = |path: &str| home.path().join(path);
    let copy = ["storage", "cp", "-r", "room://both", "copy", "--quiet"];
    refused(
        &home.run(&copy),
        1,
        &["\n  copy/x/y: a file has the path of its folder\n"],
    );
    for path in ["copy/x", "copy/z"] {
        assert_eq!(fs::read_to_string(at(path)).unwrap(), "new");
    }
    fs::create_dir_all(at("both/x")).unwrap();
    let copy = ["storage", "cp", "-r", "room://both", ".", "--quiet"];
    let ran = home.run(&copy);
    refused(&ran, 1, &["both/x: a folder has its path\n"]);
    for path in ["both/x/y", "both/z"] {
        assert_eq!(fs::read_to_string(at(path)).unwrap(), "new");
    }
    fs::remove_file(at("both/z")).unwrap();
    make_pipe(&at("both/z"));
    let pipe = "both/z: a socket, or a pipe that nobody reads, has its path";
    refused(&home.run(&copy), 1, &["both/x: a folder", pipe]);
}

#[test]
fn files_without_an_end_are_refused() {
    let home = Home::new();
    let folder = home.path().join("folder");
    fs::create_dir(&folder).unwrap();
    symlink("/dev/zero", folder.join("zero")).unwrap();
    make_pipe(&folder.join("pipe"));
    File::create(home.path().join("huge"))
        .and_then(|file| file.set_len(1 << 40))
        .unwrap();
    let too_large = &["can't read ", "it has more than 268435456 bytes"];
    for command in [
        &["sync", "create", "z", "--json-file", "/dev/zero"][..],
        &["sync", "validate", "/dev/zero", "--schema", "schema.json"],
        &["sync", "validate", "x", "--schema", "/dev/zero"],
        &["storage", "cp", "/dev/zero", "room://z"],
        &["storage", "cp", "huge", "room://z"],
    ] {
        refused(&home.run(command), 2, too_large);
    }
    let mut stdin = home.command(&["storage", "cp", "-", "room://z"]);
    let ran = run(stdin.stdin(File::open("/dev/zero").unwrap()));
    refused(&ran, 2, too_large);
    for (source, skipped) in [
        ("/dev/zero", "\n  /dev/zero: a device"),
        ("folder", "\n  folder/pipe: a named pipe\n"),
        ("folder", "\n  folder/zero: a device"),
    ] {
        let copy = ["storage", "cp", "-r", source, "room://z"];
        refused(&home.run(&copy), 1, &[skipped]);
    }
    assert_eq!(home.done(&["storage", "ls"]), "");
    // A pipe that the user names is read.
    let cp = home.command(&["storage", "cp", "folder/pipe", "room://piped"]);
    let reading = thread::spawn(|| run(&mut { cp }));
    fs::write(folder.join("pipe"), "through").unwrap();
    assert_eq!(reading.join().unwrap().code, Some(0));
    assert_eq!(
        home.done(&["storage", "get", "piped"]).trim_end(),
        "through"
    );
}

/// The command with a limit on the size of files in place of a full disk.
fn on_full_disk(home: &Home, arguments: &[&str]) -> Command {
    let full = home.command(arguments);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"]);
    command.arg(full.get_program()).args(full.get_args());
    command.env_clear().current_dir(home.path());
    for (name, value) in full.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.stdin(Stdio::null());
    command
}

#[test]
fn a_full_disk_leaves_the_former_file() {
    let home = Home::new();
    let at = |path: &str| home.path().join(path);
    home.done_with(
        &["storage", "cp", "-", "room://www/big"],
        &"B".repeat(100_000).into_bytes(),
    );
    let long = PLAN.replace("Plan", &"P".repeat(100_000));
    fs::write(at("long.json"), long).unwrap();
    let create = ["sync", "create", "plan", "--json-file", "long.json"];
    home.done(&[&create[..], &["--schema", "schema.json"]].concat());
    fs::create_dir(at("www")).unwrap();
    for (file, command) in [
        ("keep", &["storage", "cp", "room://www/big", "keep"][..]),
        ("www/big", &["storage", "cp", "room://www/big", "www/"]),
        ("www/big", &["storage", "cp", "-r", "room://www", "."]),
        ("keep", &["sync", "export", "plan", "--output", "keep"]),
        (
            "keep",
            &[
                "sync",
                "export",
                "plan",
                "--schema-output",
                "x",
                "-o",
                "keep",
            ],
        ),
        ("new", &["storage", "cp", "room://www/big", "new"]),
    ] {
        if file != "new" {
            fs::write(at(file), "the only copy").unwrap();
        }
        let ran = run(&mut on_full_disk(&home, command));
        refused(&ran, 2, &["can't write "]);
        let kept = fs::read_to_string(at(file)).ok();
        let expected = (file != "new").then_some("the only copy");
        assert_eq!(kept.as_deref(), expected, "{command:?}");
    }
    for folder in [home.path(), &at("www")] {
        let left = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let mut names = left.map(|entry| entry.file_name());
        let is_temporary = |name: std::ffi::OsString| name.as_bytes().ends_with(b".new");
        assert!(!names.any(is_temporary));
    }
}

#[test]
fn replaced_files_keep_their_permissions_and_others_are_written_directly() {
    let home = Home::new();
    let at = |path: &str| home.path().join(path);
    home.done_with(&["storage", "cp", "-", "room://www/a"], b"new");
    fs::create_dir(at("www")).unwrap();
    for (file, mode) in [("keep", 0o640), ("www/a", 0o751)] {
        fs::write(at(file), "former").unwrap();
        fs::set_permissions(at(file), Permissions::from_mode(mode)).unwrap();
        let command = match file {
            "keep" => ["storage", "cp", "--quiet", "room://www/a", "keep"],
            _ => ["storage", "cp", "-r", "room://www", "."],
        };
        assert_eq!(home.run(&command).code, Some(0));
        assert_eq!(fs::read_to_string(at(file)).unwrap(), "new");
        let metadata = fs::metadata(at(file)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{file}");
    }
    // A link that the user named stays, also if its target has to be created.
    symlink("keep", at("link")).unwrap();
    symlink("fresh", at("dangling")).unwrap();
    for (link, target) in [("link", "keep"), ("dangling", "fresh")] {
        home.done(&["storage", "cp", "room://www/a", link]);
        assert!(at(link).is_symlink());
        assert_eq!(fs::read_to_string(at(target)).unwrap(), "new");
    }
    // A file that stdout was redirected to is not replaced.
    let stdout = File::create(at("stdout")).unwrap();
    let mut cp = home.command(&["storage", "cp", "--quiet", "room://www/a", "/dev/stdout"]);
    let mut kept = File::open(at("stdout")).unwrap();
    assert!(cp.stdout(stdout).status().unwrap().success());
    let mut written = String::new();
    kept.read_to_string(&mut written).unwrap();
    assert_eq!(written, "new");
    home.done(&["storage", "cp", "room://www/a", "/dev/null"]);
    make_pipe(&at("pipe"));
    let cp = home.command(&["storage", "cp", "--quiet", "room://www/a", "pipe"]);
    let writing = thread::spawn(|| run(&mut { cp }));
    assert_eq!(fs::read_to_string(at("pipe")).unwrap(), "new");
    assert_eq!(writing.join().unwrap().code, Some(0));
    assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn a_file_in_a_folder_without_write_permission_is_written_directly() {
    let home = Home::new();
    let folder = home.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a"), "former").unwrap();
    fs::write(folder.join("read-only"), "former").unwrap();
    fs::set_permissions(folder.join("read-only"), Permissions::from_mode(0o444)).unwrap();
    home.done_with(&["storage", "cp", "-", "room://www/a"], b"new");
    fs::set_permissions(&folder, Permissions::from_mode(0o555)).unwrap();
    home.done(&["storage", "cp", "room://www/a", "folder/a"]);
    assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "new");
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    // Root may write it.
    if File::options()
        .write(true)
        .open(folder.join("read-only"))
        .is_ok()
    {
        return;
    }
    let ran = home.run(&["storage", "cp", "room://www/a", "folder/read-only"]);
    refused(&ran, 2, &["can't write folder/read-only"]);
    assert_eq!(
        fs::read_to_string(folder.join("read-only")).unwrap(),
        "former"
    );
}

#[test]
fn a_file_with_other_hard_links_is_written_directly_if_it_is_named() {
    let home = Home::new();
    let at = |path: &str| home.path().join(path);
    home.done_with(&["storage", "cp", "-", "room://www/a"], b"new");
    fs::create_dir(at("www")).unwrap();
    for (file, command, other) in [
        (
            "keep",
            &["storage", "cp", "room://www/a", "keep"][..],
            "new",
        ),
        // Somebody else may have put it there.
        ("www/a", &["storage", "cp", "-r", "room://www", "."], "old"),
    ] {
        let _ = fs::remove_file(at("other"));
        fs::write(at("other"), "old").unwrap();
        fs::hard_link(at("other"), at(file)).unwrap();
        home.done(command);
        assert_eq!(fs::read_to_string(at(file)).unwrap(), "new");
        assert_eq!(fs::read_to_string(at("other")).unwrap(), other, "{file}");
    }
}

/// As in a container with a mounted file.
#[test]
fn a_mounted_file_is_written_directly() {
    let home = Home::new();
    let at = |path: &str| home.path().join(path);
    home.done_with(&["storage", "cp", "-", "room://www/a"], b"new");
    for file in ["mounted", "target"] {
        fs::write(at(file), "the former content").unwrap();
    }
    let mounting = |run: &str| {
        let script = format!("mount --bind mounted target && {run}");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
        command.current_dir(home.path());
        command
    };
    // Not every system allows it.
    if !mounting("true")
        .output()
        .is_ok_and(|ran| ran.status.success())
    {
        return;
    }
    let copy = home.command(&["storage", "cp", "room://www/a", "target"]);
    let mut command = mounting("exec \"$@\"");
    command.arg(copy.get_program()).args(copy.get_args());
    for (name, value) in copy.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let ran = run(&mut command);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(at("mounted")).unwrap(), "new");
    assert!(fs::read_dir(home.path()).unwrap().all(|entry| {
        let name = entry.unwrap().file_name();
        !name.as_bytes().ends_with(b".new")
    }));
}
