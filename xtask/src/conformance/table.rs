//! The tables of `docs/conformance.md`: the outcomes by group of cases, and the cases that other
//! GICs are known to fail.
//!
//! A run writes the columns of the machines that it had, and leaves the others as they were last
//! written. A cell that was written for another number of cases is left out.

use std::fmt::Write as _;

use super::Place;
use super::report::{Report, Row};
use super::tap::Outcome;

/// The cells before the columns of the machines: the group, and the number of its cases.
const BEFORE: usize = 2;

/// A cell of a machine that the group's cases did not run on.
const NOTHING: &str = "";

/// Formats a table of the case groups in Markdown, with a column for each place. `last` is the text
/// of the last one.
pub(super) fn groups(report: &Report, places: &[Place], last: &str) -> String {
    let last: Vec<Vec<&str>> = last.lines().filter_map(cells).collect();
    let mut names = Vec::new();
    for group in report.cases.iter().map(Row::group) {
        if !names.contains(&group) {
            names.push(group);
        }
    }

    let heading = |column: usize| match places[column] {
        Place::Hyp | Place::Counted | Place::Saved => "under hyp".to_owned(),
        Place::Qemu => format!("on the GIC of QEMU {}", report.qemu),
        Place::Kvm => match (&report.linux, last.first()) {
            (Some(linux), _) => format!("under KVM of Linux {linux}"),
            (None, Some(cells)) if cells.len() > BEFORE + column => {
                cells[BEFORE + column].to_owned()
            }
            _ => "under Linux KVM".to_owned(),
        },
    };
    let headings: Vec<_> = (0..places.len()).map(heading).collect();
    let mut text = format!(
        "| group | cases | {} |\n|---|--:|{}\n",
        headings.join(" | "),
        "---|".repeat(places.len())
    );

    let mut row = |name: &str, cases: &[&Row]| {
        let count = cases.len().to_string();
        let before = (last.iter()).find(|cells| cells.starts_with(&[name, count.as_str()]));
        let columns = places.iter().enumerate().map(|(column, place)| {
            let kept = || before.and_then(|cells| cells.get(BEFORE + column).copied());
            match report.has_run(*place) {
                true => outcomes(cases, *place),
                false => kept().unwrap_or(NOTHING).to_owned(),
            }
        });
        let columns: Vec<_> = columns.collect();
        let _ = writeln!(text, "| {name} | {count} | {} |", columns.join(" | "));
    };
    for group in names {
        let cases = report.cases.iter().filter(|row| row.group() == group);
        row(&format!("`{group}`"), &cases.collect::<Vec<_>>());
    }
    row("all", &report.cases.iter().collect::<Vec<_>>());
    text
}

/// Formats a table of the cases that other GICs are known to fail, in Markdown.
pub(super) fn deviations(report: &Report) -> String {
    let mut text = "| case | rule | GIC | deviation |\n|---|---|---|---|\n".to_owned();
    for row in &report.cases {
        for (place, name) in [(Place::Qemu, "QEMU"), (Place::Kvm, "KVM")] {
            if let Some(reason) = row.deviations.at(place) {
                let (case, rule) = (&row.name, &row.rule);
                let _ = writeln!(text, "| `{case}` | {rule} | {name} | {reason} |");
            }
        }
    }
    text
}

/// Cuts a row of a table into its cells.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// Describes the outcomes of cases at a place: `12 passed, 1 failed`.
fn outcomes(cases: &[&Row], place: Place) -> String {
    let count = |is: fn(&Outcome) -> bool| {
        let outcomes = cases.iter().filter_map(|row| row.outcomes.get(&place));
        outcomes.filter(|outcome| is(outcome)).count()
    };
    let counts = [
        (count(|outcome| *outcome == Outcome::Pass), "passed"),
        (
            count(|outcome| matches!(outcome, Outcome::Fail(_))),
            "failed",
        ),
        (
            count(|outcome| matches!(outcome, Outcome::Skip(_))),
            "skipped",
        ),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let texts: Vec<_> = counts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Suite;
    use super::super::report::OnMachine;
    use super::*;
    use crate::boot::run::Ended;

    fn report(linux: Option<&str>, runs: &[(Place, &[&str])]) -> Report {
        let runs = runs.iter().map(|(place, lines)| {
            OnMachine::read(*place, 4, Ended::PoweredOff, Duration::ZERO, lines)
        });
        Report::new("10.0".to_owned(), linux.map(str::to_owned), runs.collect())
    }

    /// Formats the table of the cases of a GICv3.
    fn groups(report: &Report, last: &str) -> String {
        super::groups(report, Suite::V3.columns(), last)
    }

    const HYP: [&str; 4] = [
        "1..3",
        "ok 1 - sgi.all [R]",
        "ok 2 - its.a [R]",
        "ok 3 - its.b [S] {QEMU: why} {KVM: so}",
    ];
    const QEMU: [&str; 4] = [
        "1..3",
        "ok 1 - sgi.all [R] # SKIP one CPU",
        "ok 2 - its.a [R]",
        "not ok 3 - its.b [S] {QEMU: why} {KVM: so}",
    ];

    #[test]
    fn the_table_has_a_row_for_each_group() {
        let table = groups(
            &report(None, &[(Place::Hyp, &HYP), (Place::Qemu, &QEMU)]),
            "",
        );
        let rows: Vec<_> = table.lines().collect();
        assert_eq!(
            rows,
            [
                "| group | cases | under hyp | on the GIC of QEMU 10.0 | under Linux KVM |",
                "|---|--:|---|---|---|",
                "| `sgi` | 1 | 1 passed | 1 skipped |  |",
                "| `its` | 2 | 2 passed | 1 passed, 1 failed |  |",
                "| all | 3 | 3 passed | 1 passed, 1 failed, 1 skipped |  |",
            ]
        );
    }

    #[test]
    fn a_column_without_a_run_is_kept_while_the_number_of_cases_is() {
        let first = groups(&report(Some("6.12"), &[(Place::Kvm, &QEMU)]), "");
        let both = report(None, &[(Place::Hyp, &HYP), (Place::Qemu, &QEMU)]);
        let table = groups(&both, &first);
        let rows: Vec<_> = table.lines().collect();
        assert!(rows[0].ends_with("| under KVM of Linux 6.12 |"), "{table}");
        assert_eq!(rows[2], "| `sgi` | 1 | 1 passed | 1 skipped | 1 skipped |");
        assert!(rows[3].ends_with("| 1 passed, 1 failed |"), "{table}");
        assert_eq!(groups(&both, &table), table);

        let mut more = HYP.to_vec();
        more.push("ok 4 - sgi.more [R]");
        let table = groups(&report(None, &[(Place::Hyp, &more)]), &table);
        let rows: Vec<_> = table.lines().collect();
        assert_eq!(rows[2], "| `sgi` | 2 | 2 passed |  |  |");
        assert!(rows[3].ends_with("| 1 passed, 1 failed |"), "{table}");
    }

    #[test]
    fn a_gicv2_has_no_column_of_kvm() {
        let both = report(None, &[(Place::Hyp, &HYP), (Place::Qemu, &QEMU)]);
        let table = super::groups(&both, Suite::V2.columns(), "");
        let rows: Vec<_> = table.lines().collect();
        assert!(
            rows[0].ends_with("| under hyp | on the GIC of QEMU 10.0 |"),
            "{table}"
        );
        assert_eq!(rows[1], "|---|--:|---|---|");
        assert_eq!(rows[2], "| `sgi` | 1 | 1 passed | 1 skipped |");
    }

    #[test]
    fn a_deviation_is_listed_with_its_rule_and_its_gic() {
        let table = deviations(&report(None, &[(Place::Hyp, &HYP)]));
        let rows: Vec<_> = table.lines().skip(2).collect();
        let expected = ["| `its.b` | S | QEMU | why |", "| `its.b` | S | KVM | so |"];
        assert_eq!(rows, expected);
    }
}
