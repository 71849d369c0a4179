//! The figures in Markdown, for `perf/RESULTS.md` and `docs/performance.md`, and their plots.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::super::curves::{Curve, Plot};
use super::load::Load;
use super::table::{Outcome, Row};
use xtask::{console, docs, project};

/// Explanation below the table: which lines travel, and which have to.
const EXPLANATION: &str = include_str!("explanation.md");

/// Formats the section of `perf/RESULTS.md`.
pub(crate) fn results(outcome: &Outcome) -> String {
    let mut text = format!(
        "Lines that CPUs fetch or take from each other at EL2, for one event, on QEMU {} with\n\
         `{}`, beside KVM of Linux {}. Upgrades are those of\nthe lines that the CPU has read \
         already and now writes. \"By two\" are the lines that two CPUs write, in\nthe whole \
         load, and \"by more\" those of them that more write.\n\n\
         | load | CPUs | lines | upgrades | by two | by more | atomics | barriers | KVM: lines \
         | by two | atomics | goals |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n",
        outcome.qemu,
        outcome.flags,
        outcome.kvm.as_deref().unwrap_or("(not measured)"),
    );
    for row in &outcome.hyp {
        let kvm = outcome.kvms(row).map_or(" | | ".to_owned(), |kvm| {
            format!(
                "{:.1} | {} | {:.1}",
                kvm.lines, kvm.written_by_two, kvm.atomics
            )
        });
        let missed = outcome.missed(row);
        let verdict = match missed[..] {
            [] => "met".to_owned(),
            _ => format!("**missed**: {}", missed.join(", ")),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {:.2} | {} | {} | {:.2} | {:.2} | {kvm} | {verdict} |",
            row.load,
            row.cpus,
            row.lines,
            row.upgrades,
            row.written_by_two,
            row.written_by_many,
            row.atomics,
            row.barriers
        );
    }
    text + EXPLANATION
}

/// Writes the plots, and the figures into `docs/performance.md`.
pub(crate) fn publish(outcome: &Outcome) -> Result<()> {
    for (name, plot) in ["hyp", "kvm"].into_iter().zip(plots(outcome)) {
        let path = project::root().join(format!("perf/lines-{name}.svg"));
        fs::write(&path, plot.svg()? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        console::detail(format!("plot {}", path.display()));
    }
    docs::write(
        "docs/performance.md",
        &[("cargo xtask perf --lines --kvm", by_cpus(outcome))],
    )
}

/// Formats the lines of each load by the number of CPUs.
fn by_cpus(outcome: &Outcome) -> String {
    let cpus: BTreeSet<u16> = outcome.hyp.iter().map(|row| row.cpus).collect();
    let heads = |host: &str| -> String {
        let heads = cpus.iter().map(|cpus| format!(" {host} {cpus} |"));
        heads.collect()
    };
    let mut text = format!("| load |{}{}\n|---|", heads("hyp,"), heads("KVM,"));
    text += &"--:|".repeat(2 * cpus.len());
    text.push('\n');

    for load in Load::ALL.map(Load::keyword) {
        if !outcome.hyp.iter().any(|row| row.load == load) {
            continue;
        }
        let _ = write!(text, "| {load} |");
        for rows in [&outcome.hyp, &outcome.theirs] {
            for &cpus in &cpus {
                let mut rows = rows.iter();
                let row = rows.find(|row| row.load == load && row.cpus == cpus);
                let _ = match row {
                    Some(row) => write!(text, " {:.1} |", row.lines),
                    None => write!(text, " |"),
                };
            }
        }
        text.push('\n');
    }
    text
}

/// Draws the lines of each load against the number of CPUs, under hyp and under Linux KVM.
pub(crate) fn plots(outcome: &Outcome) -> [Plot; 2] {
    let curves = |rows: &[Row]| {
        let loads: BTreeSet<&str> = rows.iter().map(|row| row.load.as_str()).collect();
        let curve = |load: &str| Curve {
            name: load.to_owned(),
            points: (rows.iter().filter(|row| row.load == load))
                // The axis is logarithmic, and has no zero.
                .map(|row| (f64::from(row.cpus), row.lines.max(0.1)))
                .collect(),
        };
        loads.into_iter().map(curve).collect()
    };
    let plot = |title, rows| Plot {
        title,
        x: "CPUs",
        y: "lines of one event (0.1: none)",
        curves: curves(rows),
    };
    [
        plot("Lines between CPUs under hyp", &outcome.hyp),
        plot("Lines between CPUs under Linux KVM", &outcome.theirs),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{outcome, row};
    use super::*;

    #[test]
    fn both_tables_have_both_sides() {
        let rows = vec![row(Load::Ring, 4, 6.0), row(Load::Ring, 16, 7.0)];
        let outcome = outcome(rows, vec![row(Load::Ring, 4, 17.0)]);
        let text = results(&outcome);
        assert!(
            text.contains("| sgi-ring | 4 | 6.00 | 0.00 | 0 | 0 | 0.00 | 0.00 | 17.0 |"),
            "{text}"
        );
        let text = by_cpus(&outcome);
        assert!(
            text.contains("| sgi-ring | 6.0 | 7.0 | 17.0 | |\n"),
            "{text}"
        );
        assert!(
            text.contains("| load | hyp, 4 | hyp, 16 | KVM, 4 |"),
            "{text}"
        );
    }

    #[test]
    fn each_load_has_a_curve() {
        let rows = vec![row(Load::Ring, 2, 6.0), row(Load::One, 2, 0.0)];
        let plots = plots(&outcome(rows, Vec::new()));
        assert_eq!(plots[0].curves.len(), 2);
        assert_eq!(plots[1].svg().unwrap(), "");
    }
}
