//! The process: what it is and what the system gives it.

use larder_types::prometheus::{Text, resident_bytes};

/// Where the kernel says how many pages the process has.
const STATUS: &str = "/proc/self/status";

pub(super) fn write(text: &mut Text) {
    let version = env!("CARGO_PKG_VERSION");
    text.gauge("larder_build_info", "The program's version; the number is always 1.")
        .sample(&[("version", version)], 1);
    // A system that does not tell has no such number.
    if let Some(bytes) = std::fs::read_to_string(STATUS).ok().as_deref().and_then(resident_bytes) {
        text.gauge("process_resident_memory_bytes", "Memory that the process has, in bytes.").value(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_system_tells_its_resident_bytes() {
        assert!(resident_bytes(&std::fs::read_to_string(STATUS).unwrap()).unwrap() > 100_000);
    }
}
