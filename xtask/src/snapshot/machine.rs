//! The emulated machine, as QEMU's command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::SnapshotOptions;
use super::guest::Guest;
use super::life::{NAME, Purpose};
use crate::boot::machine::module_address;
use crate::provision::qemu::{Board, Qemu};

/// The machine's RAM beyond the VM's, in MiB: the hypervisor's, and room for the images that QEMU
/// loads.
const BESIDE: u32 = 320;

/// Words of the kernel: a panic at its first warning, which ends the VM.
const WORDS: &str = "console=ttyAMA0 earlycon panic=-1 panic_on_warn=1 oops=panic";

/// A thread for each CPU.
pub(super) const PARALLEL: [&str; 2] = ["-accel", "tcg,thread=multi"];

/// An instruction a nanosecond.
pub(super) const COUNTED: [&str; 4] = ["-accel", "tcg", "-icount", "shift=0,sleep=off"];

/// The machine, but for what differs from life to life.
#[derive(Clone, Copy)]
pub(super) struct Machine<'a> {
    pub(super) qemu: &'a Qemu,
    pub(super) hypervisor: &'a Path,
    pub(super) guest: &'a Guest,
    pub(super) options: &'a SnapshotOptions,
    /// QEMU's arguments for how it runs the CPUs.
    pub(super) accelerator: &'a [&'a str],
    /// The snapshot.
    pub(super) file: &'a Path,
    /// The file that the VM comes from, if it is awaited.
    pub(super) incoming: Option<&'a Path>,
}

impl Machine<'_> {
    /// Returns the command that starts the machine with so many CPUs.
    pub(super) fn command(&self, cpus: u16, purpose: Purpose) -> Result<Command> {
        let SnapshotOptions {
            vcpus, memory, cpu, ..
        } = self.options;
        let mut command = self.qemu.board(&Board {
            gic: 3,
            options: "virtualization=on",
            cpu,
            cpus,
        })?;
        command
            .args(self.accelerator)
            .args(["-m", &format!("{}M", memory + BESIDE)])
            .args(["-serial", "stdio", "-monitor", "none"])
            // The channel to the snapshot.
            .args(["-semihosting-config", "enable=on,target=native"])
            .arg("-kernel")
            .arg(self.hypervisor)
            .arg("-initrd")
            .arg(&self.guest.initrd);
        if purpose == Purpose::Save {
            // It ends by being killed, and not by the hypervisor's last call.
            command.arg("-no-shutdown");
        }

        let address = module_address(fs::metadata(&self.guest.initrd)?.len());
        let kernel = self.guest.kernel.display();
        let file = self.file.display();
        let incoming = self
            .incoming
            .map(|path| format!(" hyp.incoming={}", path.display()));
        command.arg("-device").arg(format!(
            "guest-loader,addr={address:#x},kernel={kernel},bootargs={WORDS} hyp.name={NAME} \
             hyp.vcpus={vcpus} hyp.memory={memory} hyp.rng hyp.snapshot={file}{}",
            incoming.unwrap_or_default()
        ));
        Ok(command)
    }
}
