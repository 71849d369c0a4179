//! The instructions of one event: by function, and one by one.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use yaxpeax_arch::{Decoder, U8Reader};
use yaxpeax_arm::armv8::a64::InstDecoder;

use super::counts::{Attribute, Sums};
use super::event::Event;
use super::table::name;
use xtask::console;

/// Prints the instructions that an event executes in each function, the largest number first: the
/// function's own, those of them below an entry of the virtual interrupt controller, and those of
/// functions that were inlined into it.
pub(crate) fn print(hypervisor: &str, event: Event, sums: &Sums) {
    console::step(format!("{hypervisor}: {}", name(event)));
    console::detail(format!(
        "{:>8} {:>8} {:>8} {:>7} {:>5} {:>8}  {:<4} function",
        "instr", "incl.", "inlined", "sysregs", "ICH", "barriers", ""
    ));
    let mut functions: Vec<_> = sums.functions.iter().collect();
    functions.sort_by_key(|(_, function)| Reverse(function.tally.instructions));
    for (name, function) in functions {
        let tally = function.tally;
        console::detail(format!(
            "{:>8.1} {:>8} {:>8} {:>7} {:>5} {:>8}  {:<4} {name}",
            sums.each(tally.instructions),
            unless_zero(sums.each(function.below)),
            unless_zero(sums.each(function.inlined)),
            unless_zero(sums.each(tally.system_registers)),
            unless_zero(sums.each(tally.ich)),
            unless_zero(sums.each(tally.barriers)),
            if function.vgic { "vgic" } else { "" },
        ));
    }
}

/// Formats a number; zero as nothing.
fn unless_zero(value: f64) -> String {
    if value == 0.0 {
        String::new()
    } else {
        format!("{value:.1}")
    }
}

/// Writes every instruction of hyp that an event executes, by address, with its executions in one
/// round, its function and its source line.
pub(crate) fn write_listing(
    event: Event,
    sums: &Sums,
    code: &impl Attribute,
    reports: &Path,
) -> Result<()> {
    fs::create_dir_all(reports)?;
    let path = reports.join(format!("el2-{}.txt", event.keyword()));
    fs::write(&path, listing(event, sums, code))
        .with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!("listing {}", path.display()));
    Ok(())
}

/// Formats the listing.
fn listing(event: Event, sums: &Sums, code: &impl Attribute) -> String {
    let mut text = format!("{}, {} rounds\n", name(event), sums.rounds);
    let mut expected = None;
    for (&address, executed) in &sums.code {
        // A gap between the addresses.
        if expected != Some(address) {
            text.push('\n');
        }
        expected = Some(address + 4);
        let owner = code.owner(address);
        let _ = writeln!(
            text,
            "{:>8.2}  {address:x}  {:<40} {:<4} {:<44} {}",
            sums.each(executed.times),
            disassembled(executed.word),
            if owner.vgic { "vgic" } else { "" },
            owner.function,
            owner.line,
        );
    }
    text
}

/// Returns the events that `--profile` chooses: none, one, or all.
pub(crate) fn chosen(profile: &Option<Option<Event>>) -> &[Event] {
    match profile {
        None => &[],
        Some(Some(event)) => std::slice::from_ref(event),
        Some(None) => &Event::ALL,
    }
}

/// Disassembles an instruction.
fn disassembled(word: u32) -> String {
    let bytes = word.to_le_bytes();
    InstDecoder::default()
        .decode(&mut U8Reader::new(&bytes))
        .map_or_else(|_| format!(".inst {word:#010x}"), |code| code.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::counts::{Executed, Owner};
    use super::*;

    struct Ours;

    impl Attribute for Ours {
        fn owner(&self, _address: u64) -> Owner<'_> {
            Owner {
                vgic: true,
                below: true,
                function: "fold",
                within: &[],
                line: "src/vcpu/entry.rs:7",
            }
        }

        fn is_exit(&self, _address: u64) -> bool {
            false
        }
    }

    #[test]
    fn a_listing_says_what_is_executed_where_and_how_often() {
        let mut sums = Sums {
            rounds: 4,
            ..Sums::default()
        };
        let (nop, times) = (0xd503_201f, 6);
        for address in [0x1000, 0x1004, 0x2000] {
            sums.code.insert(address, Executed { word: nop, times });
        }
        let text = listing(Event::Spi, &sums, &Ours);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].contains("1.50  1000  nop"), "{text}");
        assert!(lines[2].ends_with("src/vcpu/entry.rs:7"), "{text}");
        assert_eq!((lines[4], lines.len()), ("", 6), "{text}");
    }

    #[test]
    fn a_word_that_is_no_instruction_is_shown_as_it_is() {
        assert_eq!(disassembled(0xffff_ffff), ".inst 0xffffffff");
    }
}
