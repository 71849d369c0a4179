//! The run of the guest: its console, and the MSIs that it asks for.

use std::fs;
use std::thread;

use anyhow::{Context, Result, bail};
use kvm_bindings::{KVM_MSI_VALID_DEVID, kvm_msi};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use crate::console;
use crate::event::Event;
use crate::system::{Memory, mark, pin_to, relax};
use crate::vm::{Machine, RAM};

/// Number of vCPUs that run.
const RUNNING: usize = 2;
/// Number of vCPUs.
const VCPUS: u64 = 3;

/// Data register of the PL011.
const UART_DATA: u64 = 0x0900_0000;

/// Register by which the guest asks for an MSI: the number of the event in the low byte, and above
/// it the address of a counter that goes up when the interrupt has been handled.
const DOORBELL: u64 = 0x0b00_0000;

/// DeviceID of the MSIs.
const DEVICE: u32 = 8;
const GITS_TRANSLATER: u32 = 0x0809_0040;

/// Runs the guest in the file `path` to its end.
pub(crate) fn run_guest(path: &str) -> Result<()> {
    let image = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let mut machine = Machine::new(VCPUS, &image)?;
    // The last vCPU is never turned on, and is kept for the machine's life.
    let mut vcpus: Vec<VcpuFd> = machine.vcpus.drain(..RUNNING).collect();
    let other = vcpus.pop().context("two vCPUs")?;
    let first = vcpus.pop().context("two vCPUs")?;

    let (vm, memory) = (&machine.vm, machine.memory);
    thread::scope(|scope| {
        scope.spawn(move || {
            if let Err(error) = run_vcpu(other, 2, vm, memory) {
                console::say(&format!("client: vCPU 1 failed: {error:#}"));
            }
        });
        let ended = scope.spawn(move || run_vcpu(first, 1, vm, memory));
        let ended = ended.join();
        if let Ok(Err(error)) = ended {
            console::say(&format!("client: vCPU 0 failed: {error:#}"));
        }
        // The other vCPU's thread stays in the guest: the machine is turned off under it.
        crate::system::power_off();
    });
    Ok(())
}

/// Runs a vCPU on a CPU of its own until the guest turns its machine off.
fn run_vcpu(mut vcpu: VcpuFd, cpu: usize, vm: &VmFd, memory: Memory) -> Result<()> {
    pin_to(cpu)?;
    loop {
        match vcpu.run()? {
            VcpuExit::MmioWrite(UART_DATA, bytes) => console::write(&bytes[..1]),
            VcpuExit::MmioWrite(DOORBELL, bytes) => {
                let request = u64::from_le_bytes(bytes.try_into().context("a double word")?);
                send_msi(request, vm, memory)?;
            }
            VcpuExit::SystemEvent(..) => return Ok(()),
            VcpuExit::Intr => {}
            other => bail!("unexpected exit {other:?}"),
        }
    }
}

/// Sends the MSI that the guest has asked for, between the event's markers.
fn send_msi(request: u64, vm: &VmFd, memory: Memory) -> Result<()> {
    let (number, counter) = (request & 0xff, request >> 8);
    let msi = kvm_msi {
        address_lo: GITS_TRANSLATER,
        data: number as u32,
        flags: KVM_MSI_VALID_DEVID,
        devid: DEVICE,
        ..kvm_msi::default()
    };

    let delivered = if number == Event::Msi as u64 {
        mark::<{ Event::Msi.begin() }>();
        let delivered = vm.signal_msi(msi);
        mark::<{ Event::end() }>();
        delivered
    } else {
        let offset = counter.checked_sub(RAM).context("not in RAM")? as usize;
        let before = memory.read_word(offset)?;
        mark::<{ Event::MsiRunning.begin() }>();
        let delivered = vm.signal_msi(msi);
        while memory.read_word(offset)? == before {
            relax();
        }
        mark::<{ Event::end() }>();
        delivered
    };

    let delivered = delivered.context("KVM_SIGNAL_MSI")?;
    if delivered == 0 {
        bail!("the guest has not mapped event {number}");
    }
    Ok(())
}
