//! Places for a test's files, and the files of the repository that tests read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// The repository's folder: of the checkout that is being tested, not of the one that the test was compiled in, since
/// checkouts may share a build folder.
///
/// # Panics
/// When the test was started by something other than cargo.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| panic!("CARGO_MANIFEST_DIR is not set"));
    Path::new(&tests).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// A new folder that goes when the test ends.
///
/// # Errors
/// When it cannot be made.
pub fn folder() -> Result<TempDir> {
    tempfile::Builder::new().prefix("larder-test-").tempdir().context("cannot make a scratch folder")
}

/// Writes a file and the folders above it.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, content: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies a folder with all that is in it.
///
/// # Errors
/// When something cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
