//! MSIs through this and another published virtual GIC in one run, by `perf/peers`.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::host::figures::Rates;
use xtask::process::{self, Show};
use xtask::provision::toolchain::cargo;
use xtask::{console, project};

/// The program's figures: loads by name, the last part of which is the virtual GIC's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Peers {
    pub(crate) arm_vgic: String,
    pub(crate) loads: BTreeMap<String, Rates>,
}

impl Peers {
    /// Lists the loads that both did, with the rates of vgic and of arm_vgic.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &Rates, &Rates)> {
        self.loads.iter().filter_map(|(name, ours)| {
            let load = name.strip_suffix("/vgic")?;
            let theirs = self.loads.get(&format!("{load}/arm_vgic"))?;
            Some((load, ours, theirs))
        })
    }

    /// Works out arm_vgic's nanoseconds for one of vgic's.
    pub(crate) fn ratio(&self, load: &str) -> Option<f64> {
        self.pairs()
            .find(|(name, ..)| *name == load)
            .map(|(_, ours, theirs)| theirs.nanoseconds() / ours.nanoseconds())
    }
}

/// Builds and runs the program, for about `seconds`.
pub(crate) fn measure(threads: usize, seconds: u64) -> Result<Peers> {
    console::step("Building the peers");
    let place = project::root().join("target/peers");
    let folder = project::root().join("perf/peers");
    let mut command = cargo("build");
    command
        .arg("--release")
        .current_dir(&folder)
        // The peer needs features that are not stable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &place);
    process::run(&mut command, Show::Lines)?;

    console::step(format!("The same work by each, about {seconds} s"));
    let mut command = Command::new(place.join("release/perf-peers"));
    command.args([threads.to_string(), seconds.to_string()]);
    let printed = process::run(&mut command, Show::OnFailure)?;
    let peers: Peers = serde_json::from_str(&printed).context("the peers' figures")?;
    console::say(&format!(
        "{:<58} {:>8} {:>10} {:>7}",
        "ns of a thread for one MSI", "vgic", "arm_vgic", "ratio"
    ));
    for (load, ours, theirs) in peers.pairs() {
        let (ours, theirs) = (ours.nanoseconds(), theirs.nanoseconds());
        console::say(&format!(
            "{load:<58} {ours:>8.1} {theirs:>10.1} {:>6.1}x",
            theirs / ours
        ));
    }
    Ok(peers)
}
