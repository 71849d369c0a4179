//! PSCI for guests: power of vCPUs and of the machine (Arm DEN 0022).

use smccc::psci::{self, error};

use super::power::{Power, PowerState};
use super::shutdown::SystemEvent;
use crate::cpu::percpu::PerCpu;
use crate::exception::exit::TrapOutcome;
use crate::exception::frame::Frame;
use crate::println;

/// Implemented version: 1.1.
const VERSION: u64 = 0x1_0001;

/// `MIGRATE_INFO_TYPE`: there is no trusted operating system to migrate.
const NO_TRUSTED_OS: u64 = 2;

/// vCPUs of a guest, each on the CPU of its number.
pub(crate) trait Vcpus {
    /// Returns the number of the CPU with this affinity, and its vCPU's power.
    fn find(&self, affinity: u64) -> Option<(usize, &Power)>;

    /// Makes CPU number `cpu` check the power of its vCPU.
    fn kick(&self, cpu: usize);
}

/// Handles a PSCI call that the guest has made by HVC or SMC.
pub(crate) fn handle_call(frame: &mut Frame, vcpus: &impl Vcpus) -> TrapOutcome {
    let [_, a, b, c, ..] = frame.x;
    let result = match frame.x[0] as u32 {
        psci::PSCI_VERSION => VERSION,
        psci::PSCI_FEATURES => features(a as u32),
        psci::PSCI_MIGRATE_INFO_TYPE => NO_TRUSTED_OS,
        psci::PSCI_CPU_ON_64 => cpu_on(vcpus, a, b, c),
        psci::PSCI_CPU_ON_32 => cpu_on(vcpus, low(a), low(b), low(c)),
        psci::PSCI_AFFINITY_INFO_64 => affinity_info(vcpus, a, b),
        psci::PSCI_AFFINITY_INFO_32 => affinity_info(vcpus, low(a), low(b)),
        psci::PSCI_CPU_OFF => return TrapOutcome::PowerOff,
        psci::PSCI_SYSTEM_OFF => return shut_down("powers the machine off", SystemEvent::Off),
        psci::PSCI_SYSTEM_RESET => return shut_down("resets the machine", SystemEvent::Reset),
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
        | psci::PSCI_SYSTEM_OFF
        | psci::PSCI_SYSTEM_RESET => status(error::SUCCESS),
        _ => status(error::NOT_SUPPORTED),
    }
}

fn cpu_on(vcpus: &impl Vcpus, affinity: u64, entry: u64, context: u64) -> u64 {
    let Some((cpu, power)) = vcpus.find(affinity) else {
        return status(error::INVALID_PARAMETERS);
    };
    if entry & 3 != 0 {
        return status(error::INVALID_ADDRESS);
    }
    match power.power_on(entry, context) {
        Ok(()) => {
            vcpus.kick(cpu);
            status(error::SUCCESS)
        }
        Err(PowerState::OnPending) => status(error::ON_PENDING),
        Err(PowerState::On | PowerState::Off) => status(error::ALREADY_ON),
    }
}

fn affinity_info(vcpus: &impl Vcpus, affinity: u64, lowest_level: u64) -> u64 {
    match vcpus.find(affinity) {
        Some((_, power)) if lowest_level == 0 => power.state() as u64,
        _ => status(error::INVALID_PARAMETERS),
    }
}

fn shut_down(what: &str, how: SystemEvent) -> TrapOutcome {
    println!("hyp: vcpu {} {what}", PerCpu::current().index);
    TrapOutcome::System(how)
}
