//! How much memory there is: what the machine has, or less if the process is confined to a control group.
//!
//! Invariant: what cannot be found out is an error, not a guess: the limit on records depends on it.

use std::io;
use std::path::{Path, PathBuf};

/// Percent of the memory that records may take if nothing else is configured. The rest is for batches, the log's cache,
/// connections and the system.
const DEFAULT_PERCENT: u64 = 80;

/// Where the kernel shows what we ask for.
const MEMORY: &str = "/proc/meminfo";
const GROUPS: &str = "/proc/self/cgroup";
const GROUP_FILES: &str = "/sys/fs/cgroup";

/// Memory for records if nothing else is configured, in bytes.
///
/// # Errors
/// When the kernel does not say how much memory there is.
pub fn default_limit() -> io::Result<u64> {
    Ok(available()? / 100 * DEFAULT_PERCENT)
}

fn available() -> io::Result<u64> {
    let text = std::fs::read_to_string(MEMORY)?;
    let machine = total_of(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{MEMORY} does not name the total")))?;
    let groups = match std::fs::read_to_string(GROUPS) {
        Ok(text) => text,
        // A kernel without control groups confines nobody.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    limit_files(&groups).iter().try_fold(machine, |least, file| Ok(least.min(read_limit(file)?)))
}

/// The total in `/proc/meminfo`, in bytes.
fn total_of(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The files with the limits of the process's groups and all groups around them, by what `/proc/self/cgroup` says.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (PathBuf::from(GROUP_FILES), "memory.max"),
            list if list.split(',').any(|one| one == "memory") => {
                (Path::new(GROUP_FILES).join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let around = Path::new(path.trim_start_matches('/')).ancestors().map(|group| root.join(group).join(file));
        files.extend(around);
    }
    files
}

/// A group's limit in bytes; the largest number if it has none.
fn read_limit(file: &Path) -> io::Result<u64> {
    match std::fs::read_to_string(file) {
        Ok(text) => limit_of(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no limit", file.display()))),
        // The root group has no limit, and of groups around a container's nothing is shown in it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(u64::MAX),
        Err(error) => Err(error),
    }
}

fn limit_of(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        let limit = default_limit().unwrap();
        assert!((1 << 20..1 << 50).contains(&limit), "{limit}");
    }

    #[test]
    fn the_total_is_read_in_bytes() {
        assert_eq!(total_of("MemTotal:       24576000 kB\nMemFree:        1 kB\n"), Some(24_576_000 * 1024));
        assert_eq!(total_of("MemFree: 1 kB\n"), None);
        assert_eq!(total_of("MemTotal: much kB\n"), None);
    }

    #[test]
    fn a_group_is_bound_by_all_groups_around_it() {
        let files =
            |groups| -> Vec<String> { limit_files(groups).iter().map(|file| file.display().to_string()).collect() };
        assert_eq!(
            files("0::/system.slice/larder\n"),
            [
                "/sys/fs/cgroup/system.slice/larder/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(files("4:cpu,memory:/a\n3:cpuset:/b\n").len(), 2);
        assert_eq!(files("4:cpu,memory:/a\n")[0], "/sys/fs/cgroup/memory/a/memory.limit_in_bytes");
        assert_eq!(files(""), [""; 0]);
    }

    #[test]
    fn a_limit_is_a_number_or_none() {
        assert_eq!([limit_of("max\n"), limit_of("1048576\n"), limit_of("few")], [Some(u64::MAX), Some(1 << 20), None]);
    }
}
