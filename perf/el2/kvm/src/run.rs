//! A run of a machine: a thread for each vCPU, until the guest turns the machine off, asks for
//! something, or is silent for too long.
//!
//! When a run ends, all vCPUs have left the kernel, and the access that made a vCPU leave is
//! complete: the machine can be saved, or run again.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use crate::board::{Board, Effect};
use crate::system::Thread;
use crate::vm::Machine;

/// The longest time between two lines of the guest's console. Every wait of a guest is shorter.
const PATIENCE: Duration = Duration::from_secs(40);

/// Time between two kicks of a thread. A kick that comes just before `KVM_RUN` is lost.
const AGAIN: Duration = Duration::from_millis(1);

/// End of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The guest turned its machine off.
    PoweredOff,
    /// The guest asks for a hop.
    Hop,
}

/// News of the guest.
enum News {
    /// A vCPU has begun on this thread.
    Begun(Thread),
    /// A line on the console.
    Line,
    /// An end.
    Ended(Result<Ended>),
}

/// Runs a machine with its devices.
pub(crate) fn run(machine: &mut Machine, board: &Board) -> Result<Ended> {
    let stop = AtomicBool::new(false);
    let (news, comes) = mpsc::channel();
    let vm = &machine.vm;
    thread::scope(|scope| {
        let threads: Vec<_> = (machine.vcpus.iter_mut())
            .map(|vcpu| {
                let (news, stop) = (news.clone(), &stop);
                scope.spawn(move || {
                    // The receiver lives until all threads have ended.
                    let _ = news.send(News::Begun(Thread::current()));
                    let ended = run_vcpu(vcpu, vm, board, stop, &news).transpose();
                    ended.map(|ended| news.send(News::Ended(ended)))
                })
            })
            .collect();
        let mut begun = Vec::new();
        let ended = wait(&comes, &mut begun);

        stop.store(true, Relaxed);
        while !threads.iter().all(|thread| thread.is_finished()) {
            begun.extend(comes.try_iter().filter_map(|news| match news {
                News::Begun(thread) => Some(thread),
                News::Line | News::Ended(_) => None,
            }));
            begun.iter().for_each(|thread| thread.kick());
            thread::sleep(AGAIN);
        }
        ended
    })
}

/// Waits for the end, and collects the threads that have begun.
fn wait(comes: &Receiver<News>, begun: &mut Vec<Thread>) -> Result<Ended> {
    loop {
        let news = comes.recv_timeout(PATIENCE);
        match news.with_context(|| format!("the guest is silent for {PATIENCE:?}"))? {
            News::Begun(thread) => begun.push(thread),
            News::Line => {}
            News::Ended(ended) => return ended,
        }
    }
}

/// Runs a vCPU until it ends the run, or `stop` is set: `None`.
fn run_vcpu(
    vcpu: &mut VcpuFd,
    vm: &VmFd,
    board: &Board,
    stop: &AtomicBool,
    news: &Sender<News>,
) -> Result<Option<Ended>> {
    let mut ended = None;
    // Relaxed: the kicks repeat until the store is seen.
    while ended.is_none() && !stop.load(Relaxed) {
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(address, bytes)) => board.read(address, bytes)?,
            Ok(VcpuExit::MmioWrite(address, bytes)) => match board.write(vm, address, bytes)? {
                Effect::None => {}
                Effect::Line => {
                    let _ = news.send(News::Line);
                }
                Effect::Hop => ended = Some(Ended::Hop),
            },
            Ok(VcpuExit::SystemEvent(..)) => return Ok(Some(Ended::PoweredOff)),
            Ok(VcpuExit::Intr) => {}
            Ok(other) => bail!("unexpected exit {other:?}"),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error).context("KVM_RUN"),
        }
    }
    complete(vcpu)?;
    Ok(ended)
}

/// Completes the access that made the vCPU leave the kernel, without running the guest.
fn complete(vcpu: &mut VcpuFd) -> Result<()> {
    vcpu.set_kvm_immediate_exit(1);
    let completed = match vcpu.run() {
        Err(error) if error.errno() == libc::EINTR => Ok(()),
        Err(error) => Err(error).context("KVM_RUN"),
        Ok(exit) => bail!("unexpected exit {exit:?}"),
    };
    vcpu.set_kvm_immediate_exit(0);
    completed
}
