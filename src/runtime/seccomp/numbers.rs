//! The numbers of all system calls in each ABI, by name: those that Docker's profile names, and those that it does not.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::{Abi, rows};

const OTHERS: &str = include_str!("calls.txt");

/// In the order of [`Abi`]; none where an ABI has no such call.
pub(super) type Numbers = [Option<u32>; 5];

/// The numbers of a call; nothing for a name that no ABI of ours has.
pub(super) fn of(name: &str) -> Option<Numbers> {
    static TABLE: OnceLock<HashMap<&'static str, Numbers>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table: HashMap<&str, Numbers> = rows().map(|row| (row.name, row.numbers)).collect();
        for line in OTHERS.lines().filter(|line| !line.starts_with('#')) {
            let mut fields = line.split(' ');
            let name = fields.next().unwrap_or_default();
            let mut numbers = [None; 5];
            for number in &mut numbers {
                *number = fields.next().and_then(|field| field.parse().ok());
            }
            table.insert(name, numbers);
        }
        table
    });
    table.get(name).copied()
}

/// Whether the kernel takes an argument of a call as 32 bits, whatever stands in the other half of the register: a
/// comparison of all 64 would be passed by a number that the kernel then reads as the forbidden one.
pub(super) fn is_narrow(name: &str, index: u8, abi: Abi) -> bool {
    let half = match name {
        "socket" | "socketpair" => index <= 2,
        "personality" | "unshare" | "prctl" | "keyctl" | "bpf" | "clone" => index == 0,
        "ioctl" | "fcntl" | "setns" | "accept4" => index == 1,
        "madvise" => index == 2,
        _ => false,
    };
    half || matches!(abi, Abi::I386 | Abi::Arm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_and_nothing_twice() {
        assert_eq!(of("openat2").unwrap()[0], Some(437));
        assert_eq!(
            of("keyctl").unwrap(),
            [Some(250), Some(288), Some(0x4000_0000 + 250), Some(219), Some(311)]
        );
        assert_eq!(of("no_such_call"), None);
        let known: Vec<&str> = rows().map(|row| row.name).collect();
        for line in OTHERS.lines().filter(|line| !line.starts_with('#')) {
            assert_eq!(line.split(' ').count(), 6, "{line}");
            assert!(!known.contains(&line.split(' ').next().unwrap()), "{line}");
        }
    }
}
