//! The run of the guest with many vCPUs, each pinned to a CPU: its console, and the MSIs that it
//! asks for. The thread of the vCPU that asks sends the MSI.

use std::fs;
use std::thread;

use anyhow::{Context, Result, bail};
use kvm_bindings::{KVM_MSI_VALID_DEVID, kvm_msi};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use crate::console;
use crate::measured::{DOORBELL, GITS_TRANSLATER, UART_DATA};
use crate::system::pin_to;
use crate::vm::{self, Machine};

/// Runs the guest in the file `path` with `vcpus` vCPUs to its end.
pub(crate) fn run_guest(path: &str, vcpus: u64) -> Result<()> {
    let image = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let mut machine = Machine::new(vm::shape(vcpus, 256, 1, 64 << 20))?;
    // No device tree.
    machine.load(&image, 0)?;
    let running: Vec<VcpuFd> = machine.vcpus.drain(..).collect();
    // The other vCPUs do not leave the kernel when the guest turns its machine off.
    let machine: &'static Machine = Box::leak(Box::new(machine));

    let threads: Vec<_> = (running.into_iter().enumerate())
        .map(|(number, vcpu)| {
            thread::spawn(move || {
                let ended = run_vcpu(vcpu, number, &machine.vm);
                if let Err(error) = &ended {
                    console::say(&format!("client: vCPU {number} failed: {error:#}"));
                }
                ended
            })
        })
        .collect();
    let first = threads.into_iter().next().context("no vCPU")?;
    (first.join().ok()).context("vCPU 0's thread failed")?
}

/// Runs a vCPU on the CPU of its number until the guest turns its machine off.
fn run_vcpu(mut vcpu: VcpuFd, number: usize, vm: &VmFd) -> Result<()> {
    pin_to(number)?;
    loop {
        match vcpu.run()? {
            VcpuExit::MmioWrite(UART_DATA, bytes) => console::write(&bytes[..1]),
            VcpuExit::MmioWrite(DOORBELL, bytes) => {
                let request = u64::from_le_bytes(bytes.try_into().context("a double word")?);
                send_msi(request, vm)?;
            }
            VcpuExit::SystemEvent(..) => return Ok(()),
            VcpuExit::Intr => {}
            other => bail!("unexpected exit {other:?}"),
        }
    }
}

/// Sends the MSI with the DeviceID and the EventID in the halves of `request`.
fn send_msi(request: u64, vm: &VmFd) -> Result<()> {
    let msi = kvm_msi {
        address_lo: GITS_TRANSLATER,
        data: request as u32,
        flags: KVM_MSI_VALID_DEVID,
        devid: (request >> 32) as u32,
        ..kvm_msi::default()
    };
    if vm.signal_msi(msi).context("KVM_SIGNAL_MSI")? == 0 {
        bail!("the guest has not mapped {request:#x}");
    }
    Ok(())
}
