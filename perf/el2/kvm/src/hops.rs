//! The run of a guest that is saved and restored, each time to a new VM.

use std::fs;

use anyhow::{Context, Result, anyhow};
use kvm_state::Saved;

use crate::board::Board;
use crate::conformance::MOST_INTERRUPTS;
use crate::run::{Ended, run};
use crate::vm::{self, Machine, RAM};
use crate::{console, state, tree};

/// Bytes of the guest's RAM.
const MEMORY: u64 = 128 << 20;

/// Runs the guest in the file `path` with `vcpus` vCPUs and a command line. Whenever the guest asks
/// for a hop, its VM is saved, and a new VM goes on.
pub(crate) fn run_guest(path: &str, vcpus: u64, arguments: &str) -> Result<()> {
    let image = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let mut machine = Machine::new(vm::shape(vcpus, MOST_INTERRUPTS, 1, MEMORY))?;
    machine.load(&image, RAM)?;
    let tree = tree::describe(&machine.shape, arguments)?;
    machine.memory.write(0, &tree)?;

    let board = Board::default();
    while run(&mut machine, &board)? == Ended::Hop {
        let file = state::save(&machine).context("the VM cannot be saved")?;
        drop(machine);
        let saved = Saved::from_file(&file).map_err(|error| anyhow!("the state is {error:?}"))?;
        console::say(&format!(
            "client: {} attributes, {} registers, {} pages, {} bytes",
            saved.attributes.len(),
            saved.vcpus.iter().map(|vcpu| vcpu.registers.len()).sum::<usize>(),
            saved.pages.len(),
            file.len()
        ));
        machine = state::restore(&saved).context("the VM cannot be restored")?;
    }
    console::say("client: the guest has turned its machine off");
    Ok(())
}
