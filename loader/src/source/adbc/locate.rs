//! Finding drivers: a name stands for a manifest `NAME.toml` in one of the folders where ADBC's driver manager looks.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A driver that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The manifest, unless the driver was given by its path.
    pub(crate) manifest: Option<PathBuf>,
    pub(crate) library: PathBuf,
    pub(crate) entrypoint: Option<String>,
    /// The version that the manifest tells.
    pub(crate) version: Option<String>,
    /// The licence that the manifest tells.
    pub(crate) licence: Option<String>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default = "first_version")]
    manifest_version: u32,
    version: Option<String>,
    license: Option<String>,
    #[serde(rename = "Driver")]
    driver: Driver,
}

#[derive(Deserialize)]
struct Driver {
    entrypoint: Option<String>,
    shared: Shared,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Shared {
    One(PathBuf),
    ByPlatform(BTreeMap<String, PathBuf>),
}

fn first_version() -> u32 {
    1
}

/// The folders that may hold manifests, the first to be looked at first. Not all of them need exist.
pub(crate) fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        env::var_os("ADBC_DRIVER_PATH").map(|paths| env::split_paths(&paths).collect()).unwrap_or_default();
    folders.retain(|folder| !folder.as_os_str().is_empty());
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folders.extend(["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| Some(set(name)?.join("etc/adbc/drivers"))));
    if cfg!(target_os = "macos") {
        folders.extend(set("HOME").map(|home| home.join("Library/Application Support/ADBC/Drivers")));
        folders.push(PathBuf::from("/Library/Application Support/ADBC/Drivers"));
    } else {
        let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
        folders.extend(config.map(|config| config.join("adbc/drivers")));
        folders.push(PathBuf::from("/etc/adbc/drivers"));
    }
    folders
}

/// Finds the driver of a name in the folders.
///
/// # Errors
/// A sentence that says where it was looked for, or what is wrong with what was found.
pub(crate) fn by_name(name: &str, folders: &[PathBuf]) -> Result<Found, String> {
    let manifest = folders.iter().map(|folder| folder.join(format!("{name}.toml"))).find(|file| file.is_file());
    let Some(manifest) = manifest else {
        let looked: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(format!("there is no {name}.toml in {}", looked.join(", ")));
    };
    read(&manifest)
}

/// The driver in a library.
///
/// # Errors
/// When there is no such file.
pub(crate) fn by_path(library: &Path) -> Result<Found, String> {
    if !library.is_file() {
        return Err(format!("there is no file {}", library.display()));
    }
    let library = library.to_path_buf();
    Ok(Found { manifest: None, library, entrypoint: None, version: None, licence: None })
}

/// The names of all drivers that have a manifest, each once.
pub(crate) fn names(folders: &[PathBuf]) -> Vec<String> {
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn read(manifest: &Path) -> Result<Found, String> {
    let fault = |reason: String| format!("{}: {reason}", manifest.display());
    let text = fs::read_to_string(manifest).map_err(|error| fault(error.to_string()))?;
    let parsed: Manifest = toml::from_str(&text).map_err(|error| fault(error.message().to_owned()))?;
    if parsed.manifest_version != 1 {
        return Err(fault(format!("manifests of version {} are not known", parsed.manifest_version)));
    }
    let platform = platform();
    let library = match parsed.driver.shared {
        Shared::One(library) => library,
        Shared::ByPlatform(mut libraries) => {
            libraries.remove(&platform).ok_or_else(|| fault(format!("it names no library for {platform}")))?
        }
    };
    let library = manifest.parent().map_or(library.clone(), |folder| folder.join(library));
    if !library.is_file() {
        return Err(fault(format!("its library {} is not there", library.display())));
    }
    let entrypoint = parsed.driver.entrypoint;
    let manifest = Some(manifest.to_path_buf());
    Ok(Found { manifest, library, entrypoint, version: parsed.version, licence: parsed.license })
}

/// This machine as manifests name it.
fn platform() -> String {
    let machine = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}_{machine}{}", env::consts::OS, if cfg!(target_env = "musl") { "_musl" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn first_folder_with_a_manifest_counts() {
        let first = room(&[("a.toml", "version = \"1\"\n[Driver]\nshared = \"liba.so\"\n"), ("liba.so", "")]);
        let second = room(&[("a.toml", "nonsense"), ("b.toml", "")]);
        let folders = [first.path().join("missing"), first.path().to_path_buf(), second.path().to_path_buf()];
        let found = by_name("a", &folders).unwrap();
        assert_eq!(found.library, first.path().join("liba.so"));
        assert_eq!((found.version.as_deref(), found.entrypoint), (Some("1"), None));
        assert_eq!(names(&folders), ["a", "b"]);
        let error = by_name("c", &folders).unwrap_err();
        assert!(folders.iter().all(|folder| error.contains(&*folder.to_string_lossy())), "{error}");
    }

    #[test]
    fn library_is_the_one_of_this_platform() {
        let platform = platform();
        let text =
            format!("[Driver]\nentrypoint = \"init\"\n[Driver.shared]\n{platform} = \"x.so\"\nplan9_mips = \"y\"\n");
        let folder = room(&[("a.toml", &text), ("b.toml", "[Driver.shared]\nplan9_mips = \"y\"\n"), ("x.so", "")]);
        let folders = [folder.path().to_path_buf()];
        assert_eq!(by_name("a", &folders).unwrap().entrypoint.as_deref(), Some("init"));
        assert!(by_name("b", &folders).unwrap_err().contains(&platform));
    }

    #[test]
    fn what_is_wrong_with_a_manifest_is_told() {
        for (text, expected) in [
            ("nonsense", "a.toml"),
            ("version = \"1\"", "Driver"),
            ("manifest_version = 2\n[Driver]\nshared = \"x\"", "version 2"),
            ("[Driver]\nshared = \"gone.so\"", "gone.so is not there"),
        ] {
            let folder = room(&[("a.toml", text)]);
            let error = by_name("a", &[folder.path().to_path_buf()]).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
