//! Power states of vCPUs, and the start, suspension and resumption of the guest's vCPUs.
#![expect(unsafe_code)]
// UNSAFETY: enters the guest.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    CNTKCTL_EL1, CNTP_CTL_EL0, CNTV_CTL_EL0, CPACR_EL1, ELR_EL2, MDSCR_EL1, SCTLR_EL1, SPSR_EL2,
    Writeable,
};

use vgic::Blocked;
use vgic::cpu_interface::{CpuInterface, vmcr};

use super::{deferred, interrupts};
use crate::cpu::percpu::PerCpu;
use crate::exception::enter_guest;
use crate::exception::frame::Frame;
use crate::vm::guest::get;
use crate::vm::shutdown;

/// Power state of a vCPU, with the numbers of PSCI's `AFFINITY_INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum PowerState {
    /// The vCPU runs, is suspended, or is about to run. PSCI's third state, `ON_PENDING`, is
    /// skipped: kvm-unit-tests take no answer but `ALREADY_ON` to a second `CPU_ON`.
    On = 0,
    /// The vCPU is off.
    Off = 1,
}

/// Power of one vCPU.
#[derive(Debug)]
pub(crate) struct Power {
    state: AtomicU8,
    /// Entry point of a start or resumption that has been requested, with bit 0 set; otherwise 0.
    entry: AtomicU64,
    context: AtomicU64,
}

impl Power {
    /// Returns the power of a vCPU that is off.
    pub(crate) const fn new() -> Self {
        Self {
            state: AtomicU8::new(PowerState::Off as u8),
            entry: AtomicU64::new(0),
            context: AtomicU64::new(0),
        }
    }

    /// Returns the state.
    pub(crate) fn state(&self) -> PowerState {
        // Acquire: pairs with the Release of the last change.
        match self.state.load(Ordering::Acquire) {
            0 => PowerState::On,
            _ => PowerState::Off,
        }
    }

    /// Powers the vCPU on at `entry` with `context` in `x0`. Returns false if the vCPU was on.
    pub(crate) fn power_on(&self, entry: u64, context: u64) -> bool {
        // The winner of this exchange writes the start, and the vCPU waits until `entry` is
        // published below. Acquire: pairs with the Release in `power_off`.
        let won = self.state.compare_exchange(
            PowerState::Off as u8,
            PowerState::On as u8,
            Ordering::Acquire,
            Ordering::Relaxed,
        );
        if won.is_ok() {
            self.set_start(entry, context);
        }
        won.is_ok()
    }

    /// Notes the `entry` of the vCPU's next start, with `context` in `x0`. The vCPU is on and waits
    /// for the note, or has asked for its own resumption.
    pub(crate) fn set_start(&self, entry: u64, context: u64) {
        self.context.store(context, Ordering::Relaxed);
        // Release: pairs with the Acquire in `take_start`. Entries are even, so that 1 marks a new
        // one.
        self.entry.store(entry | 1, Ordering::Release);
    }

    /// Takes the entry and `x0` of the vCPU's next start, if there is one. Called by the vCPU's own
    /// CPU.
    pub(crate) fn take_start(&self) -> Option<(u64, u64)> {
        // Acquire: pairs with the Release in `set_start`.
        let entry = self.entry.load(Ordering::Acquire);
        if entry & 1 == 0 {
            return None;
        }
        self.entry.store(0, Ordering::Relaxed);
        Some((entry & !1, self.context.load(Ordering::Relaxed)))
    }

    /// Powers the vCPU off. Another CPU may power it on at once. Called by the vCPU's own CPU.
    pub(crate) fn power_off(&self) {
        // Release: pairs with the Acquire in `power_on`.
        self.state.store(PowerState::Off as u8, Ordering::Release);
    }
}

/// Waits until the calling CPU's vCPU is powered on, and runs it.
pub(crate) fn wait_for_power_on() -> ! {
    let cpu = PerCpu::current();
    let (guest, local) = (get(), cpu.vgic_cpu());
    let vgic = guest.vgic();
    loop {
        if let Some((entry, context)) = cpu.power.take_start() {
            stop_timers();
            start_vcpu(cpu, entry, context);
        }
        if shutdown::is_stopping() {
            shutdown::stop_cpu();
        }

        interrupts::wait_for_interrupt();
        let pin = local.pin();
        interrupts::handle_physical(guest, cpu, &pin);
        if vgic.has_deferred() {
            deferred::advance(vgic, &pin);
        }
    }
}

/// Stops the timers of the calling CPU's vCPU, which is off or about to start. Their lines fall
/// before their interrupts are deactivated.
fn stop_timers() {
    CNTV_CTL_EL0.set(0);
    CNTP_CTL_EL0.set(0);
    barrier::isb(barrier::SY);
}

/// Powers the calling CPU's vCPU off, and waits until it is powered on again.
pub(crate) fn cpu_off() -> ! {
    stop_timers();
    let cpu = PerCpu::current();
    let local = cpu.vgic_cpu();
    get()
        .vgic()
        .power_off(&local.pin(), cpu.vcpu)
        .expect("the vCPU has just left the guest here");
    cpu.power.power_off();
    wait_for_power_on()
}

/// Takes the power from the calling CPU's vCPU, which is out of the guest, until an interrupt asks
/// for its wake-up, and resumes it where it asked for by [`Power::set_start`]. Its timers keep
/// running.
pub(crate) fn cpu_suspend() -> ! {
    let cpu = PerCpu::current();
    wait_for_wake_up(cpu);

    // The CPU interface loses its state. The redistributor keeps the interrupts.
    let interface = cpu.vgic_cpu().interface();
    let vtr = interface.vtr();
    interface.write_vmcr(vmcr::reset(vtr.preemption_bits));
    for index in 0..vtr.apr_count() {
        interface.write_apr(false, index, 0);
        interface.write_apr(true, index, 0);
    }
    let (entry, context) = (cpu.power.take_start()).expect("the vCPU has noted its resumption");
    start_vcpu(cpu, entry, context)
}

/// Sleeps until an interrupt asks for the wake-up of the calling CPU's vCPU.
fn wait_for_wake_up(cpu: &PerCpu) {
    let (guest, local) = (get(), cpu.vgic_cpu());
    let vgic = guest.vgic();
    let mut pin = local.pin();
    loop {
        if shutdown::is_stopping() {
            drop(pin);
            shutdown::stop_cpu();
        }
        if vgic.has_deferred() {
            deferred::advance(vgic, &pin);
        }

        let awake = vgic.has_pending(&pin, cpu.vcpu);
        if awake.expect("the vCPU lives here") {
            return;
        }
        let blocked = vgic.block(&pin, cpu.vcpu);
        if blocked.expect("the vCPU lives here") == Blocked::Yes && !vgic.has_deferred() {
            pin.unpinned(interrupts::wait_for_interrupt);
            interrupts::handle_physical(guest, cpu, &pin);
        }
    }
}

/// Starts the calling CPU's vCPU in its reset state, but for its timers, at `entry` with `context`
/// in `x0`.
fn start_vcpu(cpu: &PerCpu, entry: u64, context: u64) -> ! {
    get().stage2.activate();
    // MMU and caches off, little endian; the bits that are RES1 in Armv8.0.
    SCTLR_EL1.set(0x30d0_0800);
    CPACR_EL1.set(0);
    CNTKCTL_EL1.set(0);
    MDSCR_EL1.set(0);
    ELR_EL2.set(entry);
    SPSR_EL2.write(
        SPSR_EL2::M::EL1h
            + SPSR_EL2::D::Masked
            + SPSR_EL2::A::Masked
            + SPSR_EL2::I::Masked
            + SPSR_EL2::F::Masked,
    );

    let vgic = get().vgic();
    let local = cpu.vgic_cpu();
    vgic.host().deactivate_ppis(cpu.index);
    vgic.power_on(cpu.vcpu);
    vgic.enter(&local.pin(), cpu.vcpu)
        .expect("the vCPU is on, and lives here");

    let mut frame = Frame::new();
    frame.x[0] = context;
    // SAFETY: stage 2, the registers of EL1, `ELR_EL2` and `SPSR_EL2` have just been set.
    unsafe { enter_guest(&frame) }
}
