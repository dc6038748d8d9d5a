//! The ADBC drivers that `.ci/drivers` fetches. Where one is missing a test fails; it is never passed over.
//!
//! The loader's own tests include this file too, so it uses nothing of this crate.

use std::path::PathBuf;

/// The folder with the drivers' manifests and libraries, for `ADBC_DRIVER_PATH`: beside the build folder of this test, or
/// where `.ci/drivers` puts it when no build folder was named.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn folder() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let above = test.ancestors().map(PathBuf::from).chain(cache.map(|cache| cache.join("larder")));
    let found = above.map(|folder| folder.join("larder-drivers")).find(|folder| folder.is_dir());
    found.unwrap_or_else(|| panic!("there is no folder `larder-drivers` above {}: run .ci/drivers", test.display()))
}

/// The library of a driver, as `driver` takes it.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn library(name: &str) -> PathBuf {
    let file = if name == "duckdb" { "libduckdb.so".to_owned() } else { format!("libadbc_driver_{name}.so") };
    let library = folder().join(file);
    assert!(library.is_file(), "{} is missing: run .ci/drivers", library.display());
    library
}
