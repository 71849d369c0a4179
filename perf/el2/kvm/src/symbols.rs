//! Addresses of kernel functions: those of the virtual interrupt controller and the vectors for
//! guests, and the symbol behind each, which shows its end.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::console;
use crate::names::{VECTORS, VGIC};

/// Prints the functions, a line `sym ADDRESS NAME` each.
pub(crate) fn print() -> Result<()> {
    let listing = fs::read_to_string("/proc/kallsyms").context("cannot read /proc/kallsyms")?;
    let mut printed = 0;
    let mut ends = false;
    for line in listing.lines() {
        let mut words = line.split(' ');
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };

        let mut names = VGIC.iter().chain(&VECTORS);
        let wanted =
            matches!(kind, "t" | "T" | "W") && names.any(|prefix| name.starts_with(prefix));
        if wanted || ends {
            console::say(&format!("sym {address} {name}"));
            printed += 1;
        }
        ends = wanted;
    }

    ensure!(printed != 0, "/proc/kallsyms has no functions of KVM's");
    Ok(())
}
