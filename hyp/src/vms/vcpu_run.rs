//! A vCPU on the CPU that it lives on and shares: its turns.
//!
//! # The timer
//! A VM programs the CPU's virtual timer itself; to its interrupt controller the timer is a
//! level-sensitive line. While the vCPU has the CPU, every exit looks at the timer's output and sets the
//! line accordingly, and the physical interrupt, which brings the exit when the output rises, stays active
//! until the output is low again, so that it comes once. While another vCPU has the CPU, the line rises
//! when the scheduler finds that the deadline has passed.
#![expect(unsafe_code)]
// UNSAFETY: leaves for the VM.

use aarch64_cpu::registers::{CNTV_CTL_EL0, Readable, Writeable};
use vgic::Blocked;
use vgic::epoch::CpuPin;
use vgic::intid::{IntId, VcpuId};

use super::context::Context;
use super::world_switch::{self, Why};
use super::{Controller, Vm, Vms, shutdown, trap, vcpu_of};
use crate::cpu::el2_time::now;
use crate::cpu::hyp_timer;
use crate::cpu::percpu::{Exit, PerCpu};
use crate::exception::exit::Next;
use crate::exception::frame::Frame;
use crate::gic::redistributor::Redistributor;
use crate::gic::{CALL, cpu_interface};
use crate::println;

/// The VMs' timer: a PPI by the number that Arm's Base System Architecture gives it.
const VIRTUAL_TIMER: u32 = 27;

/// Enables the timers' interrupts on the calling CPU.
pub(super) fn start_timers(redistributor: &Redistributor) {
    hyp_timer::stop();
    CNTV_CTL_EL0.set(0);
    redistributor.enable(hyp_timer::PPI, true);
    redistributor.enable(VIRTUAL_TIMER, true);
}

/// Takes the physical interrupts that are pending on the calling CPU. None is a VM's: what brought the
/// CPU here has done its work by that. True if the virtual timer's output has risen; its interrupt is
/// still active then.
pub(super) fn take_interrupts(mut count: impl FnMut(Exit)) -> bool {
    let mut timer = false;
    while let Some(intid) = cpu_interface::acknowledge() {
        cpu_interface::drop_priority(intid);
        if intid == VIRTUAL_TIMER {
            timer = true;
            count(Exit::Ppi);
            continue;
        }
        if intid == hyp_timer::PPI {
            hyp_timer::stop();
        }
        cpu_interface::deactivate(intid);
        match intid {
            CALL => count(Exit::Call),
            hyp_timer::PPI => count(Exit::Ppi),
            _ => {
                // The maintenance interrupt's line stays high until the list registers are prepared for
                // the next entry. What else is pending makes the CPU exit again.
                count(Exit::Maintenance);
                break;
            }
        }
    }
    timer
}

/// What a vCPU is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It is off.
    Off,
    /// It would run.
    Ready,
    /// It waits for an interrupt.
    Asleep,
}

/// A vCPU, for the CPU that it lives on.
pub(super) struct VcpuRun {
    pub(super) vm: &'static Vm,
    pub(super) vcpu: VcpuId,
    context: Context,
    state: State,
    /// The level of its timer's line.
    line: bool,
}

impl VcpuRun {
    /// The vCPU of `vm` on CPU number `cpu`, which is off.
    pub(super) fn new(vm: &'static Vm, cpu: usize) -> Self {
        Self {
            vm,
            vcpu: vcpu_of(cpu),
            context: Context::reset(0, 0),
            state: State::Off,
            line: false,
        }
    }

    /// Its general registers.
    pub(super) fn frame(&mut self) -> &mut Frame {
        &mut self.context.frame
    }

    fn vgic(&self) -> &'static Controller {
        self.vm.controller
    }

    fn shared(&self) -> &'static super::Vcpu {
        &self.vm.vcpus[self.vcpu.index()]
    }

    /// Counts an exit.
    pub(super) fn count(&self, reason: Exit) {
        self.shared().exits[reason as usize].add(1);
    }

    /// Finds out whether the vCPU, which is not on the CPU, would run.
    pub(super) fn is_ready(&mut self, pin: &CpuPin<'_>, now: u64) -> bool {
        if self.vm.has_ended() {
            return false;
        }
        if self.state == State::Off {
            let Some((entry, argument)) = self.shared().power.take_start() else {
                return false;
            };
            self.context = Context::reset(entry, argument);
            self.state = State::Ready;
            self.vgic().power_on(self.vcpu);
        }
        self.set_line(pin, self.context.deadline().is_some_and(|at| at <= now));
        // Work that is left over is the VM's to do, in its own time.
        let woken = self.vgic().host().take_woken(self.vcpu);
        if woken || self.vgic().has_deferred() {
            self.state = State::Ready;
        }
        self.state == State::Ready
    }

    /// When it has to be looked at though nobody wakes it.
    pub(super) fn deadline(&self) -> Option<u64> {
        let waits = self.state == State::Asleep && !self.line && !self.vm.has_ended();
        self.context.deadline().filter(|_| waits)
    }

    /// Runs the vCPU on the calling CPU, which `cpu` is, until `end` of its turn, or until it has nothing to
    /// do.
    pub(super) fn take_turn(&mut self, vms: &Vms, cpu: &PerCpu, end: u64) {
        let local = cpu.local();
        let vgic = self.vgic();
        self.vm.stage2.activate();
        self.context.restore();
        hyp_timer::set(end);
        let mut timer_is_active = false;
        let mut left_at = None;
        let next = loop {
            {
                let pin = local.pin();
                if vgic.has_deferred() {
                    vgic.advance(&pin);
                }
                vgic.enter(local, &pin, self.vcpu)
                    .expect("the vCPU is on, and lives here");
            }
            self.note_el2_time(left_at);
            // SAFETY: stage 2 and all that is in the context are the vCPU's.
            let why = unsafe { world_switch::run(self.frame()) };
            let now = now();
            left_at = Some(now);
            let pin = local.pin();
            vgic.exit(local, &pin, self.vcpu)
                .expect("the vCPU has been in the guest here");
            let next = match why {
                Why::Trap => trap::handle(vms, self, cpu, &pin),
                Why::Interrupt => {
                    timer_is_active |= take_interrupts(|reason| self.count(reason));
                    Next::Resume
                }
                Why::Error => {
                    println!("hyp: vm{}: system error", self.vm.index);
                    self.vm.power_off();
                    Next::Resume
                }
            };
            self.set_line(&pin, timer_output());
            if timer_is_active && !self.line {
                cpu_interface::deactivate(VIRTUAL_TIMER);
                timer_is_active = false;
            }
            // By the time, not by the alarm: another interrupt that does not cease would come before it.
            let is_over = now >= end || self.vm.has_ended() || shutdown::is_stopping();
            match next {
                Next::Resume if !is_over => {}
                Next::Wait if !is_over && !self.falls_asleep(cpu, &pin) => {}
                next => break next,
            }
        };
        self.leave(cpu, next);
        if timer_is_active {
            cpu_interface::deactivate(VIRTUAL_TIMER);
        }
        self.note_el2_time(left_at);
    }

    /// Whether the vCPU, which has executed WFI, has nothing to do.
    fn falls_asleep(&mut self, cpu: &PerCpu, pin: &CpuPin<'_>) -> bool {
        let blocked =
            (self.vgic().block(cpu.local(), pin, self.vcpu)).expect("the vCPU lives here");
        let sleeps = blocked == Blocked::Yes && !self.vgic().has_deferred();
        if sleeps {
            self.state = State::Asleep;
        }
        sleeps
    }

    /// Takes the vCPU off the CPU.
    fn leave(&mut self, cpu: &PerCpu, next: Next) {
        let local = cpu.local();
        let pin = local.pin();
        self.context.save();
        CNTV_CTL_EL0.set(0);
        let gone = match next {
            Next::Off => self.vgic().power_off(local, &pin, self.vcpu),
            _ => self.vgic().vcpu_put(local, &pin, self.vcpu),
        };
        gone.expect("the vCPU has just left the guest here");
        match next {
            Next::Off => {
                self.state = State::Off;
                self.set_line(&pin, false);
                self.shared().power.turn_off();
            }
            Next::ShutDown(_) => {
                self.vm.power_off();
                if self.vm.index == 0 {
                    shutdown::request();
                }
            }
            Next::Resume | Next::Wait => {}
        }
    }

    fn set_line(&mut self, pin: &CpuPin<'_>, high: bool) {
        if high != self.line {
            self.line = high;
            let timer = IntId::ppi(VIRTUAL_TIMER).expect("it is a PPI");
            self.vgic()
                .set_ppi_line(pin, self.vcpu, timer, high)
                .expect("every vCPU has every PPI");
        }
    }

    /// Notes how long the hypervisor was at work since `left_at`.
    fn note_el2_time(&self, left_at: Option<u64>) {
        if let Some(left_at) = left_at {
            self.shared().longest_exit.note(now() - left_at);
        }
    }
}

/// The output of the virtual timer on the calling CPU.
fn timer_output() -> bool {
    const ENABLED_UNMASKED_FIRED: u64 = 0b101;
    CNTV_CTL_EL0.get() & 0b111 == ENABLED_UNMASKED_FIRED
}
