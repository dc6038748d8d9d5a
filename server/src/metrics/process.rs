//! The process: what it is and what the system gives it.

use larder_types::prometheus::Text;

/// Where the kernel says how many pages the process has.
const STATUS: &str = "/proc/self/status";

pub(super) fn write(text: &mut Text) {
    let version = env!("CARGO_PKG_VERSION");
    text.gauge("larder_build_info", "The program's version; the number is always 1.")
        .sample(&[("version", version)], 1);
    // A system that does not tell has no such number.
    if let Some(bytes) = std::fs::read_to_string(STATUS).ok().as_deref().and_then(resident) {
        text.gauge("process_resident_memory_bytes", "Memory that the process has, in bytes.").value(bytes);
    }
}

/// The resident bytes in `/proc/self/status`.
fn resident(text: &str) -> Option<u64> {
    let size = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    size.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_bytes_are_read() {
        assert_eq!(resident("Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t   812 kB\nThreads:\t1\n"), Some(812 * 1024));
        assert_eq!(resident("Name:\tx\n"), None);
        assert!(resident(&std::fs::read_to_string(STATUS).unwrap()).unwrap() > 100_000);
    }
}
