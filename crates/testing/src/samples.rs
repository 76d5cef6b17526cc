//! The code samples of the API page, found by heading and language.
//!
//! The page is not part of the repository. Tests run its samples from the page's own location and
//! never copy them here.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::repository_root;

/// One fenced code block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The nearest heading above, without `#`.
    pub heading: String,
    /// The language of the fence, such as `python`.
    pub language: String,
    /// The words after the language, such as `NodeJs`.
    pub label: String,
    /// The code, without the indentation of its fence.
    pub code: String,
    /// The line number of the fence in the page, from 1.
    pub line: usize,
}

/// All samples of a page, in the page's order.
#[derive(Clone, Debug)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Reads the page at `MESHAGENT_API_PAGE`, else the one in the folder `shared` beside the
    /// repository. Without a page, prints that the test is skipped and returns `None`.
    ///
    /// # Errors
    /// When the page can't be read, or is missing while `CI` is `true`.
    #[expect(
        clippy::print_stdout,
        reason = "a skipped test reports that it is skipped"
    )]
    pub fn find() -> Result<Option<Self>> {
        let path = std::env::var_os("MESHAGENT_API_PAGE").map_or_else(
            || repository_root().join("../shared/sync-api.md"),
            PathBuf::from,
        );
        if path.is_file() {
            let page = std::fs::read_to_string(&path)
                .with_context(|| format!("reading the API page {}", path.display()))?;
            return Ok(Some(Self::parse(&page)));
        }
        if std::env::var("CI").is_ok_and(|ci| ci == "true") {
            bail!("no API page at {}: set MESHAGENT_API_PAGE", path.display());
        }
        println!(
            "skipped: no API page at {}; set MESHAGENT_API_PAGE",
            path.display()
        );
        Ok(None)
    }

    /// Parses the samples in a Markdown text.
    pub fn parse(page: &str) -> Self {
        let mut samples = Vec::new();
        let mut heading = String::new();
        let mut lines = page.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let text = line.trim_start();
            if let Some(info) = text.strip_prefix("```") {
                let indentation = line.len() - text.len();
                let mut words = info
                    .split_whitespace()
                    .take_while(|word| !word.contains('='));
                let language = words.next().unwrap_or_default().to_owned();
                let label = words.collect::<Vec<_>>().join(" ");
                let mut code = String::new();
                for (_, line) in lines.by_ref().take_while(|(_, line)| line.trim() != "```") {
                    let own = line.len() - line.trim_start().len();
                    code.push_str(&line[indentation.min(own)..]);
                    code.push('\n');
                }
                let heading = heading.clone();
                samples.push(Sample {
                    heading,
                    language,
                    label,
                    code,
                    line: number + 1,
                });
            } else if line.starts_with('#') {
                line.trim_start_matches('#').trim().clone_into(&mut heading);
            }
        }
        Self(samples)
    }

    /// All samples, in the page's order.
    pub fn all(&self) -> &[Sample] {
        &self.0
    }

    /// The first sample in a language, such as `python`, below a heading that starts with
    /// `heading`.
    ///
    /// # Errors
    /// When there is no such sample.
    pub fn first(&self, heading: &str, language: &str) -> Result<&Sample> {
        let is_it = |sample: &&Sample| {
            sample.language == language && sample.heading.replace('`', "").starts_with(heading)
        };
        self.0
            .iter()
            .find(is_it)
            .with_context(|| format!("the page has no {language} sample below {heading:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_have_heading_language_and_label_and_lose_their_indentation() {
        let page = "\
# Sync
```bash bash theme={null}
one --flag
```
## `create(path)`
<CodeGroup>
  ```python Python theme={null}
  # no heading
  if a:
      b()

  ```

  ```javascript NodeJs theme={null}
  c();
 d();
  ```
</CodeGroup>
";
        let samples = Samples::parse(page);
        let view: Vec<_> = samples
            .all()
            .iter()
            .map(|s| {
                (
                    s.line,
                    s.heading.as_str(),
                    s.language.as_str(),
                    s.label.as_str(),
                    s.code.as_str(),
                )
            })
            .collect();
        assert_eq!(
            view,
            [
                (2, "Sync", "bash", "bash", "one --flag\n"),
                (
                    7,
                    "`create(path)`",
                    "python",
                    "Python",
                    "# no heading\nif a:\n    b()\n\n"
                ),
                (14, "`create(path)`", "javascript", "NodeJs", "c();\nd();\n"),
            ]
        );
        assert_eq!(samples.first("create", "javascript").unwrap().line, 14);
        assert!(samples.first("create", "dart").is_err());
    }
}
