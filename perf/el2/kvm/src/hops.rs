//! The run of a guest that asks to be saved and restored.
//!
//! The guest begins, or goes on from a file if there is one. When it asks, it is saved into the
//! file, and the run ends.

use std::fs;

use anyhow::{Context, Result, anyhow};
use kvm_state::Saved;

use crate::board::Board;
use crate::conformance::MOST_INTERRUPTS;
use crate::run::{Ended, run};
use crate::vm::{self, Machine, RAM};
use crate::{console, host_file, state, tree};

/// Bytes of the guest's RAM.
const MEMORY: u64 = 128 << 20;

/// Runs the guest in the file `path` with `vcpus` vCPUs and a command line, or the one that `file`
/// of the emulator's host has.
pub(crate) fn run_guest(path: &str, vcpus: u64, file: &str, arguments: &str) -> Result<()> {
    let mut machine = match host_file::read(file)? {
        Some(saved) => restore(&saved)?,
        None => begin(path, vcpus, arguments)?,
    };
    if run(&mut machine, &Board::default())? == Ended::PoweredOff {
        console::say("client: the guest has turned its machine off");
        return Ok(());
    }

    let saved = state::save(&machine).context("the VM cannot be saved")?;
    host_file::write(file, &saved)?;
    console::say("client: the guest has left");
    Ok(())
}

/// Makes a machine with the guest's image.
fn begin(path: &str, vcpus: u64, arguments: &str) -> Result<Machine> {
    let image = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let machine = Machine::new(vm::shape(vcpus, MOST_INTERRUPTS, 1, MEMORY))?;
    machine.load(&image, RAM)?;
    let tree = tree::describe(&machine.shape, false, arguments)?;
    machine.memory.write(0, &tree)?;
    Ok(machine)
}

/// Makes a machine of a saved state, and tells how much there is of it.
fn restore(file: &[u8]) -> Result<Machine> {
    let saved = Saved::from_file(file).map_err(|error| anyhow!("the state is {error:?}"))?;
    let machine = state::restore(&saved).context("the VM cannot be restored")?;
    let registers = saved.vcpus.iter().map(|vcpu| vcpu.registers.len());
    console::say(&format!(
        "client: restored {} attributes, {} registers, {} pages of {} bytes",
        saved.attributes.len(),
        registers.sum::<usize>(),
        saved.pages.len(),
        file.len()
    ));
    Ok(machine)
}
