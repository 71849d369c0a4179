//! A vCPU on its CPU: its run loop for one time slice.
//!
//! # The timer
//! A VM programs the CPU's virtual timer without a trap. To the VM's interrupt controller the timer
//! is a level-sensitive line. While the vCPU is loaded, every exit copies the timer's output to the
//! line. A rising output brings the exit by a physical interrupt, which stays active until the
//! output is low, so that it is taken once. While another vCPU is loaded, the scheduler raises the
//! line once the deadline has passed.
#![expect(unsafe_code)]
// UNSAFETY: enters the VM.

use crate::cpu::percpu::PinnedCpu;
use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTV_CTL_EL0, Readable, Writeable};
use vgic::Blocked;
use vgic::intid::{IntId, VcpuId};

use super::world_switch::{self, ExitKind};
use super::{Controller, Vm, Vms, shutdown, trap, vcpu_of};
use crate::cpu::el2_time::now;
use crate::cpu::hyp_timer;
use crate::cpu::percpu::{ExitReason, PerCpu};
use crate::exception::exit::TrapOutcome;
use crate::exception::frame::Frame;
use crate::gic::redistributor::Redistributor;
use crate::gic::{KICK_SGI, cpu_interface};
use crate::println;
use crate::vcpu::context::Context;

/// PPI of the virtual timer, by Arm's Base System Architecture.
const VIRTUAL_TIMER: u32 = 27;

/// Enables the timers' interrupts on the calling CPU.
pub(super) fn start_timers(redistributor: &Redistributor) {
    hyp_timer::stop();
    stop_virtual_timer();
    redistributor.enable(hyp_timer::PPI, true);
    redistributor.enable(VIRTUAL_TIMER, true);
}

/// Stops the calling CPU's virtual timer. Its line falls before its interrupt is deactivated.
fn stop_virtual_timer() {
    CNTV_CTL_EL0.set(0);
    barrier::isb(barrier::SY);
}

/// Acknowledges and deactivates the physical interrupts that are pending on the calling CPU, which
/// has no vCPU. The virtual timer's may be among them: the fall of a line takes its time to reach
/// the GIC.
pub(super) fn drop_physical_interrupts() {
    if handle_physical_interrupts(|_| ()) {
        cpu_interface::deactivate(VIRTUAL_TIMER);
    }
}

/// Acknowledges the physical interrupts that are pending on the calling CPU. None of them is a
/// VM's: bringing the CPU to EL2 is all that they have to do. Returns true if the virtual timer's
/// output has risen; then its interrupt stays active.
fn handle_physical_interrupts(mut count: impl FnMut(ExitReason)) -> bool {
    let mut timer = false;
    while let Some(intid) = cpu_interface::acknowledge() {
        cpu_interface::drop_priority(intid);
        if intid == VIRTUAL_TIMER {
            timer = true;
            count(ExitReason::Ppi);
            continue;
        }

        if intid == hyp_timer::PPI {
            hyp_timer::stop();
        }
        cpu_interface::deactivate(intid);
        match intid {
            KICK_SGI => count(ExitReason::Kick),
            hyp_timer::PPI => count(ExitReason::Ppi),
            _ => {
                // The maintenance interrupt's line stays high until the list registers are prepared
                // for the next entry. Other pending interrupts make the CPU exit again.
                count(ExitReason::Maintenance);
                break;
            }
        }
    }
    timer
}

/// Scheduling state of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RunState {
    /// The vCPU is off.
    Off,
    /// The vCPU can run.
    Runnable,
    /// The vCPU waits for an interrupt.
    Blocked,
}

/// A vCPU, for its own CPU.
pub(super) struct VcpuRun {
    pub(super) vm: &'static Vm,
    pub(super) id: VcpuId,
    context: Context,
    state: RunState,
    /// Level of the timer's line.
    timer_line: bool,
}

impl VcpuRun {
    /// Returns the vCPU of `vm` on CPU number `cpu`, powered off.
    pub(super) fn new(vm: &'static Vm, cpu: usize) -> Self {
        Self {
            vm,
            id: vcpu_of(cpu),
            context: Context::reset(0, 0),
            state: RunState::Off,
            timer_line: false,
        }
    }

    /// Returns the general registers.
    pub(super) fn frame(&mut self) -> &mut Frame {
        &mut self.context.frame
    }

    /// Returns the VM's interrupt controller.
    fn vgic(&self) -> &'static Controller {
        self.vm.controller
    }

    /// Returns the data that all CPUs may use.
    fn shared(&self) -> &'static super::Vcpu {
        &self.vm.vcpus[self.id.index()]
    }

    /// Counts an exit.
    pub(super) fn count(&self, reason: ExitReason) {
        self.shared().exits[reason as usize].add(1);
    }

    /// Updates the state of the vCPU, which is not loaded, at time `now`. Returns true if the vCPU
    /// can run.
    pub(super) fn poll_runnable(&mut self, pin: &PinnedCpu<'_>, now: u64) -> bool {
        if self.vm.is_powered_off() {
            return false;
        }
        if self.state == RunState::Off {
            let Some((entry, argument)) = self.shared().power.take_start() else {
                return false;
            };
            self.context = Context::reset(entry, argument);
            self.state = RunState::Runnable;
            self.vgic().power_on(self.id);
        }

        self.set_timer_line(pin, self.context.deadline().is_some_and(|at| at <= now));

        // A VM's deferred work is done in its own time slices.
        let woken = self.vgic().host().take_woken(self.id);
        if woken || self.vgic().has_deferred() {
            self.state = RunState::Runnable;
        }
        self.state == RunState::Runnable
    }

    /// Returns the time at which a blocked vCPU has to be polled even if nothing wakes it.
    pub(super) fn deadline(&self) -> Option<u64> {
        let waits =
            self.state == RunState::Blocked && !self.timer_line && !self.vm.is_powered_off();
        self.context.deadline().filter(|_| waits)
    }

    /// Runs the vCPU on the calling CPU, whose data is `cpu`, until `end`, or until the vCPU is
    /// blocked or off.
    pub(super) fn run_time_slice(&mut self, vms: &Vms, cpu: &PerCpu, end: u64) {
        let local = cpu.vgic_cpu();
        let vgic = self.vgic();
        self.vm.stage2.activate();
        self.context.restore();
        hyp_timer::set(end);

        let mut timer_is_active = false;
        let mut exited_at = None;
        let next = loop {
            {
                let pin = local.pin();
                if vgic.has_deferred() {
                    (vgic.advance(&pin)).expect("this CPU is of the VM's domain");
                }
                vgic.enter(&pin, self.id)
                    .expect("the vCPU is on, and lives here");
            }
            self.record_el2_time(exited_at);
            // SAFETY: stage 2 and the registers of the context are the vCPU's.
            let why = unsafe { world_switch::run(self.frame()) };

            let now = now();
            exited_at = Some(now);
            let pin = local.pin();
            vgic.exit(&pin, self.id)
                .expect("the vCPU has been in the guest here");

            let next = match why {
                ExitKind::Synchronous => trap::handle_trap(vms, self, &pin),
                ExitKind::Interrupt => {
                    timer_is_active |= handle_physical_interrupts(|reason| self.count(reason));
                    TrapOutcome::Resume
                }
                ExitKind::SystemError => {
                    println!("hyp: vm{}: system error", self.vm.index);
                    self.vm.power_off();
                    TrapOutcome::Resume
                }
            };

            self.set_timer_line(&pin, timer_output());
            if timer_is_active && !self.timer_line {
                cpu_interface::deactivate(VIRTUAL_TIMER);
                timer_is_active = false;
            }
            // The clock decides, not the timer: another interrupt that does not cease would come
            // first.
            let is_over = now >= end || self.vm.is_powered_off() || shutdown::is_stopping();
            match next {
                TrapOutcome::Resume if !is_over => {}
                // A VM's power-down is a standby, as PSCI allows.
                TrapOutcome::Block | TrapOutcome::Suspend { .. }
                    if !is_over && !self.try_block(&pin) => {}
                next => break next,
            }
        };

        self.put(cpu, next);
        if timer_is_active {
            cpu_interface::deactivate(VIRTUAL_TIMER);
        }
        self.record_el2_time(exited_at);
    }

    /// Blocks the vCPU, which has executed WFI. Returns false if an interrupt or other work is
    /// there.
    fn try_block(&mut self, pin: &PinnedCpu<'_>) -> bool {
        let blocked = (self.vgic().block(pin, self.id)).expect("the vCPU lives here");
        let sleeps = blocked == Blocked::Yes && !self.vgic().has_deferred();
        if sleeps {
            self.state = RunState::Blocked;
        }
        sleeps
    }

    /// Puts the vCPU, and executes `next`.
    fn put(&mut self, cpu: &PerCpu, next: TrapOutcome) {
        let local = cpu.vgic_cpu();
        let pin = local.pin();
        self.context.save();
        stop_virtual_timer();

        let gone = match next {
            TrapOutcome::PowerOff => self.vgic().power_off(&pin, self.id),
            _ => self.vgic().vcpu_put(&pin, self.id),
        };

        gone.expect("the vCPU has just left the guest here");

        match next {
            TrapOutcome::PowerOff => {
                self.state = RunState::Off;
                self.set_timer_line(&pin, false);
                self.shared().power.power_off();
            }
            TrapOutcome::System(_) => {
                self.vm.power_off();
                if self.vm.index == 0 {
                    shutdown::request_stop();
                }
            }
            TrapOutcome::Resume | TrapOutcome::Block | TrapOutcome::Suspend { .. } => {}
        }
    }

    /// Sets the level of the timer's line.
    fn set_timer_line(&mut self, pin: &PinnedCpu<'_>, high: bool) {
        if high != self.timer_line {
            self.timer_line = high;
            let timer = IntId::ppi(VIRTUAL_TIMER).expect("it is a PPI");
            self.vgic()
                .set_ppi_line(pin, self.id, timer, high)
                .expect("every vCPU has every PPI");
        }
    }

    /// Records the time at EL2 since `exited_at`.
    fn record_el2_time(&self, exited_at: Option<u64>) {
        if let Some(exited_at) = exited_at {
            self.shared().longest_el2_time.record(now() - exited_at);
        }
    }
}

/// Returns the output of the virtual timer on the calling CPU.
fn timer_output() -> bool {
    const ENABLED_UNMASKED_FIRED: u64 = 0b101;
    CNTV_CTL_EL0.get() & 0b111 == ENABLED_UNMASKED_FIRED
}
