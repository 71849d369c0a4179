//! The kernel's functions, for the plugin and the report.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::host_file;
use crate::names;

/// Writes the map of the kernel's code to a file of the emulator's host.
pub(crate) fn write_map(path: &str) -> Result<()> {
    let listing = fs::read_to_string("/proc/kallsyms").context("cannot read /proc/kallsyms")?;
    let mut functions: Vec<(u64, &str)> = listing.lines().filter_map(function).collect();
    functions.sort_unstable();

    let has =
        |wanted: fn(&str) -> bool| functions.iter().any(|&(at, name)| at != 0 && wanted(name));
    ensure!(
        has(names::is_vgic),
        "/proc/kallsyms has no functions of KVM's"
    );
    host_file::write(path, names::code_map(&functions).as_bytes())
}

/// Reads a line `ADDRESS KIND NAME` of a function.
fn function(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_whitespace();
    let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
    let address = u64::from_str_radix(address, 16).ok()?;
    matches!(kind, "t" | "T" | "W" | "w").then_some((address, name))
}
