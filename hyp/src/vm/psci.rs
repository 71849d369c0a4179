//! PSCI for guests: power of vCPUs and of the VM (Arm DEN 0022).

use smccc::psci::{self, error};

use super::lifetime::End;
use crate::cpu::clock::now;
use crate::cpu::this_cpu::ThisCpu;
use crate::exception::exit::{TrapOutcome, Wait};
use crate::exception::frame::Frame;
use crate::println;
use crate::schedule;
use crate::vcpu::Vcpu;
use crate::vcpu::power::PowerState;
use crate::vcpu::switch::Leave;

/// Implemented version: 1.1.
const VERSION: u64 = 0x1_0001;

/// `MIGRATE_INFO_TYPE`: there is no trusted operating system to migrate.
const NO_TRUSTED_OS: u64 = 2;

/// `reset_type` of `SYSTEM_RESET2`: a warm reset. The others are the vendor's.
const WARM_RESET: u32 = 0;

/// `power_state` of `CPU_SUSPEND` in the original format (5.4.2.1), bit 16: the vCPU loses its
/// state, and resumes at an entry point.
pub(crate) const POWER_DOWN: u32 = 1 << 16;

/// `power_state`, the bits that are not for the identification of a state.
const POWER_LEVEL: u32 = 3 << 24;

/// `power_state`, the bits that must be zero.
const RESERVED: u32 = !(POWER_DOWN | POWER_LEVEL | 0xffff);

/// Handles a PSCI call that a vCPU has made by HVC or SMC.
// Inlined into both of its callers, the handlers of guests with a GICv3 and with a GICv2: saves 7
// of the 134 instructions of a hypercall.
#[inline(always)]
pub(crate) fn handle_call(frame: &mut Frame, vcpu: &Vcpu) -> TrapOutcome {
    let [_, a, b, c, ..] = frame.x;
    let result = match frame.x[0] as u32 {
        psci::PSCI_VERSION => VERSION,
        psci::PSCI_FEATURES => features(a as u32),
        psci::PSCI_MIGRATE_INFO_TYPE => NO_TRUSTED_OS,
        psci::PSCI_CPU_ON_64 => cpu_on(vcpu, a, b, c),
        psci::PSCI_CPU_ON_32 => cpu_on(vcpu, low(a), low(b), low(c)),
        psci::PSCI_AFFINITY_INFO_64 => affinity_info(vcpu, a, b),
        psci::PSCI_AFFINITY_INFO_32 => affinity_info(vcpu, low(a), low(b)),
        psci::PSCI_CPU_OFF => return TrapOutcome::Leave(Leave::Off),
        psci::PSCI_CPU_SUSPEND_64 => return cpu_suspend(frame, vcpu, a as u32, b, c),
        psci::PSCI_CPU_SUSPEND_32 => return cpu_suspend(frame, vcpu, a as u32, low(b), low(c)),
        psci::PSCI_SYSTEM_SUSPEND_64 => return system_suspend(frame, vcpu, a, b),
        psci::PSCI_SYSTEM_SUSPEND_32 => return system_suspend(frame, vcpu, low(a), low(b)),
        psci::PSCI_SYSTEM_OFF => return shut_down(vcpu, End::Off),
        psci::PSCI_SYSTEM_RESET => return shut_down(vcpu, End::Reset),
        psci::PSCI_SYSTEM_RESET2_32 | psci::PSCI_SYSTEM_RESET2_64 if a as u32 == WARM_RESET => {
            return shut_down(vcpu, End::Reset);
        }
        psci::PSCI_SYSTEM_RESET2_32 | psci::PSCI_SYSTEM_RESET2_64 => {
            status(error::INVALID_PARAMETERS)
        }
        #[cfg(feature = "pmu")]
        function if crate::measure::is_call(function) => crate::measure::call(vcpu, function, a),
        _ => status(error::NOT_SUPPORTED),
    };
    frame.x[0] = result;
    TrapOutcome::Resume
}

/// Returns a status as the calling convention encodes it.
const fn status(code: i32) -> u64 {
    code as i64 as u64
}

/// Returns the low half, for a 32-bit argument.
const fn low(argument: u64) -> u64 {
    argument as u32 as u64
}

/// Returns the features of a function. Those of `CPU_SUSPEND` are zero: `power_state` has the
/// original format, and the platform coordinates.
fn features(function: u32) -> u64 {
    match function {
        psci::PSCI_VERSION
        | psci::PSCI_FEATURES
        | psci::PSCI_MIGRATE_INFO_TYPE
        | psci::PSCI_CPU_ON_64
        | psci::PSCI_CPU_ON_32
        | psci::PSCI_AFFINITY_INFO_64
        | psci::PSCI_AFFINITY_INFO_32
        | psci::PSCI_CPU_OFF
        | psci::PSCI_CPU_SUSPEND_64
        | psci::PSCI_CPU_SUSPEND_32
        | psci::PSCI_SYSTEM_SUSPEND_64
        | psci::PSCI_SYSTEM_SUSPEND_32
        | psci::PSCI_SYSTEM_OFF
        | psci::PSCI_SYSTEM_RESET
        | psci::PSCI_SYSTEM_RESET2_32
        | psci::PSCI_SYSTEM_RESET2_64 => status(error::SUCCESS),
        _ => status(error::NOT_SUPPORTED),
    }
}

fn cpu_on(vcpu: &Vcpu, affinity: u64, entry: u64, context: u64) -> u64 {
    let Some(target) = vcpu.vm.find_vcpu(affinity) else {
        return status(error::INVALID_PARAMETERS);
    };
    if entry & 3 != 0 {
        return status(error::INVALID_ADDRESS);
    }
    if target.power.power_on(entry, context) {
        schedule::wake(target);
        status(error::SUCCESS)
    } else {
        status(error::ALREADY_ON)
    }
}

/// Suspends the calling vCPU: in standby it waits as by WFI, in power-down it resumes at `entry`
/// with `context` in `x0`. Only the vCPU itself is suspended: the states of higher levels do not
/// exist.
fn cpu_suspend(
    frame: &mut Frame,
    vcpu: &Vcpu,
    state: u32,
    entry: u64,
    context: u64,
) -> TrapOutcome {
    if state & (RESERVED | POWER_LEVEL) != 0 {
        frame.x[0] = status(error::INVALID_PARAMETERS);
        TrapOutcome::Resume
    } else if state & POWER_DOWN == 0 {
        frame.x[0] = status(error::SUCCESS);
        TrapOutcome::Wait(Wait::Standby)
    } else {
        power_down(frame, vcpu, entry, context)
    }
}

/// Suspends the VM, if every vCPU but the calling one is off.
fn system_suspend(frame: &mut Frame, vcpu: &Vcpu, entry: u64, context: u64) -> TrapOutcome {
    let vcpus = vcpu.vm.vcpus().iter();
    let on = vcpus.filter(|vcpu| vcpu.power.state() == PowerState::On);
    if on.count() > 1 {
        frame.x[0] = status(error::DENIED);
        TrapOutcome::Resume
    } else {
        power_down(frame, vcpu, entry, context)
    }
}

/// Takes the power from the calling vCPU until an interrupt wakes it.
fn power_down(frame: &mut Frame, vcpu: &Vcpu, entry: u64, context: u64) -> TrapOutcome {
    if entry & 3 != 0 {
        frame.x[0] = status(error::INVALID_ADDRESS);
        return TrapOutcome::Resume;
    }
    vcpu.power.set_start(entry, context);
    TrapOutcome::Wait(Wait::PowerDown)
}

fn affinity_info(vcpu: &Vcpu, affinity: u64, lowest_level: u64) -> u64 {
    match vcpu.vm.find_vcpu(affinity) {
        Some(target) if lowest_level == 0 => target.power.state() as u64,
        _ => status(error::INVALID_PARAMETERS),
    }
}

// Out of line: saves 4 of the 158 instructions of a hypercall.
#[cold]
#[inline(never)]
fn shut_down(vcpu: &Vcpu, end: End) -> TrapOutcome {
    let what = match end {
        End::Reset => "resets the machine",
        End::Off | End::Killed => "powers the machine off",
    };
    // In the vCPU's time, as the end is.
    ThisCpu::get().here.serve(now());
    println!("hyp: {} vcpu {} {what}", vcpu.vm.name, vcpu.id.index());
    TrapOutcome::Leave(Leave::End(end))
}
