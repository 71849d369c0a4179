//! The run of the conformance guest, whose console is all that anybody wants of it.

use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use crate::board::Board;
use crate::tree;
use crate::vm::{Machine, RAM, Shape};

/// The longest time between two lines of the guest's console. Every wait of a case is shorter.
const PATIENCE: Duration = Duration::from_secs(40);

/// Most INTIDs below the LPIs that KVM gives a VM: the documented 1,024 are refused.
const MOST_INTERRUPTS: u32 = 992;

/// News of the guest: a line on its console, or its end.
type News = Option<Result<()>>;

/// Runs the guest in the file `path` with `vcpus` vCPUs and a command line, to its end.
pub(crate) fn run(path: &str, vcpus: u64, arguments: &str) -> Result<()> {
    let image = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let shape = Shape {
        vcpus,
        interrupts: MOST_INTERRUPTS,
        itses: 2,
        ram: 128 << 20,
    };
    // The tree is at the start of RAM, below the image.
    let machine = Machine::new(&shape, &image, RAM)?;
    machine.memory.write(0, &tree::describe(&shape, arguments)?)?;

    // The threads stay for ever: some vCPUs do not leave the kernel when the machine is turned off.
    let Machine { vm, vcpus, .. } = Box::leak(Box::new(machine));
    let (vm, board) = (&*vm, &*Box::leak(Box::<Board>::default()));
    let (news, comes) = mpsc::channel();
    for vcpu in vcpus {
        let news = news.clone();
        thread::spawn(move || {
            let ended = run_vcpu(vcpu, vm, board, &news);
            // Nobody listens any more if another vCPU has ended the run.
            let _ = news.send(Some(ended));
        });
    }

    loop {
        match comes.recv_timeout(PATIENCE) {
            Ok(Some(ended)) => return ended,
            Ok(None) => {}
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest has been silent for {} s", PATIENCE.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => bail!("no vCPU runs"),
        }
    }
}

/// Runs a vCPU until the guest turns its machine off.
fn run_vcpu(vcpu: &mut VcpuFd, vm: &VmFd, board: &Board, news: &Sender<News>) -> Result<()> {
    loop {
        match vcpu.run()? {
            VcpuExit::MmioRead(address, bytes) => board.read(address, bytes)?,
            VcpuExit::MmioWrite(address, bytes) => {
                if board.write(vm, address, bytes)?.is_some() {
                    let _ = news.send(None);
                }
            }
            VcpuExit::SystemEvent(..) => return Ok(()),
            VcpuExit::Intr => {}
            other => bail!("unexpected exit {other:?}"),
        }
    }
}
