//! Lists of the lines that CPUs fetch from each other. Lines that the same code uses in the same
//! way, such as one of each vCPU, are one place.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::super::el2::counts::Attribute;
use super::counts::{Counts, Kind, Line, Sums};
use xtask::console;

/// Code that fetches a line, and why.
type User = (String, Kind);

/// Lines of the same use.
#[derive(Debug, Default)]
struct Place {
    /// Address of an access to one of the lines.
    address: u64,
    lines: usize,
    written_by_two: usize,
    transfers: u64,
    /// Transfers by user.
    users: BTreeMap<User, u64>,
}

/// Writes the list of a run.
pub(crate) fn write(
    reports: &Path,
    host: &str,
    cpus: u16,
    counts: &Counts,
    code: &impl Attribute,
) -> Result<()> {
    let mut text = String::new();
    for (load, sums) in counts.loads() {
        let _ = writeln!(
            text,
            "{} on {cpus} CPUs: {} events, {:.2} lines each",
            load.keyword(),
            sums.events,
            sums.each(sums.transfers())
        );
        for place in places(sums, code) {
            text += &described(&place, sums);
        }
        text.push('\n');
    }

    fs::create_dir_all(reports)?;
    let path = reports.join(format!("lines-{host}-{cpus}.txt"));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!("list {}", path.display()));
    Ok(())
}

/// Returns the lines of a load by their users, the dearest place first.
fn places(sums: &Sums, code: &impl Attribute) -> Vec<Place> {
    let mut places: BTreeMap<Vec<User>, Place> = BTreeMap::new();
    for line in sums.lines.values() {
        let users = users(line, code);
        let place = places.entry(users.keys().cloned().collect()).or_default();
        place.address = line.address;
        place.lines += 1;
        place.written_by_two += usize::from(line.is_written_by_two());
        for (user, count) in users {
            place.transfers += count;
            *place.users.entry(user).or_default() += count;
        }
    }
    let mut places: Vec<_> = places.into_values().collect();
    places.sort_by_key(|place| Reverse(place.transfers));
    places
}

/// Finds the users of a line.
fn users(line: &Line, code: &impl Attribute) -> BTreeMap<User, u64> {
    let mut users = BTreeMap::new();
    for transfers in &line.transfers {
        let owner = code.owner(transfers.site);
        let callers = owner.within.join(" < ");
        let within = if callers.is_empty() { "" } else { " < " };
        let name = format!("{}{within}{callers}  {}", owner.function, owner.line);
        *users.entry((name, transfers.kind)).or_default() += transfers.count;
    }
    users
}

/// Formats a place.
fn described(place: &Place, sums: &Sums) -> String {
    let mut text = format!(
        "  {:>7.2}  {} lines, {} written by two CPUs, such as {:x}\n",
        sums.each(place.transfers),
        place.lines,
        place.written_by_two,
        place.address
    );
    for ((name, kind), &count) in &place.users {
        let _ = writeln!(
            text,
            "    {:>7.2}  {:<32} {name}",
            sums.each(count),
            kind.name()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::el2::counts::Owner;
    use super::super::counts::tests::ring;
    use super::*;

    struct Two;

    impl Attribute for Two {
        fn owner(&self, address: u64) -> Owner<'_> {
            Owner {
                vgic: true,
                below: true,
                function: if address < 0x10 { "insert" } else { "prune" },
                within: &[],
                line: "list.rs:1",
            }
        }

        fn is_exit(&self, _: u64) -> bool {
            false
        }
    }

    #[test]
    fn lines_of_the_same_use_are_one_place() {
        let counts = ring(
            "transfer 2 40 1000 0 taken 10 1\n\
             transfer 2 41 1040 4 taken 10 2\n\
             transfer 2 42 1080 20 taken 5 3\n",
        )
        .unwrap();
        let (_, sums) = counts.loads().next().unwrap();
        let places = places(sums, &Two);
        let lines: Vec<_> = places.iter().map(|place| place.lines).collect();
        assert_eq!(lines, [2, 1]);
        let text = described(&places[0], sums);
        assert!(text.contains("2.00  2 lines, 0 written"), "{text}");
        assert!(text.contains("insert  list.rs:1"), "{text}");
    }
}
