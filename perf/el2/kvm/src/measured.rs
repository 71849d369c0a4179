//! The run of the measured guest: its console, and the MSIs that it asks for.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result, bail};
use kvm_bindings::{KVM_MSI_VALID_DEVID, kvm_msi};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use crate::console;
use crate::event::Event;
use crate::passed_through::PassedThrough;
use crate::system::{Memory, mark, pin_to, relax};
use crate::vm::{self, Machine, RAM};

/// Data register of the PL011.
pub(crate) const UART_DATA: u64 = 0x0900_0000;

/// Register by which the guest asks for an MSI: the number of the event in the low byte, and above
/// it the address of a counter that goes up when the interrupt has been handled.
pub(crate) const DOORBELL: u64 = 0x0b00_0000;

/// DeviceID of the MSIs.
const DEVICE: u32 = 8;
/// Register that devices write MSIs to.
pub(crate) const GITS_TRANSLATER: u32 = 0x0809_0040;

/// Sender of the MSIs.
enum Sender {
    /// This process, by `KVM_SIGNAL_MSI`.
    UserSpace,
    /// A device, and the event that its MSIs are routed to.
    Device(PassedThrough, AtomicU64),
}

impl Sender {
    /// Routes the MSIs of a device to the event of this number.
    fn prepare(&self, vm: &VmFd, number: u64) -> Result<()> {
        if let Self::Device(device, routed) = self
            // Relaxed: one thread sends.
            && routed.swap(number, Relaxed) != number
        {
            device.route(vm, &msi(number))?;
        }
        Ok(())
    }

    /// Sends the MSI of the event of this number. Returns the number of vCPUs that get it.
    #[inline(always)]
    fn send(&self, vm: &VmFd, number: u64) -> Result<i32> {
        match self {
            Self::UserSpace => vm.signal_msi(msi(number)).context("KVM_SIGNAL_MSI"),
            Self::Device(device, _) => {
                device.raise();
                Ok(1)
            }
        }
    }

    /// Ends the MSI.
    fn acknowledge(&self) {
        if let Self::Device(device, _) = self {
            device.acknowledge();
        }
    }
}

/// Returns the MSI of the event of this number.
fn msi(number: u64) -> kvm_msi {
    kvm_msi {
        address_lo: GITS_TRANSLATER,
        data: number as u32,
        flags: KVM_MSI_VALID_DEVID,
        devid: DEVICE,
        ..kvm_msi::default()
    }
}

/// Runs the measured guest in the file `path` twice, each time to its end: with a CPU for each of
/// its two vCPUs, and with one CPU for both. With `by_device`, MSIs come from a device.
pub(crate) fn run_guest(path: &str, by_device: bool) -> Result<()> {
    let image = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let sender: &'static Sender = Box::leak(Box::new(if by_device {
        Sender::Device(PassedThrough::find()?, AtomicU64::new(0))
    } else {
        Sender::UserSpace
    }));
    // The third vCPU is never turned on. The guest tells by it that each vCPU has a CPU.
    run_vm(&image, 3, [1, 2], sender)?;
    run_vm(&image, 2, [1, 1], sender)
}

/// Runs the guest on a VM with `vcpus` vCPUs, the first two on the CPUs `cpus`. VM and threads stay
/// for ever: vCPU 1 does not leave the kernel when the guest turns its machine off.
fn run_vm(image: &[u8], vcpus: u64, cpus: [usize; 2], sender: &'static Sender) -> Result<()> {
    let mut machine = Machine::new(vm::shape(vcpus, 256, 1, 64 << 20))?;
    // No device tree.
    machine.load(image, 0)?;
    let mut running: Vec<VcpuFd> = machine.vcpus.drain(..2).collect();
    let machine: &'static Machine = Box::leak(Box::new(machine));
    let other = running.pop().context("two vCPUs")?;
    let first = running.pop().context("two vCPUs")?;

    thread::spawn(move || {
        if let Err(error) = run_vcpu(other, cpus[1], machine, sender) {
            console::say(&format!("client: vCPU 1 failed: {error:#}"));
        }
    });
    let ended = thread::spawn(move || run_vcpu(first, cpus[0], machine, sender));
    (ended.join().ok()).context("vCPU 0's thread failed")?
}

/// Runs a vCPU on one CPU until the guest turns its machine off.
fn run_vcpu(mut vcpu: VcpuFd, cpu: usize, machine: &Machine, sender: &Sender) -> Result<()> {
    pin_to(cpu)?;
    loop {
        match vcpu.run()? {
            VcpuExit::MmioWrite(UART_DATA, bytes) => console::write(&bytes[..1]),
            VcpuExit::MmioWrite(DOORBELL, bytes) => {
                let request = u64::from_le_bytes(bytes.try_into().context("a double word")?);
                send_msi(request, &machine.vm, machine.memory, sender)?;
            }
            VcpuExit::SystemEvent(..) => return Ok(()),
            VcpuExit::Intr => {}
            other => bail!("unexpected exit {other:?}"),
        }
    }
}

/// Sends the MSI that the guest has asked for, between the event's markers.
fn send_msi(request: u64, vm: &VmFd, memory: Memory, sender: &Sender) -> Result<()> {
    let (number, counter) = (request & 0xff, request >> 8);
    sender.prepare(vm, number)?;

    let delivered = if number == Event::Msi as u64 {
        mark::<{ Event::Msi.begin() }>();
        let delivered = sender.send(vm, number);
        mark::<{ Event::end() }>();
        delivered
    } else {
        let offset = counter.checked_sub(RAM).context("not in RAM")? as usize;
        let before = memory.read_word(offset)?;
        if number == Event::MsiRunning as u64 {
            mark::<{ Event::MsiRunning.begin() }>();
        } else {
            mark::<{ Event::MsiWaiting.begin() }>();
        }
        let delivered = sender.send(vm, number);
        while memory.read_word(offset)? == before {
            relax();
        }
        mark::<{ Event::end() }>();
        delivered
    };

    sender.acknowledge();
    if delivered? == 0 {
        bail!("the guest has not mapped event {number}");
    }
    Ok(())
}
