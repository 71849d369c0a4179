//! The comparison in Markdown: in full for `perf/RESULTS.md`, the headline figures for
//! `docs/performance.md`; and the plot, `perf/el2.svg`.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::plot;
use super::table::Outcome;
use xtask::{console, docs, project};

/// Formats the section of `perf/RESULTS.md`.
pub(crate) fn results(outcome: &Outcome) -> String {
    let mut text = format!(
        "Instructions of one event, on all CPUs together, on QEMU {} with\n`{}`,\nbeside KVM of \
         Linux {}. The columns vGIC are the part of the virtual interrupt controllers, the \
         inclusive\nones with all that is executed below their entries.\n\n\
         | event | exits, KVM | hyp | KVM | hyp | ratio | KVM's vGIC | hyp's vGIC | ratio \
         | KVM's, inclusive | hyp's, inclusive | ratio | targets |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n",
        outcome.qemu,
        outcome.flags,
        outcome.kvm.as_deref().unwrap_or("(not measured)"),
    );
    for row in &outcome.events {
        let Some(kvm) = &row.kvm else { continue };
        let missed: Vec<&str> = row.missed().collect();
        let verdict = match missed[..] {
            [] => "met".to_owned(),
            _ => format!("**missed**: {}", missed.join(", ")),
        };
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} \
             | {:.1} | {verdict} |",
            row.event,
            kvm.exits,
            row.hyp.exits,
            kvm.all.instructions,
            row.hyp.all.instructions,
            row.ratio.unwrap_or(0.0),
            kvm.vgic.instructions,
            row.hyp.vgic.instructions,
            row.vgic_ratio.unwrap_or(0.0),
            kvm.inclusive.instructions,
            row.hyp.inclusive.instructions,
            row.inclusive_ratio.unwrap_or(0.0),
        );
    }

    text += OWNERS;
    text += BOUNDS;

    text += "System-register accesses (`ICH_*` among them), `ICH_*` accesses and barriers of one \
             event, by owner:\n\n\
             | event | KVM: registers | ICH | barriers | library: registers | ICH | barriers \
             | rest of hyp: instructions | registers | barriers |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    for row in &outcome.events {
        let Some(kvm) = &row.kvm else { continue };
        let (vgic, rest) = (&row.hyp.vgic, &row.hyp.rest);
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {:.1} | {:.1} |",
            row.event,
            kvm.all.system_registers,
            kvm.all.ich_accesses,
            kvm.all.barriers,
            vgic.system_registers,
            vgic.ich_accesses,
            vgic.barriers,
            rest.instructions,
            rest.system_registers,
            rest.barriers,
        );
    }
    text
}

/// An explanation of the columns for the virtual interrupt controllers.
const OWNERS: &str = "
Of the columns vGIC: an instruction of hyp is the library's if the innermost function of this
checkout that it was inlined from is, by the debug information: locks, counters, epochs and table
walks count as the library. KVM's are told by their symbol (`vgic_*`, `kvm_vgic_*`, `__vgic_*`,
`__gic_v3_*`, `access_gic_*` and a few more, `perf/el2/names.rs`). Functions that those call
elsewhere, such as spin locks, the xarray and the bus that dispatches MMIO, have other users and are
not counted, unless they were inlined. So KVM's vGIC is counted low beside hyp's.

The inclusive columns count both sides alike: all that is executed from the entry of a vGIC's
function until its return, on any CPU, kicks, wake-ups and accesses of guest memory included.
`docs/performance.md` says where a vGIC begins, and how that is counted.

";

/// An explanation for the targets of the library's own part that are missed.
const BOUNDS: &str = "\
The bounds of the library's own part. An SGI to itself is one exit and one entry (as the
hypercall's row), a fold and prune, a raise, an insertion that is the load as well, and a write of
the list register: five atomic read-modify-writes, and the ap_list's lock taken twice, because
insertion and prune own the list's reference under it. An LPI by `INT` takes three exits and
entries, two accesses of a frame, a command that is read, decoded and checked, two table walks in
the epoch, and a fold that finds the next edge. `--profile sgi-self` and `--profile lpi` list it by
function.

";

/// Writes the plot, and the headline figures into `docs/performance.md`.
pub(crate) fn publish(outcome: &Outcome) -> Result<()> {
    let path = project::root().join("perf/el2.svg");
    fs::write(&path, plot::bars(outcome)? + "\n").context("cannot write perf/el2.svg")?;
    console::detail(format!("plot {}", path.display()));
    docs::write(
        "docs/performance.md",
        &[("cargo xtask perf --el2 --kvm", headline(outcome))],
    )
}

/// Formats the headline figures.
fn headline(outcome: &Outcome) -> String {
    let mut text = format!(
        "| event | hyp | Linux KVM {} | ratio | hyp's vGIC | KVM's vGIC | ratio |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
        xtask::kvm::RELEASE
    );
    for row in &outcome.events {
        let Some(kvm) = &row.kvm else { continue };
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} | {:.1} |",
            row.event,
            row.hyp.all.instructions,
            kvm.all.instructions,
            row.ratio.unwrap_or(0.0),
            row.hyp.inclusive.instructions,
            kvm.inclusive.instructions,
            row.inclusive_ratio.unwrap_or(0.0),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::outcome;
    use super::*;

    #[test]
    fn both_tables_have_both_sides() {
        let outcome = outcome();
        let row = headline(&outcome);
        assert!(
            row.contains("| SGI to itself | 500 | 2500 | 5.0 | 440 | 1100 | 2.5 |"),
            "{row}"
        );
        let text = results(&outcome);
        assert!(
            text.contains("| 2500 | 500 | 5.0 | 800 | 400 | 2.0 | 1100 | 440 | 2.5 |"),
            "{text}"
        );
        let missed = "**missed**: vGIC instructions <= 1/3 of KVM's, \
                      inclusive vGIC instructions <= 1/4 of KVM's";
        assert!(text.contains(missed), "{text}");
    }
}
