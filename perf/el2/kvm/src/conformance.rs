//! The run of the conformance guest, whose console is all that anybody wants of it.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::board::Board;
use crate::run::{Ended, run};
use crate::vm::{self, Machine, RAM};
use crate::{console, tree};

/// Most INTIDs below the LPIs that KVM gives a VM: the documented 1,024 are refused.
pub(crate) const MOST_INTERRUPTS: u32 = 992;

/// Bytes of the guest's RAM.
const MEMORY: u64 = 128 << 20;

/// Runs the guest in the file `path` with `vcpus` vCPUs and a command line, to its end.
pub(crate) fn run_guest(path: &str, vcpus: u64, arguments: &str) -> Result<()> {
    let image = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let mut machine = Machine::new(vm::shape(vcpus, MOST_INTERRUPTS, 2, MEMORY))?;
    machine.load(&image, RAM)?;
    // The tree is at the start of RAM, below the image.
    let tree = tree::describe(&machine.shape, true, arguments)?;
    machine.memory.write(0, &tree)?;

    let ended = run(&mut machine, &Board::default())?;
    ensure!(ended == Ended::PoweredOff, "the guest asks for a hop");
    console::say("client: the guest has turned its machine off");
    Ok(())
}
