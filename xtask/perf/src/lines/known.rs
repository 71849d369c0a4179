//! The check of the ruler: a program at EL2 whose lines are known
//! (`perf/el2/guest/src/sharing.rs`).
//!
//! CPUs take turns. A counter of all CPUs travels once a turn, and counters of their own do not
//! travel. A ticket lock takes four transfers: the next ticket is taken, the ticket that is served
//! is read and then written, and the data is taken.

use anyhow::{Context, Result, ensure};
use mesi::LINE;

use super::counts::{Counts, Sums};
use super::load::Load;
use super::machine::Counted;
use xtask::console;

/// A load of the program, its transfers and its atomic instructions in one turn.
struct Known {
    load: Load,
    lines: u64,
    atomics: u64,
}

/// The loads of the program.
const KNOWN: [Known; 3] = [
    Known {
        load: Load::SharedCounter,
        lines: 1,
        atomics: 1,
    },
    Known {
        load: Load::OwnCounters,
        lines: 0,
        atomics: 1,
    },
    Known {
        load: Load::TicketLock,
        lines: 4,
        atomics: 1,
    },
];

/// Holds the outcome of the program's run against what is known.
///
/// # Errors
///
/// A count is another one.
pub(super) fn check(counted: &Counted) -> Result<()> {
    let counts = Counts::read(counted).context("the plugin's counts")?;
    for Known {
        load,
        lines,
        atomics,
    } in KNOWN
    {
        let name = load.keyword();
        let sums = counts.loads().find(|(other, _)| *other == load);
        let (_, sums) = sums.with_context(|| format!("{name} was not done"))?;
        let transfers = transfers_at(sums, &places(counted, load));
        let found = (transfers, sums.atomics);
        let known = (lines * sums.events, atomics * sums.events);
        ensure!(
            found == known,
            "{name}: (transfers, atomics) are {found:?}, and have to be {known:?}"
        );
        console::detail(format!(
            "{name}: {transfers} lines in {} turns, as known",
            sums.events
        ));
    }
    Ok(())
}

/// Returns the addresses that the program prints as those of a load.
fn places(counted: &Counted, load: Load) -> Vec<u64> {
    let lines = counted.console.iter();
    let places = lines.filter_map(|line| {
        let (name, address) = line.strip_prefix("place ")?.split_once(' ')?;
        let address = u64::from_str_radix(address, 16).ok()?;
        (name == load.keyword()).then_some(address)
    });
    places.collect()
}

/// Adds up the transfers of the lines at some addresses.
fn transfers_at(sums: &Sums, places: &[u64]) -> u64 {
    let wanted = |address: u64| places.iter().any(|place| place / LINE == address / LINE);
    let lines = sums.lines.values().filter(|line| wanted(line.address));
    let transfers = lines.flat_map(|line| &line.transfers);
    transfers.map(|transfers| transfers.count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the outcome of a run of two turns, with so many transfers of the shared counter, and
    /// one of the line that tells the turn.
    fn counted(shared: u64) -> Counted {
        let console = KNOWN.iter().enumerate().flat_map(|(number, known)| {
            let name = known.load.keyword();
            let place = format!("place {name} {:x}", 0x1000 * (number + 1));
            [place, format!("guest: {name} 2")]
        });
        let number = |load: Load| load as u16;
        let (first, last) = (number(Load::SharedCounter), number(Load::TicketLock));
        let load = |number: u16| format!("load {number} 9 9 2 0 0\n");
        let mut counts: String = (first..=last).map(load).collect();
        counts += &format!("transfer {first} 40 1000 ff00 taken {shared} 3\n");
        counts += &format!("transfer {first} 80 2000 ff00 taken 1 3\n");
        counts += &format!("transfer {last} c0 3000 ff00 taken 8 3\n");
        Counted {
            counts,
            console: console.collect(),
        }
    }

    #[test]
    fn another_number_of_lines_is_an_error() {
        check(&counted(2)).unwrap();
        let error = check(&counted(3)).unwrap_err().to_string();
        assert!(error.contains("shared-counter"), "{error}");
    }
}
