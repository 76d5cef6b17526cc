//! Installs the published SDKs for the interop tests into `target/interop`.
//!
//! `interop/` pins their versions. An installation of the same versions is reused.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::{capture, run};
use crate::workspace_root;

/// The limit of an installation: the Python packages have about a gigabyte.
const INSTALL_LIMIT: Duration = Duration::from_mins(15);

pub(crate) fn prepare() -> Result<()> {
    let pins = workspace_root().join("interop");
    // The tests look for the cache in the repository, wherever cargo's target directory is.
    let cache = workspace_root().join("target").join("interop");
    install(
        &cache.join("python"),
        &pins,
        &["requirements.txt", "constraints.txt"],
        install_python,
    )?;
    install(
        &cache.join("node"),
        &pins,
        &["package.json", "package-lock.json"],
        install_node,
    )
}

/// Returns the folder of the npm packages that [`prepare`] installs.
pub(crate) fn node_modules() -> PathBuf {
    let cache = workspace_root().join("target").join("interop");
    cache.join("node").join("node_modules")
}

/// Calls `install_into` on an empty directory, unless the directory's stamp has the same pins.
///
/// The stamp is written last, so that a broken installation never counts as a good one.
fn install(
    directory: &Path,
    pins: &Path,
    pin_files: &[&str],
    install_into: fn(&Path, &Path) -> Result<()>,
) -> Result<()> {
    let mut hasher = DefaultHasher::new();
    for file in pin_files {
        let path = pins.join(file);
        fs::read(&path)
            .with_context(|| format!("reading {}", path.display()))?
            .hash(&mut hasher);
    }
    let stamp = format!("{:016x}", hasher.finish());
    let stamp_file = directory.join("stamp");
    if fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("removing {}", directory.display()))?;
    }
    fs::create_dir_all(directory)?;
    install_into(directory, pins)?;
    fs::write(&stamp_file, stamp)?;
    Ok(())
}

fn install_python(directory: &Path, pins: &Path) -> Result<()> {
    let mut venv = Command::new(find_python()?);
    venv.args(["-m", "venv"]).arg(directory);
    run(venv, INSTALL_LIMIT)?;
    let mut pip = Command::new(directory.join("bin").join("python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ])
    .arg("--requirement")
    .arg(pins.join("requirements.txt"))
    .arg("--constraint")
    .arg(pins.join("constraints.txt"));
    run(pip, INSTALL_LIMIT)
}

fn install_node(directory: &Path, pins: &Path) -> Result<()> {
    for file in ["package.json", "package-lock.json"] {
        fs::copy(pins.join(file), directory.join(file))?;
    }
    let mut npm = Command::new("npm");
    npm.args([
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ])
    .current_dir(directory);
    run(npm, INSTALL_LIMIT)
}

/// Finds `CPython` 3.13, which the published Python packages require.
fn find_python() -> Result<PathBuf> {
    let is_3_13 = |candidate: &Path| {
        capture(
            &candidate.to_string_lossy(),
            &["-c", "import sys; print(sys.version_info[:2])"],
        )
        .is_ok_and(|version| version.trim() == "(3, 13)")
    };
    let on_path = ["python3.13", "python3", "python"].map(PathBuf::from);
    if let Some(found) = on_path.into_iter().find(|candidate| is_3_13(candidate)) {
        return Ok(found);
    }
    let pyenv_root = match std::env::var_os("PYENV_ROOT") {
        Some(root) => Some(PathBuf::from(root)),
        None => std::env::home_dir().map(|home| home.join(".pyenv")),
    };
    let versions = pyenv_root.and_then(|root| fs::read_dir(root.join("versions")).ok());
    let installed = versions.into_iter().flatten().flatten();
    let mut candidates = installed.map(|entry| entry.path().join("bin").join("python3"));
    match candidates.find(|candidate| is_3_13(candidate)) {
        Some(found) => Ok(found),
        None => bail!("no CPython 3.13 found: install it, or put it on the PATH as python3.13"),
    }
}
