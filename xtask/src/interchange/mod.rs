//! `cargo xtask migrate --kvm`: a guest moves between Linux KVM and the hypervisor, and holds its
//! whole interrupt controller against before.
//!
//! The guest is the one that tests the controller (`hyp/guests/conformance`), which asks to be
//! saved and restored. It moves in the form of KVM's device attributes (`hyp/kvm-state`), in a file
//! of the host's: each machine ends when it has written the file, and the next begins with it.

mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_core::{Serialize, Serializer};

use crate::boot::guest;
use crate::boot::hypervisor;
use crate::boot::run::{self, Run};
use crate::boot::{BootOptions, Kernel, machine, part};
use crate::conformance::{self, Suite};
use crate::kvm::Host;
use crate::provision::qemu::{self, Board, Qemu};
use crate::snapshot::MigrateOptions;
use crate::{console, project};
use verdict::{Leg, Verdict};

/// vCPUs of the guest: one for each role.
const VCPUS: u16 = 4;

/// The guest's RAM in MiB, as the client of /dev/kvm gives it.
const MEMORY: u32 = 128;

/// RAM of the machine with Linux, in MiB.
const LINUX_MEMORY: u32 = 1024;

/// Longest life of a machine.
const LIMIT: Duration = Duration::from_secs(180);

/// A hypervisor that the guest is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Hyp,
    Kvm,
}

impl Place {
    /// Returns its name in reports.
    const fn name(self) -> &'static str {
        match self {
            Self::Hyp => "hyp",
            Self::Kvm => "KVM",
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.name().serialize(serializer)
    }
}

/// The programs, and the file that the guest moves in.
struct Bench<'a> {
    qemu: Qemu,
    options: &'a MigrateOptions,
    guest: PathBuf,
    hypervisor: PathBuf,
    /// The machine with Linux, if one is wanted.
    linux: Option<Host>,
    file: PathBuf,
    scratch: &'a Path,
}

/// Moves the guest, and tells whether every hop is as it has to be. If both alternate, KVM comes
/// first.
pub(crate) fn interchange(options: &MigrateOptions, reports: &Path) -> Result<bool> {
    console::step("Preparing");
    let scratch = project::scratch()?;
    let qemu = qemu::provide()?;
    let guest = conformance::build(Suite::V3, scratch.path())?;
    let linux = match options.alone {
        Some(Place::Hyp) => None,
        _ => Some(Host::new(&guest, scratch.path())?),
    };
    let bench = Bench {
        qemu,
        options,
        hypervisor: hypervisor::build(scratch.path())?,
        linux,
        file: scratch.path().join("state"),
        guest,
        scratch: scratch.path(),
    };
    let path = project::begin_report(reports, "interchange.json")?;

    let (mut legs, mut consoles) = (Vec::new(), String::new());
    for number in 0..=options.hops {
        let place = options.alone.unwrap_or(match number % 2 {
            0 => Place::Kvm,
            _ => Place::Hyp,
        });
        let (leg, lines) = bench.run(number, place, reports)?;
        consoles.push_str(&format!("==> {number}: {}\n{lines}", place.name()));
        leg.print();
        let is_good = leg.is_good();
        legs.push(leg);
        if !is_good {
            break;
        }
    }
    let log = reports.join("interchange.log");
    fs::write(&log, consoles)?;

    let verdict = Verdict::new(options.hops, legs);
    verdict.print();
    let json = serde_json::to_string_pretty(&verdict)?;
    fs::write(&path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!(
        "report {}, consoles {}",
        path.display(),
        log.display()
    ));
    Ok(verdict.passed)
}

impl Bench<'_> {
    /// Runs machine number `number`, and returns its part and its console.
    fn run(&self, number: u32, place: Place, reports: &Path) -> Result<(Leg, String)> {
        let words = format!("hops={}", self.options.hops);
        let mut command = match (&self.linux, place) {
            (Some(linux), Place::Kvm) => self.linux_machine(linux, &words)?,
            // Each machine has another number of CPUs.
            _ => self.hyp_machine(1 + (number % u32::from(VCPUS)) as u16, &words)?,
        };
        let log = reports.join("interchange.part");
        let run: Run = run::observed(&mut command, &log, LIMIT, |_| {})?;
        let console = fs::read_to_string(&log).unwrap_or_default();
        fs::remove_file(&log)?;

        let ended = run.ended.clone();
        let lines = part::named_lines(run.lines);
        let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
        let is_last = number == self.options.hops;
        Ok((Leg::read(number, place, is_last, &ended, &texts), console))
    }

    /// Returns the command that starts a machine with Linux, whose KVM runs the guest.
    fn linux_machine(&self, linux: &Host, words: &str) -> Result<Command> {
        let mut command = self.qemu.board(&Board {
            gic: 3,
            options: "virtualization=on",
            cpu: &self.options.linux.cpu,
            cpus: VCPUS,
        })?;
        command
            .args(["-accel", "tcg,thread=multi"])
            .args(["-m", &format!("{LINUX_MEMORY}M")])
            .args(["-serial", "stdio", "-monitor", "none"])
            .args([
                "-semihosting-config",
                "enable=on,target=native,userspace=on",
            ]);
        let file = self.file.display();
        linux.boot(&mut command, &format!("hops {VCPUS} {file} {words}"));
        Ok(command)
    }

    /// Returns the command that starts a machine with so many CPUs and the hypervisor, one of whose
    /// VMs is the guest's.
    fn hyp_machine(&self, cpus: u16, words: &str) -> Result<Command> {
        let options = BootOptions {
            vcpus: VCPUS,
            cpus: Some(cpus),
            kernel: Kernel::Image(self.guest.clone()),
            append: Some(format!("{words} hyp.kvm={}", self.file.display())),
            cpu: self.options.linux.cpu.clone(),
            memory: Some(MEMORY),
            no_iommu: true,
            qemu: ["-semihosting-config", "enable=on,target=native"]
                .map(str::to_owned)
                .to_vec(),
            ..BootOptions::default()
        };
        let guest = guest::prepare(&options, self.scratch)?;
        let wiring = machine::Console::Output;
        machine::command(&self.qemu, &options, &guest, Some(&self.hypervisor), wiring)
    }
}
