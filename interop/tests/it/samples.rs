//! The samples of the API page, as they stand there, started by `meshagent room connect`; then the
//! server is started anew, and other clients look at what is on disk. Fragments get the least around
//! them that lets them run: a connected `room`.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use meshagent_testing::{Sample, Samples, Script, TempDir};
use serde_json::{Value, json};

use crate::scenario::{Scenario, canonical, scenario, succeeded};

/// The languages whose samples can be run, and the file endings of their sources.
const PYTHON: (&str, &str) = ("python", "py");
const JAVASCRIPT: (&str, &str) = ("javascript", "js");
const TYPESCRIPT: (&str, &str) = ("typescript", "ts");

const FRAGMENT_PATH: &str = "my/path";

#[test]
fn the_python_program_writes_a_document_that_is_there_after_a_restart() {
    program_writes_a_document(PYTHON);
}

#[test]
fn the_javascript_program_writes_a_document_that_is_there_after_a_restart() {
    program_writes_a_document(JAVASCRIPT);
}

#[test]
fn the_typescript_program_writes_a_document_that_is_there_after_a_restart() {
    program_writes_a_document(TYPESCRIPT);
}

fn program_writes_a_document((language, ending): (&str, &str)) {
    let Some(samples) = find_samples() else {
        return;
    };
    scenario(|s| {
        let sample = samples.first("Creating a MeshDocument", language)?;
        let output = run_source(s, "my-room", ending, &sample.code)?;
        ensure!(
            output.contains("Connected to room: my-room"),
            "it printed {output:?}"
        );
        let expected =
            json!({ "document": { "content": [{ "body": { "text": "hello world!" } }] } });
        check_after_restart(s, "my-room", "hello-world.document", &expected, &expected)
    });
}

#[test]
fn the_python_fragments_run_in_page_order_and_are_on_disk_after_a_restart() {
    let Some(samples) = find_samples() else {
        return;
    };
    scenario(|s| {
        let fragment =
            |heading| -> Result<String> { Ok(indent(fragment(&samples, heading, "python")?)) };
        // `describe` between the steps shows that `b"some bytes"` changed nothing.
        let source = format!(
            "\
import asyncio, json
from meshagent.api import RoomClient

async def main():
    async with RoomClient() as room:
        {create}
        {describe}
        print(json.dumps(doc_json))
        {open}
        print(json.dumps(doc.root.to_json()))
        {sync}
        {describe}
        print(json.dumps(doc_json))
        {close}

asyncio.run(main())
",
            create = fragment("create")?,
            describe = fragment("describe")?,
            open = fragment("open")?,
            sync = fragment("sync")?,
            close = fragment("close")?,
        );
        let output = run_source(s, "fragments", "py", &source)?;
        let printed: Vec<Value> = output
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let described = json!({ "document": { "key": "value" } });
        // The SDK can't show attributes of the root element.
        let opened = json!({ "document": {} });
        assert_eq!(
            printed,
            [described.clone(), opened.clone(), described.clone()]
        );
        check_after_restart(s, "fragments", FRAGMENT_PATH, &described, &opened)
    });
}

#[test]
fn the_javascript_fragments_run_in_page_order_and_are_on_disk_after_a_restart() {
    node_fragments(JAVASCRIPT);
}

#[test]
fn the_typescript_fragments_run_in_page_order_and_are_on_disk_after_a_restart() {
    node_fragments(TYPESCRIPT);
}

fn node_fragments((language, ending): (&str, &str)) {
    let Some(samples) = find_samples() else {
        return;
    };
    scenario(|s| {
        // `describe` has no sample in this language: the page says that the SDK has no helper for it.
        let steps = ["create", "open", "sync", "close"]
            .map(|heading| fragment(&samples, heading, language).map(indent));
        let [create, open, sync, close] = steps;
        let source = format!(
            "\
import {{ RoomClient }} from '@meshagent/meshagent';

async function main() {{
    const room = new RoomClient();
    await room.start();
    try {{
        {}
        {}
        console.log(doc.root.tagName);
        {}
        {}
    }} finally {{
        room.dispose();
    }}
}}

void main();
",
            create?, open?, sync?, close?,
        );
        let output = run_source(s, "fragments", ending, &source)?;
        assert_eq!(output.lines().last(), Some("document"));
        let described = json!({ "document": { "key": "value" } });
        check_after_restart(
            s,
            "fragments",
            FRAGMENT_PATH,
            &described,
            &json!({ "document": {} }),
        )
    });
}

#[test]
fn documents_are_made_with_the_schemas_of_the_page() {
    let Some(samples) = find_samples() else {
        return;
    };
    scenario(|s| {
        for (language, ending) in [PYTHON, JAVASCRIPT, TYPESCRIPT] {
            let mut of_language = samples
                .all()
                .iter()
                .filter(|sample| sample.heading == "Example Schema" && sample.language == language);
            let schema = of_language.next().context("the page's schema")?;
            let to_json = of_language
                .next()
                .context("the line that makes JSON of it")?;
            let print = match language {
                "python" => "import json; print(json.dumps(json_schema))",
                _ => "console.log(JSON.stringify(jsonSchema))",
            };
            let source = format!("{}\n{}\n{print}\n", schema.code, to_json.code);
            let schema: Value = serde_json::from_str(&run_source(s, "schemas", ending, &source)?)?;

            let path = format!("{language}/page");
            let page = json!({ "html": { "children": [{ "body": { "children": [
                { "p": { "class": "lead" } },
            ] } }] } });
            let mut client = s.client(Script::PythonClient, "schemas", language)?;
            let request = json!({ "path": path, "json": page, "schema": schema });
            client.call("create", &request)?;
            client.call("open", &json!({ "path": path }))?;
            // What the Python SDK prints of a schema is the same for all three sources.
            let printed = client.call("schema", &json!({ "path": path }))?;
            assert_eq!(
                printed["$root_tag_ref"],
                json!("#/$defs/html"),
                "{language}"
            );
            let p = &printed["$defs"]["p"]["properties"]["p"]["properties"]["class"]["type"];
            assert_eq!(p, &json!(["string", "null"]), "{language}");
            check_after_restart(s, "schemas", &path, &page, &page)?;
        }
        Ok(())
    });
}

/// Every sample in these languages is known to the tests above, so that a new one is not passed over.
#[test]
fn no_sample_of_the_page_is_left_out() {
    let Some(samples) = find_samples() else {
        return;
    };
    let headings = |language: &str| -> Vec<&str> {
        let of_language = samples
            .all()
            .iter()
            .filter(|sample| sample.language == language);
        of_language.map(|sample| sample.heading.as_str()).collect()
    };
    let common = [
        "Example Schema",
        "Example Schema",
        "Creating a MeshDocument",
        "`create(path, json=None)`",
        "`open(path, create=True)`",
        "`close(path)`",
        "`sync(path, data)`",
    ];
    assert_eq!(headings("javascript"), common);
    assert_eq!(headings("typescript"), common);
    let mut python = common.to_vec();
    python.insert(4, "`describe(path)`");
    assert_eq!(headings("python"), python);
    assert_eq!(
        headings("bash"),
        ["CLI commands", "`create(path, json=None)`"]
    );
}

pub(crate) fn find_samples() -> Option<Samples> {
    match Samples::find() {
        Ok(samples) => samples,
        Err(error) => panic!("{error:#}"),
    }
}

fn fragment<'a>(samples: &'a Samples, heading: &str, language: &str) -> Result<&'a Sample> {
    samples.first(&format!("{heading}("), language)
}

/// The code at the depth of the body that it goes into.
fn indent(sample: &Sample) -> String {
    sample.code.trim().replace('\n', "\n        ")
}

/// Runs a source through our `room connect`; what it prints on stdout.
fn run_source(s: &Scenario, room: &str, ending: &str, source: &str) -> Result<String> {
    // Below the installed packages, where an `import` finds them.
    let folder = TempDir::new_in(s.sdk.node_folder())?;
    let file = folder.path().join(format!("sample.{ending}"));
    fs::write(&file, source)?;
    let file = file.to_string_lossy();
    let program = if ending == "py" {
        "python3".into()
    } else {
        s.sdk.tsx()
    };
    let command: [&str; 2] = [&program.to_string_lossy(), &file];
    let finished = s.room_connect(room, "participant-name", &command)?;
    succeeded(&format!("the {ending} sample"), &finished)?;
    ensure!(
        !finished.stderr.contains("Error:"),
        "it reports {}",
        finished.stderr
    );
    Ok(finished.stdout)
}

/// Starts the server anew on what is on disk: it describes the document as `described`, and the SDKs
/// show it as `opened`.
fn check_after_restart(
    s: &mut Scenario,
    room: &str,
    path: &str,
    described: &Value,
    opened: &Value,
) -> Result<()> {
    s.server.restart()?;
    assert_eq!(
        s.describe(room, path)?,
        canonical(described),
        "described after a restart"
    );
    for script in [Script::PythonClient, Script::NodeClient] {
        assert_eq!(
            s.look(script, room, path)?,
            canonical(opened),
            "shown by {script:?}"
        );
    }
    Ok(())
}
