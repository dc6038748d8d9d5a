//! Which local processes listen on a port, from `/proc`.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;

/// The kernel's code for a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// The processes that listen on the port of a loopback address. Empty when the address is not of this machine's
/// loopback, or when the listeners belong to somebody whose files we may not look into.
pub(crate) fn processes_behind(address: SocketAddr) -> Vec<u32> {
    if !address.ip().is_loopback() {
        return Vec::new();
    }
    let mut sockets = HashSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        sockets.extend(text.lines().filter_map(|line| listening_inode(line, address.port())));
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let processes = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut holders: Vec<u32> = processes.filter(|&pid| holds_any(pid, &sockets)).collect();
    holders.sort_unstable();
    holders
}

/// The inode in a line of the socket table if that socket listens on `port`.
fn listening_inode(line: &str, port: u16) -> Option<u64> {
    let mut columns = line.split_ascii_whitespace();
    let (_, local_port) = columns.nth(1)?.rsplit_once(':')?;
    let state = columns.nth(1)?;
    let wanted = u16::from_str_radix(local_port, 16) == Ok(port) && state == LISTEN;
    // From the state on: queues, timer, retransmits, uid, timeout, inode.
    if wanted { columns.nth(5)?.parse().ok() } else { None }
}

fn holds_any(pid: u32, sockets: &HashSet<u64>) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| {
        let Ok(link) = fs::read_link(file.path()) else { return false };
        let inode = link.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        inode.is_some_and(|inode| sockets.contains(&inode))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listening_process_is_found_while_it_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(processes_behind(address).contains(&std::process::id()));
        drop(listener);
        assert!(!processes_behind(address).contains(&std::process::id()));
        assert!(processes_behind("192.0.2.1:80".parse().unwrap()).is_empty());
    }

    #[test]
    fn lines_of_the_socket_table_are_understood() {
        let listening =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 494 1 0 100 0";
        assert_eq!(listening_inode(listening, 8080), Some(494));
        assert_eq!(listening_inode(listening, 8081), None);
        assert_eq!(listening_inode(&listening.replace(" 0A ", " 01 "), 8080), None);
        assert_eq!(listening_inode("  sl  local_address rem_address   st tx_queue rx_queue", 8080), None);
    }
}
