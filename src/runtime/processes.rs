//! What the kernel tells of processes: `/proc/<pid>`, for `top`. No program of a container is asked, and none of the
//! host's is run.

use std::fs::File;
use std::io::{self, Read};

/// No command line that is shown is longer.
const LIMIT: u64 = 16 << 10;

/// One process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    pub pid: i32,
    pub parent: i32,
    pub uid: u32,
    pub gid: u32,
    /// The first letter of its state, such as `S`.
    pub state: char,
    pub session: i32,
    pub group: i32,
    /// The device number of its terminal; 0 for none.
    pub terminal: u64,
    pub threads: u64,
    pub nice: i64,
    /// Ticks of processor time, and of the machine when it began.
    pub ticks: u64,
    pub began: u64,
    /// Bytes.
    pub virtual_memory: u64,
    pub resident: u64,
    pub name: String,
    /// Its arguments; empty for one that shows none.
    pub arguments: Vec<String>,
}

impl ProcessInfo {
    /// Reads what there is of a process; nothing if it has ended.
    pub fn read(pid: i32) -> Option<Self> {
        let stat = file(pid, "stat").ok()?;
        let mut process = parse(&String::from_utf8_lossy(&stat))?;
        let status = file(pid, "status").ok()?;
        for line in String::from_utf8_lossy(&status).lines() {
            // Of the four ids the second is what it acts as.
            let effective = |rest: &str| rest.split_whitespace().nth(1).and_then(|id| id.parse().ok());
            if let Some(rest) = line.strip_prefix("Uid:") {
                process.uid = effective(rest)?;
            } else if let Some(rest) = line.strip_prefix("Gid:") {
                process.gid = effective(rest)?;
            }
        }
        let line = file(pid, "cmdline").unwrap_or_default();
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        if !line.is_empty() {
            process.arguments = line
                .split(|byte| *byte == 0)
                .map(|text| String::from_utf8_lossy(text).into_owned())
                .collect();
        }
        Some(process)
    }
}

fn file(pid: i32, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{name}"))?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `proc(5)`: the name is in brackets, and may have brackets and blanks in it.
fn parse(stat: &str) -> Option<ProcessInfo> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |place: usize| -> Option<i64> { fields.get(place)?.parse().ok() };
    let positive = |place: usize| number(place).and_then(|number| u64::try_from(number).ok());
    let small = |place: usize| number(place).and_then(|number| i32::try_from(number).ok());
    Some(ProcessInfo {
        pid: pid.parse().ok()?,
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: small(1)?,
        group: small(2)?,
        session: small(3)?,
        terminal: positive(4).unwrap_or(0),
        ticks: positive(11)?.saturating_add(positive(12)?),
        nice: number(16)?,
        threads: positive(17)?,
        began: positive(19)?,
        virtual_memory: positive(20)?,
        resident: positive(21).unwrap_or(0).saturating_mul(rustix::param::page_size() as u64),
        ..ProcessInfo::default()
    })
}

/// The processes of a process namespace, by a process in it: for sandboxes without a cgroup.
pub fn of_namespace(pid: i32) -> io::Result<Vec<i32>> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    let wanted = namespace(pid)?;
    let mut found: Vec<i32> = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| namespace(*pid).is_ok_and(|there| there == wanted))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// Bytes that a process's network took and gave, without its loopback.
pub fn network_bytes(pid: i32) -> (u64, u64) {
    let text = file(pid, "net/dev").unwrap_or_default();
    sum_of_devices(&String::from_utf8_lossy(&text))
}

fn sum_of_devices(text: &str) -> (u64, u64) {
    let mut sum = (0_u64, 0_u64);
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|text| text.parse().ok()).collect();
        if name.trim() != "lo"
            && let (Some(received), Some(sent)) = (numbers.first(), numbers.get(8))
        {
            sum = (sum.0.saturating_add(*received), sum.1.saturating_add(*sent));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets() {
        let stat = "7 (a) b (c) S 1 7 6 34816 7 0 0 0 0 0 10 5 0 0 20 0 3 0 900 4096 2 0";
        let process = parse(stat).unwrap();
        assert_eq!((process.name.as_str(), process.state, process.parent), ("a) b (c", 'S', 1));
        assert_eq!((process.ticks, process.threads, process.began), (15, 3, 900));
        assert_eq!((process.terminal, process.virtual_memory), (34816, 4096));
        assert_eq!(parse("7 (x) S"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn ourselves() {
        let pid = std::process::id() as i32;
        let process = ProcessInfo::read(pid).unwrap();
        assert_eq!(process.uid, rustix::process::geteuid().as_raw());
        assert!(process.resident > 0 && !process.arguments.is_empty());
        assert!(of_namespace(pid).unwrap().contains(&pid));
        assert!(ProcessInfo::read(0).is_none());
    }

    #[test]
    fn devices_but_the_loopback() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n  eth0:10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n";
        assert_eq!(sum_of_devices(text), (10, 20));
    }
}
