//! The guest's `/proc/interrupts`.
//!
//! A header names the CPUs that are on line; a row has a name, a count for each of them, and a
//! description: `27 Level arch_timer` behind the chip `GICv3`, or `GIC-0` for a GICv2, an event
//! behind an `ITS-...` chip, an MSI that is an SPI behind a `GICv2m-...` chip, or a text for an
//! inter-processor interrupt.

use std::ops::Range;

use super::kinds::PerKind;

/// The first INTID of the SPIs. Lower ones are a CPU's own: PPIs, and SGIs, which Linux lists by
/// name.
const FIRST_SPI: u32 = 32;

/// The extended PPIs of GICv3.1.
const EXTENDED_PPIS: Range<u32> = 1056..1120;

/// Name of the chip of a GICv2.
const GICV2: &str = "GIC-0";

/// Beginning of the name of a chip of MSIs that are SPIs.
pub(super) const MSI_FRAME: &str = "GICv2m";

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Linux' number, or the name of an inter-processor interrupt.
    pub(crate) name: String,
    /// The kind; none for rows that are no interrupts of the GIC's (`Err`).
    pub(crate) kind: Option<&'static str>,
    /// The number of interrupts that all CPUs together took.
    pub(crate) count: u64,
    /// The chip, the interrupt and who handles it, as Linux prints it.
    pub(crate) what: String,
}

object!(Row {
    name,
    kind,
    count,
    what,
});

/// Reads the table's lines, header first; returns `None` if they are no such table.
pub(crate) fn parse(lines: &[&str]) -> Option<Vec<Row>> {
    let (header, rows) = lines.split_first()?;
    let cpus = header
        .split_whitespace()
        .filter(|word| word.starts_with("CPU"))
        .count();
    if cpus == 0 {
        return None;
    }
    rows.iter().map(|line| row(line, cpus)).collect()
}

/// Reads a row of the table.
fn row(line: &str, cpus: usize) -> Option<Row> {
    let (name, rest) = line.trim_start().split_once(':')?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let counts: Vec<u64> = words
        .iter()
        .map_while(|word| word.parse().ok())
        .take(cpus)
        .collect();
    let what = &words[counts.len()..];
    let kind = match what {
        _ if counts.len() < cpus => None,
        _ if name.starts_with("IPI") => Some("sgi"),
        ["GICv3" | GICV2, number, ..] => {
            let number: u32 = number.parse().ok()?;
            let is_private = number < FIRST_SPI || EXTENDED_PPIS.contains(&number);
            Some(if is_private { "ppi" } else { "spi" })
        }
        [chip, ..] if chip.starts_with(MSI_FRAME) => Some("spi"),
        [chip, ..] if chip.starts_with("ITS") => Some("lpi"),
        _ => None,
    };
    Some(Row {
        name: name.to_owned(),
        kind,
        count: counts.iter().sum(),
        what: what.join(" "),
    })
}

/// Adds the rows up by kind.
pub(crate) fn by_kind(rows: &[Row]) -> PerKind {
    let mut sums = PerKind::default();
    for row in rows {
        if let Some(kind) = row.kind {
            *sums.of_mut(kind) += row.count;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [&str; 9] = [
        "           CPU0       CPU1       ",
        " 11:        414        356     GICv3  27 Level     arch_timer",
        " 13:          5          0     GICv3  33 Level     uart-pl011",
        " 19:          0          2     GICv3 1056 Level     arm-pmu",
        " 20:          7          0  ITS-PCI-MSIX-0000:00:01.0   0 Edge      virtio0-config",
        " 21:          0          1   ITS-MSI 16385 Edge      virtio0-req.0",
        "IPI0:        48         39       Rescheduling interrupts",
        "IPI1:       225        290       Function call interrupts",
        "Err:          0",
    ];

    #[test]
    fn rows_are_told_apart_and_summed() {
        let rows = parse(&TABLE).unwrap();
        let kinds: Vec<_> = rows.iter().map(|row| row.kind.unwrap_or("-")).collect();
        assert_eq!(
            kinds,
            ["ppi", "spi", "ppi", "lpi", "lpi", "sgi", "sgi", "-"]
        );
        assert_eq!(rows[1].what, "GICv3 33 Level uart-pl011");
        assert_eq!(
            by_kind(&rows),
            PerKind {
                sgi: 602,
                ppi: 772,
                spi: 5,
                lpi: 8
            }
        );
    }

    #[test]
    fn a_gicv2_has_ppis_spis_and_msis_that_are_spis() {
        let rows = parse(&[
            "           CPU0",
            " 11:        414   GIC-0  27 Level     arch_timer",
            " 13:          5   GIC-0  33 Level     uart-pl011",
            " 20:          7   GICv2m-PCI-MSIX-0000:00:01.0   0 Edge      virtio0-config",
        ]);
        let kinds = rows.unwrap().into_iter().map(|row| row.kind.unwrap());
        assert_eq!(kinds.collect::<Vec<_>>(), ["ppi", "spi", "spi"]);
    }

    #[test]
    fn one_cpu_does_not_count_what_follows_its_column() {
        let rows = parse(&["           CPU0       ", " 11:   414   GICv3  27 Level  t"]).unwrap();
        assert_eq!(rows[0].count, 414);
        let rows = parse(&["  CPU0", "IPI2:   3   4 and more interrupts"]).unwrap();
        assert_eq!(
            (rows[0].count, rows[0].what.as_str()),
            (3, "4 and more interrupts")
        );
    }

    #[test]
    fn other_text_is_no_table() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&["sh: not found"]), None);
        assert_eq!(parse(&["  CPU0", "torn line"]), None);
    }
}
