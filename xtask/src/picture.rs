//! The README's picture: a session of two participants with a real server, drawn as an SVG.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{cargo, run};
use crate::{BUILD_LIMIT, target_dir, workspace_root};

/// Relative to the root of the workspace.
const PICTURE: &str = "docs/demo.svg";

/// Generous, for a debug build on a busy machine: the whole session takes about a second.
const LINE_LIMIT: Duration = Duration::from_secs(30);

const SERVE: &[&str] = &["meshagent serve"];

const WATCH: &[&str] = &["meshagent room sync watch shopping --room kitchen --identity ana"];

/// The `--count` of `WATCH`, which ends by itself after that.
const CHANGES: usize = 2;

const CREATE: &[&str] = &[
    "meshagent room sync create shopping --room kitchen --identity ben",
    r#"  --json '{"list": {"title": "Saturday", "entries": [{"entry": {"what": "milk", "count": 2}}]}}'"#,
];

/// Commands, each with the number of changes that `WATCH` prints for it.
const EDITS: [(&[&str], usize); 3] = [
    (
        &[
            "meshagent room sync update shopping --room kitchen --identity ben",
            r#"  --patch '[{"op": "replace", "path": "/list/title", "value": "Sunday"}]'"#,
        ],
        1,
    ),
    (
        &[
            "meshagent room sync update shopping --room kitchen --identity ben",
            r#"  --patch '[{"op": "add", "path": "/list/entries/-","#,
            r#"             "value": {"entry": {"what": "bread", "count": 1}}}]'"#,
        ],
        1,
    ),
    (
        &[
            "meshagent room sync update shopping --room kitchen --identity ben",
            r#"  --patch '[{"op": "replace", "path": "/list/entries/0/entry/count", "value": "two"}]'"#,
        ],
        0,
    ),
];

/// Builds the binary, runs the session and writes the picture.
pub(crate) fn picture() -> Result<()> {
    run(cargo(&["build", "-p", "meshagent-cli"]), BUILD_LIMIT)?;
    let home = target_dir().join("picture");
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    fs::create_dir_all(&home)?;
    let transcript = session(&home)?;
    let path = workspace_root().join(PICTURE);
    fs::write(&path, render(&transcript))?;
    fs::remove_dir_all(&home)?;
    println!("xtask: the picture is {}", path.display());
    Ok(())
}

/// A terminal window, in the order of the picture from top to bottom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Terminal {
    Server,
    Ana,
    Ben,
}

impl Terminal {
    const ALL: [Self; 3] = [Self::Server, Self::Ana, Self::Ben];

    fn title(self) -> &'static str {
        match self {
            Self::Server => "the server",
            Self::Ana => "Ana watches",
            Self::Ben => "Ben edits",
        }
    }
}

/// One line in one terminal. A transcript keeps the order of the session across all terminals.
struct Line {
    terminal: Terminal,
    is_input: bool,
    text: String,
}

#[derive(Default)]
struct Transcript(Vec<Line>);

impl Transcript {
    fn input(&mut self, terminal: Terminal, lines: &[&str]) {
        for (index, line) in lines.iter().enumerate() {
            let prompt = if index == 0 { "$ " } else { "> " };
            self.0.push(Line {
                terminal,
                is_input: true,
                text: format!("{prompt}{}", as_typed(lines, index, line)),
            });
        }
    }

    fn output(&mut self, terminal: Terminal, text: &str) {
        for line in text.lines() {
            self.0.push(Line {
                terminal,
                is_input: false,
                text: line.to_owned(),
            });
        }
    }
}

/// Adds the backslash that continues a command, except inside quotes and on the last line.
fn as_typed(lines: &[&str], index: usize, line: &str) -> String {
    let quotes = lines[..=index].join("\n").matches('\'').count();
    let ends_here = index + 1 == lines.len() || quotes % 2 == 1;
    if ends_here {
        line.to_owned()
    } else {
        format!("{line} \\")
    }
}

fn script(lines: &[&str]) -> String {
    let typed: Vec<String> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| as_typed(lines, index, line))
        .collect();
    typed.join("\n")
}

fn session(home: &Path) -> Result<Transcript> {
    let mut transcript = Transcript::default();

    // The session takes a free port and can run beside another server; the picture shows the
    // default port.
    let mut server = Running::start(home, &format!("{} --listen 127.0.0.1:0", script(SERVE)))?;
    transcript.input(Terminal::Server, SERVE);
    let ready = loop {
        let line = server.line()?;
        // The first lines contain the API key: leave them out of the picture.
        if !line.starts_with("export ") {
            break line;
        }
    };
    let address = ready
        .split_once("http://")
        .context("the server says where it is")?
        .1;
    transcript.output(Terminal::Server, &ready.replace(address, "127.0.0.1:8080"));

    transcript.input(Terminal::Ben, CREATE);
    transcript.output(Terminal::Ben, &finish(home, CREATE)?);
    let mut watch = Running::start(home, &format!("{} --count {CHANGES}", script(WATCH)))?;
    transcript.input(Terminal::Ana, WATCH);
    let connected = watch.line()?;
    ensure!(connected == "connected", "`watch` printed {connected:?}");
    transcript.output(Terminal::Ana, &connected);
    for (edit, changes) in EDITS {
        transcript.input(Terminal::Ben, edit);
        transcript.output(Terminal::Ben, &finish(home, edit)?);
        for _ in 0..changes {
            transcript.output(Terminal::Ana, &watch.line()?);
        }
    }
    Ok(transcript)
}

/// The output of a command, on stdout or stderr. The last edit fails: the schema forbids it.
fn finish(home: &Path, lines: &[&str]) -> Result<String> {
    let output = shell(home, &script(lines)).output()?;
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8(printed)?;
    ensure!(!printed.is_empty(), "{lines:?} printed nothing");
    Ok(printed)
}

/// A shell with an empty environment, except for a `PATH` that finds the binary just built.
fn shell(home: &Path, script: &str) -> Command {
    let debug: PathBuf = target_dir().join("debug");
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("PATH", format!("{}:/usr/bin:/bin", debug.display()))
        .stdin(Stdio::null());
    command
}

/// A background program, killed on drop.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(home: &Path, script: &str) -> Result<Self> {
        let mut child = shell(home, &format!("exec {script} 2>&1"))
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let (sender, lines) = sync_channel(64);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn line(&mut self) -> Result<String> {
        match self.lines.recv_timeout(LINE_LIMIT) {
            Ok(line) => Ok(line),
            Err(error) => bail!("waiting for a line of the session: {error}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const COLUMNS: usize = 100;
const COLUMN_WIDTH: f64 = 8.5;
const LINE_HEIGHT: usize = 20;
const TITLE_HEIGHT: usize = 30;
const MARGIN: usize = 16;

/// The delay between two lines, in the order of the session.
const STEP_SECONDS: f64 = 0.5;

const STYLE: &str = "\
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; \
white-space: pre; }
.title { fill: #8b949e; font-weight: bold; }
.input { fill: #e6edf3; }
.output { fill: #7ee787; }
.refused { fill: #ffa198; }
.hint { fill: #8b949e; }
@media (prefers-reduced-motion: no-preference) {
  .line { animation: appear 0.2s both; }
  @keyframes appear { from { opacity: 0; } to { opacity: 1; } }
}";

/// Draws one window below the other. Lines appear in the order of the session and stay.
fn render(transcript: &Transcript) -> String {
    let mut windows = String::new();
    let mut y = 0;
    #[expect(clippy::cast_precision_loss, reason = "some hundred columns and lines")]
    let width = (COLUMNS as f64).mul_add(COLUMN_WIDTH, 2.0 * MARGIN as f64);
    for terminal in Terminal::ALL {
        let mut lines = String::new();
        let mut bottom = y + TITLE_HEIGHT;
        for (step, line) in transcript.0.iter().enumerate() {
            if line.terminal != terminal {
                continue;
            }
            let class = class(line);
            #[expect(clippy::cast_precision_loss, reason = "some dozen lines")]
            let delay = step as f64 * STEP_SECONDS;
            for row in wrap(&line.text, COLUMNS) {
                bottom += LINE_HEIGHT;
                let _ = writeln!(
                    lines,
                    r#"<text class="line {class}" style="animation-delay: {delay:.1}s" x="{MARGIN}" y="{bottom}">{}</text>"#,
                    escape(&row)
                );
            }
        }
        bottom += MARGIN;
        let _ = writeln!(
            windows,
            r##"<rect x="0.5" y="{y}.5" width="{}" height="{}" rx="8" fill="#0d1117" stroke="#30363d"/>"##,
            width - 1.0,
            bottom - y - 1
        );
        let _ = writeln!(
            windows,
            r#"<text class="title" x="{MARGIN}" y="{}">{}</text>"#,
            y + 22,
            terminal.title()
        );
        windows.push_str(&lines);
        y = bottom + MARGIN / 2;
    }
    let height = y - MARGIN / 2;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" xml:space=\"preserve\" role=\"img\" \
         width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <title>Two participants of a room: Ben edits a document while Ana watches it</title>\n\
         <style>\n{STYLE}\n</style>\n{windows}</svg>\n"
    )
}

fn class(line: &Line) -> &'static str {
    if line.is_input {
        "input"
    } else if line.text.starts_with("error: ") || line.text.starts_with("  ") {
        "refused"
    } else if line.text.starts_with("hint: ") {
        "hint"
    } else {
        "output"
    }
}

/// Breaks a line between words, into rows of at most `columns` characters.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut rows = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > columns {
        let space = rest[..=columns].iter().rposition(|char| *char == ' ');
        let at = space.filter(|at| *at > 0).unwrap_or(columns);
        let tail = rest.split_off(at);
        rows.push(rest.into_iter().collect());
        rest = tail.into_iter().skip_while(|char| *char == ' ').collect();
    }
    rows.push(rest.into_iter().collect());
    rows
}

/// Escapes text for XML; characters that XML forbids become U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\t' => escaped.push(char),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            _ => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_for_xml() {
        assert_eq!(
            escape("a < b && 'c' > \"d\" \u{1b}[31m 猫 🦀"),
            "a &lt; b &amp;&amp; &apos;c&apos; &gt; &quot;d&quot; \u{fffd}[31m 猫 🦀"
        );
    }

    #[test]
    fn rows_end_between_words() {
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("milk bread", 10), ["milk bread"]);
        assert_eq!(wrap("milk, bread", 10), ["milk,", "bread"]);
        assert_eq!(wrap("ÄÖÜäöüß", 3), ["ÄÖÜ", "äöü", "ß"]);
        assert_eq!(wrap("  indented words", 12), ["  indented", "words"]);
    }

    #[test]
    fn a_picture_has_every_line_once() {
        let mut transcript = Transcript::default();
        transcript.input(Terminal::Ben, &["say 'a", "b'"]);
        transcript.input(Terminal::Ben, &["say", "  <c>"]);
        transcript.output(Terminal::Ana, "heard\n& answered");
        let svg = render(&transcript);
        for line in [
            "$ say &apos;a",
            "&gt; b&apos;",
            "$ say \\",
            "&gt;   &lt;c&gt;",
            "heard",
            "&amp; answered",
        ] {
            let element = format!(">{line}</text>");
            assert_eq!(svg.matches(&element).count(), 1, "{line} in {svg}");
        }
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert_eq!(svg.matches("<rect").count(), Terminal::ALL.len());
    }

    /// The picture in the repository is of this script.
    #[test]
    fn the_picture_shows_the_session() {
        let svg = fs::read_to_string(workspace_root().join(PICTURE)).unwrap();
        let edits = EDITS.map(|(lines, _)| lines);
        for lines in [SERVE, WATCH, CREATE].into_iter().chain(edits) {
            for line in script(lines).lines() {
                assert!(
                    svg.contains(&escape(line)),
                    "{line} is missing: run `cargo xtask picture`"
                );
            }
        }
    }
}
