//! `perf/RESULTS.md`: the summary of the last run of each part, with the machine that it was
//! measured on.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::host::{counters, figures};
use super::peers::Peers;
use super::{Run, el2, lines};
use xtask::{console, instructions, project};

const HEAD: &str = "# Results\n
Written by `cargo xtask perf`, which measures everything again; each part names the machine and the
commit that it was measured on. Times are nanoseconds of CPU time of the thread that works: a busy
machine makes a run longer, not the figures worse. Instruction counts are exact.\n";

/// The sections, in their order.
const SECTIONS: [&str; 9] = [
    "Targets on the host",
    "Loads",
    "Operations",
    "Beside the crate arm_vgic",
    "Instructions at EL2",
    "Instructions on the host",
    "The CPU's own counters",
    "Cache lines between CPUs",
    "Direct injection",
];

/// Writes the file: sections that this run has measured anew, the rest as it is.
pub(crate) fn write(run: &Run) -> Result<()> {
    let path = project::root().join("perf/RESULTS.md");
    let before = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, updated(&before, &sections(run))).context("cannot write perf/RESULTS.md")?;
    console::detail(format!("summary {}", path.display()));
    Ok(())
}

/// Replaces sections in a text, each a title and its body.
fn updated(before: &str, sections: &[(&str, String)]) -> String {
    let mut text = HEAD.to_owned();
    for title in SECTIONS {
        let new = sections.iter().find(|(name, _)| *name == title);
        let old = || section(before, title);
        if let Some(body) = new.map(|(_, body)| body.as_str()).or_else(old) {
            let _ = write!(text, "\n## {title}\n\n{}\n", body.trim());
        }
    }
    text
}

/// Finds the body below a title.
fn section<'a>(text: &'a str, title: &str) -> Option<&'a str> {
    let head = format!("\n## {title}\n");
    let start = text.find(&head)? + head.len();
    let rest = &text[start..];
    Some(&rest[..rest.find("\n## ").unwrap_or(rest.len())])
}

/// Formats the sections that a run has measured.
fn sections(run: &Run) -> Vec<(&'static str, String)> {
    let line = run.machine.line();
    let mut sections = Vec::new();
    let mut add = |title, body: String| sections.push((title, format!("{line}\n\n{body}")));
    if let Some(host) = &run.host {
        add(SECTIONS[0], targets(host));
        add(SECTIONS[1], loads(host));
        add(SECTIONS[2], operations(host));
    }
    if let Some(peers) = &run.peers {
        add(SECTIONS[3], beside(peers));
    }
    if let Some(el2) = run.el2.as_ref().filter(|el2| el2.kvm.is_some()) {
        add(SECTIONS[4], el2::summary::results(el2));
    }
    if let Some(direct) = run.direct.as_ref().filter(|direct| direct.kvm.is_some()) {
        add(SECTIONS[8], el2::direct::results(direct));
    }
    if let Some(instructions) = &run.instructions {
        add(SECTIONS[5], counts(instructions));
    }
    if let Some(counters) = &run.counters {
        add(SECTIONS[6], counters::summary(counters));
    }
    if let Some(outcome) = run.lines.as_ref().filter(|lines| lines.kvm.is_some()) {
        add(SECTIONS[7], lines::summary::results(outcome));
    }
    sections
}

/// An explanation of the ratios of loads, and of the bound of one.
const PAIRS: &str = "
Loads are compared in pairs, 25 ms of one right after 25 ms of the other. Every second time both are
made anew at other addresses: that alone can be worth a fifth. The figure is the median of the
ratios, with the interval that holds it with a confidence of 95 %. A target counts as missed when
the whole interval is beyond it. Pairs in which a thread had to wait for a CPU are left out. On a
machine that is called busy there were too few others: threads of one load rarely ran at once.

Two threads at `two_loads`, bare dependent loads, are the yardstick of two threads at `radix`:
neither writes anything, so a loss is the machine's, by shared caches or a falling clock.

In lpi_stress 1/1/1 every MSI is for the one LPI whose word the guest changes at each entry and
exit, so that the word's cache line travels between two CPUs; in 16/16/16 it is one of 256. The
yardstick is `one_word`: a bare atomic whose bits one thread sets, while another clears them, or
none does. The columns \"per delivery\" hold the number of operations that are accepted for one that
the guest takes, or for a visit to `one_word`.

A core decides how long it keeps a line that another wants. On an Intel Xeon the bare atomic's line
travels so often that its 35 ns bound 1/1/1. A Zen 3 core keeps it for some 40 operations of 3 ns:
the ratio there compares an atomic operation with an injection, which alone costs five of them
(`inject_msi`, one thread). The lines are then seen in the time of a delivery: a visit to `one_word`
costs 90 ns more than the same operations alone, one line there and back, and a delivery in 1/1/1
240 ns, two lines, the LPI's word and the vCPU's.

The code's own cost is among the instruction counts (`lpi_stress/.../accepted`): in 1/1/1 each new
MSI also finds its vCPU with nothing pending and tells it, in 16/16/16 one of 16 does.

| one | other | ns | ns | ratio | median between | per delivery | per delivery | pairs |
|---|---|---:|---:|---:|---|---:|---:|---|
";

/// Formats the targets, the pairs and the sizes.
fn targets(host: &figures::Outcome) -> String {
    let mut text = String::from("| what | target | measured | |\n|---|---|---|---|\n");
    for target in &host.targets {
        let verdict = if target.met { "met" } else { "**missed**" };
        let figures::Target {
            what,
            target,
            measured,
            ..
        } = target;
        let _ = writeln!(text, "| {what} | {target} | {measured} | {verdict} |");
    }

    text += "\nAn injection of a queued LPI is one atomic read-modify-write (`Irq::raise`). In the \
             loads a thread keeps\none pin and renews it for each MSI (`CpuPin::renew`), as one \
             that injects in a loop does. A pin of its own\nfor each, as in the operation \
             `inject_msi/pending`, adds a store and a full barrier, and every 128th pin a\nlook at \
             the other CPUs' lines.\n";
    text += PAIRS;
    for (name, pair) in &host.figures.pairs {
        let (one, other) = name.split_once(" to ").unwrap_or((name, ""));
        let figures::Pair {
            ratio,
            low,
            high,
            nanoseconds,
            accepted_for_one,
            pairs,
            disturbed,
        } = pair;
        let [ours, others] = nanoseconds;
        let [batch, others_batch] = accepted_for_one.map(|accepted| match accepted {
            0.0 => "-".to_owned(),
            accepted => format!("{accepted:.0}"),
        });
        let busy = if *disturbed { ", busy" } else { "" };
        let _ = writeln!(
            text,
            "| {one} | {other} | {ours:.1} | {others:.1} | {ratio:.2} | {low:.2} to {high:.2} \
             | {batch} | {others_batch} | {pairs}{busy} |"
        );
    }

    text += "\n| bytes of the heap | |\n|---|---:|\n";
    for size in &host.figures.memory {
        let _ = writeln!(text, "| {} | {:.1} |", size.what, size.bytes);
    }
    text
}

/// Formats the rates of the loads.
fn loads(host: &figures::Outcome) -> String {
    let mut text = String::from(
        "Millions for each second of the threads' CPU time, all threads of a kind together.\n\n\
         | load | threads | accepted | delivered |\n|---|---:|---:|---:|\n",
    );
    for (name, rates) in &host.figures.loads {
        let (accepted, delivered) = (rates.accepted / 1e6, rates.delivered / 1e6);
        let delivered = if delivered > 0.0 {
            format!("{delivered:.2}")
        } else {
            String::new()
        };
        let threads = rates.threads;
        let _ = writeln!(text, "| {name} | {threads} | {accepted:.1} | {delivered} |");
    }
    text
}

/// Formats the times of the operations.
fn operations(host: &figures::Outcome) -> String {
    let mut text = String::from(
        "Nanoseconds of one operation, the best of many batches on one thread. The last part of a \
         name is the design:\n`radix` is the library's table, `two_loads` the least that a table \
         of two levels can cost.\n\n| operation | ns |\n|---|---:|\n",
    );
    for (name, nanoseconds) in &host.figures.operations {
        let _ = writeln!(text, "| {name} | {nanoseconds:.1} |");
    }
    text
}

/// Formats the comparison with the peer.
fn beside(peers: &Peers) -> String {
    let mut text = format!(
        "Version {}. Nanoseconds of a thread for one MSI that was accepted. Both are driven by the \
         same threads in turns,\nwith the same devices, events, vCPUs and list registers, built \
         alike. The peer has less to do in two respects: it\nreads no LPI configuration of the \
         guest, and its guest takes all of its list registers at once, while vgic's\nacknowledges \
         and ends each interrupt on a software CPU interface. The benchmark provides the peer's \
         spin locks:\ntest and set, then wait reading. In lpi_stress 1/1/1 both change one word \
         that the guest changes too, so that its\ncache line bounds both.\n\n\
         | load | vgic | arm_vgic | ratio |\n|---|---:|---:|---:|\n",
        peers.arm_vgic
    );
    for (load, ours, theirs) in peers.pairs() {
        let (ours, theirs) = (ours.nanoseconds(), theirs.nanoseconds());
        let ratio = theirs / ours;
        let _ = writeln!(text, "| {load} | {ours:.1} | {theirs:.1} | {ratio:.1} |");
    }
    text
}

/// Formats the instruction counts.
fn counts(instructions: &instructions::Outcome) -> String {
    let mut text = String::from(
        "Instructions of one operation, by callgrind; `cargo xtask test` fails when a count grows \
         by more than 2 %. They\ninclude the software CPU interface if a guest is entered or \
         left.\n\n\
         | operation | instructions |\n|---|---:|\n",
    );
    for row in &instructions.rows {
        let _ = writeln!(text, "| {} | {:.1} |", row.operation, row.instructions);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_is_not_measured_stays() {
        let first = updated("", &[("Loads", "one".into()), (SECTIONS[4], "two".into())]);
        let second = updated(&first, &[("Loads", "three\n".into())]);
        assert_eq!(section(&second, "Loads").map(str::trim), Some("three"));
        assert_eq!(section(&second, SECTIONS[4]).map(str::trim), Some("two"));
        assert_eq!(section(&second, SECTIONS[0]), None);
        assert_eq!(updated(&second, &[]), second);
    }
}
