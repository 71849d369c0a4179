//! `perf/RESULTS.md`: the summary of the last run of each part, with what it was measured on.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::host::{counters, figures};
use super::peers::Peers;
use super::{Run, el2};
use xtask::{console, instructions, project};

const HEAD: &str = "# Results\n
Written by `cargo xtask perf`, which measures all of it again; each part says what it was measured on. Times
are nanoseconds of CPU time of the thread that works: a busy machine makes a run longer, not the figures
worse. Instruction counts are exact.\n";

/// The sections, in their order.
const SECTIONS: [&str; 7] = [
    "Targets on the host",
    "Loads",
    "Operations",
    "Beside the crate arm_vgic",
    "Instructions at EL2",
    "Instructions on the host",
    "The CPU's own counters",
];

/// Writes it: what this run has measured anew, the rest as it is.
pub(crate) fn write(run: &Run) -> Result<()> {
    let path = project::root().join("perf/RESULTS.md");
    let before = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, updated(&before, &sections(run))).context("cannot write perf/RESULTS.md")?;
    console::detail(format!("summary {}", path.display()));
    Ok(())
}

/// The text with these sections replaced, each a title and what is below it.
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

/// What is below a title.
fn section<'a>(text: &'a str, title: &str) -> Option<&'a str> {
    let head = format!("\n## {title}\n");
    let start = text.find(&head)? + head.len();
    let rest = &text[start..];
    Some(&rest[..rest.find("\n## ").unwrap_or(rest.len())])
}

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
    if let Some(instructions) = &run.instructions {
        add(SECTIONS[5], counts(instructions));
    }
    if let Some(counters) = &run.counters {
        add(SECTIONS[6], counters::summary(counters));
    }
    sections
}

/// How ratios of loads come about, and what bounds the one that has a bound.
const PAIRS: &str = "
Loads are compared in pairs, each 25 ms right after the other, and every second time both are made anew at other
addresses, for that alone can be worth a fifth: the median of the ratios, and between what it lies with a
confidence of 95 %. A target counts as missed when all of that is beyond it. Pairs in which a thread had to wait
for a CPU are left out; a machine that is too busy for others is called so, and threads of one load then rarely
ran at once.

Two threads at `two_loads`, bare dependent loads, are the yardstick of two at `radix`: neither writes anything, so
what is lost is the machine's, caches that are shared or a clock that falls.

In lpi_stress 1/1/1 every MSI is for the one LPI whose word the guest changes at each entry and exit, so that the
word's cache line travels between two CPUs, in 16/16/16 it is one of 256. The yardstick is `one_word`: a bare
atomic that one thread sets bits of, while another clears them, or none does. Where threads run at once, that line
is what bounds 1/1/1. What the code itself costs is among the instruction counts (`lpi_stress/.../accepted`): in
1/1/1 each new MSI also finds its vCPU with nothing pending and tells it, in 16/16/16 one of 16 does.

| one | other | ns | ns | ratio | median between | pairs |
|---|---|---:|---:|---:|---|---|
";

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
    text += "\nAn injection of a queued LPI is one atomic read-modify-write (`Irq::raise`). In the loads a thread \
             keeps one pin and\nrenews it for each MSI (`CpuPin::renew`), as one that injects in a loop does. A pin \
             of its own for each, as in the\noperation `inject_msi/pending`, adds a store and a full barrier, \
             and every 128th a look at the other CPUs' lines.\n";
    text += PAIRS;
    for (name, pair) in &host.figures.pairs {
        let (one, other) = name.split_once(" to ").unwrap_or((name, ""));
        let figures::Pair {
            ratio,
            low,
            high,
            nanoseconds,
            pairs,
            disturbed,
        } = pair;
        let [ours, others] = nanoseconds;
        let busy = if *disturbed { ", busy" } else { "" };
        let _ = writeln!(
            text,
            "| {one} | {other} | {ours:.1} | {others:.1} | {ratio:.2} | {low:.2} to {high:.2} | {pairs}{busy} |"
        );
    }
    text += "\n| bytes of the heap | |\n|---|---:|\n";
    for size in &host.figures.memory {
        let _ = writeln!(text, "| {} | {:.1} |", size.what, size.bytes);
    }
    text
}

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

fn operations(host: &figures::Outcome) -> String {
    let mut text = String::from(
        "Nanoseconds of one, the best of many batches on one thread. What stands in for another design is \
         its last name:\n`radix` is the library's table, `two_loads` the least that one of two levels can \
         cost.\n\n| operation | ns |\n|---|---:|\n",
    );
    for (name, nanoseconds) in &host.figures.operations {
        let _ = writeln!(text, "| {name} | {nanoseconds:.1} |");
    }
    text
}

fn beside(peers: &Peers) -> String {
    let mut text = format!(
        "Version {}. Nanoseconds of a thread for one MSI that was accepted. Both are driven by the same \
         threads in turns,\nwith the same devices, events, vCPUs and list registers, built alike. Where they \
         differ, the peer has less to do: it\nreads no LPI configuration of the guest, and its guest takes all \
         of its list registers at once where ours\nacknowledges and ends each interrupt on a software CPU \
         interface. Its spin locks are ours to provide: test and\nset, then wait reading. In lpi_stress 1/1/1 \
         both change one word that the guest changes too, so that the line it is\nin bounds both.\n\n| load | vgic | arm_vgic | ratio |\n|---|---:|---:|---:|\n",
        peers.arm_vgic
    );
    for (load, ours, theirs) in peers.pairs() {
        let (ours, theirs) = (ours.nanoseconds(), theirs.nanoseconds());
        let ratio = theirs / ours;
        let _ = writeln!(text, "| {load} | {ours:.1} | {theirs:.1} | {ratio:.1} |");
    }
    text
}

fn counts(instructions: &instructions::Outcome) -> String {
    let mut text = String::from(
        "Of one operation, by callgrind; `cargo xtask test` fails when one grows by more than 2 %. They \
         include\nthe software CPU interface where a guest is entered or left.\n\n\
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
    fn what_is_not_measured_stays() {
        let first = updated("", &[("Loads", "one".into()), (SECTIONS[4], "two".into())]);
        let second = updated(&first, &[("Loads", "three\n".into())]);
        assert_eq!(section(&second, "Loads").map(str::trim), Some("three"));
        assert_eq!(section(&second, SECTIONS[4]).map(str::trim), Some("two"));
        assert_eq!(section(&second, SECTIONS[0]), None);
        assert_eq!(updated(&second, &[]), second);
    }
}
