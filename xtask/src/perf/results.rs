//! `perf/RESULTS.md`: the last full run's summary, with what it was measured on.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::host::figures;
use super::host::instructions;
use super::peers::Peers;
use super::report;
use crate::{console, project};

/// Writes it, from the sections of `perf.json`: what has not been measured is left out.
pub(crate) fn write(reports: &Path) -> Result<()> {
    let path = project::root().join("perf/RESULTS.md");
    fs::write(&path, text(reports)).context("cannot write perf/RESULTS.md")?;
    console::detail(format!("summary {}", path.display()));
    Ok(())
}

fn section<T: DeserializeOwned>(reports: &Path, name: &str) -> Option<T> {
    serde_json::from_value(report::section(reports, name)?).ok()
}

fn text(reports: &Path) -> String {
    let host = section::<figures::Outcome>(reports, "host");
    let peers = section::<Peers>(reports, "peers");
    let el2 = section::<Value>(reports, "el2");
    let instructions = section::<instructions::Outcome>(reports, "instructions");
    let mut text = String::from(
        "# Results\n\nWritten by `cargo xtask perf`, which measures all of it again. Times are nanoseconds \
         of CPU time of the\nthread that works: a busy machine makes a run longer, not the figures worse. \
         Instruction counts are exact.\n\n",
    );
    if let Some(host) = &host {
        let machine = &host.machine;
        let mut line = |what: &str, value: &str| {
            let _ = writeln!(text, "* {what}: {value}");
        };
        line("commit", &machine.commit);
        line("CPU", &format!("{}, {} CPUs", machine.cpu, machine.cpus));
        line("load when it began", &machine.load);
        line("kernel", &machine.kernel);
        line("compiler", &machine.compiler);
        line("flags", &machine.flags);
        targets(&mut text, host);
        loads(&mut text, host);
    }
    if let Some(peers) = peers {
        text += &format!(
            "\n## Beside the crate arm_vgic {}\n\nNanoseconds of a thread for one MSI that was accepted, by \
             the same threads in the same run.\n\n| load | vgic | arm_vgic | ratio |\n|---|---:|---:|---:|\n",
            peers.arm_vgic
        );
        for (load, ours, theirs) in peers.pairs() {
            let (ours, theirs) = (ours.nanoseconds(), theirs.nanoseconds());
            let ratio = theirs / ours;
            let _ = writeln!(text, "| {load} | {ours:.1} | {theirs:.1} | {ratio:.1} |");
        }
    }
    if let Some(el2) = el2 {
        exits(&mut text, &el2);
    }
    if let Some(instructions) = instructions {
        text += "\n## Instructions on the host\n\nOf one operation, by callgrind; `cargo xtask test` fails \
                 when one grows by more than 2 %. They include\nthe software CPU interface where a guest is \
                 entered or left.\n\n| operation | instructions |\n|---|---:|\n";
        for row in &instructions.rows {
            let _ = writeln!(text, "| {} | {:.1} |", row.operation, row.instructions);
        }
    }
    text
}

fn targets(text: &mut String, host: &figures::Outcome) {
    *text += "\n## Targets on the host\n\n| what | target | measured | |\n|---|---|---|---|\n";
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
    *text += "\nAn injection of a queued LPI is one atomic read-modify-write (`Irq::raise`); a CPU that is \
              not pinned yet\nadds the store and fence of its pin, which the times above include.\n\nIn lpi_stress 1/1/1 the device and \
              the guest share the line of the one LPI, in 16/16/16 they mostly do not; runs\ndiffer by 3 % \
              either way.\n";
    *text += "\n| bytes of the heap | |\n|---|---:|\n";
    for size in &host.figures.memory {
        let _ = writeln!(text, "| {} | {:.1} |", size.what, size.bytes);
    }
}

fn loads(text: &mut String, host: &figures::Outcome) {
    *text += "\n## Loads\n\nMillions for each second of the threads' CPU time, all threads of a kind \
              together.\n\n| load | threads | accepted | delivered |\n|---|---:|---:|---:|\n";
    for (name, rates) in &host.figures.loads {
        let (accepted, delivered) = (rates.accepted / 1e6, rates.delivered / 1e6);
        let delivered = if delivered > 0.0 {
            format!("{delivered:.2}")
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "| {name} | {} | {accepted:.1} | {delivered} |",
            rates.threads
        );
    }
}

/// The comparison with KVM, from its section of `perf.json`.
fn exits(text: &mut String, el2: &Value) {
    let Some(events) = el2["events"].as_array() else {
        return;
    };
    let _ = writeln!(
        text,
        "\n## Instructions at EL2\n\nOf one event, on all CPUs together, on QEMU {} with `{}`, beside \
         KVM of Linux {}.\n\n| event | exits | KVM | hyp | ratio | missed |\n|---|---:|---:|---:|---:|---|",
        el2["qemu"].as_str().unwrap_or("?"),
        el2["flags"].as_str().unwrap_or("?"),
        el2["kvm"].as_str().unwrap_or("(not measured)"),
    );
    for event in events {
        let number = |value: &Value, digits: usize| {
            value
                .as_f64()
                .map_or(String::new(), |value| format!("{value:.digits$}"))
        };
        let missed: Vec<&str> = event["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|target| target["met"] == false)
            .filter_map(|target| target["what"].as_str())
            .collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            event["event"].as_str().unwrap_or("?"),
            number(&event["hyp"]["exits"], 1),
            number(&event["kvm"]["instructions"], 0),
            number(&event["hyp"]["instructions"], 0),
            number(&event["ratio"], 1),
            missed.join(", ")
        );
    }
}
