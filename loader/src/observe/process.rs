//! Metrics of the process: what it is and what the system gives it.

use std::fs;
use std::time::Duration;

use larder_types::prometheus::{Text, resident_bytes};

/// Where the kernel says how many pages the process has.
const STATUS: &str = "/proc/self/status";

/// Writes the families of the process.
pub(super) fn write(text: &mut Text) {
    let version = env!("CARGO_PKG_VERSION");
    text.gauge("larder_loader_build_info", "The program's version; the number is always 1.")
        .sample(&[("version", version)], 1);
    // A system that does not tell has no such number.
    if let Some(bytes) = fs::read_to_string(STATUS).ok().as_deref().and_then(resident_bytes) {
        text.gauge("process_resident_memory_bytes", "Memory that the process has, in bytes.").value(bytes);
    }
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    if let (Ok(seconds), Ok(nanos)) = (u64::try_from(used.tv_sec), u32::try_from(used.tv_nsec)) {
        text.counter("process_cpu_seconds_total", "Processor time that the process has used, in seconds.")
            .value(Duration::new(seconds, nanos).as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_tells_of_itself() {
        let mut text = Text::default();
        write(&mut text);
        let text = text.finish();
        for family in ["larder_loader_build_info", "process_resident_memory_bytes", "process_cpu_seconds_total"] {
            assert!(text.contains(&format!("\n{family}")), "no {family} in {text}");
        }
    }
}
