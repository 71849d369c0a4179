//! PSCI for guests: power of their vCPUs and of their machine (Arm DEN 0022).

use smccc::psci::{self, error};

use super::power::{Power, PowerState};
use super::shutdown::SystemEvent;
use crate::cpu::percpu::PerCpu;
use crate::exception::exit::TrapOutcome;
use crate::exception::frame::Frame;
use crate::println;

/// The version that we implement: 1.1.
const VERSION: u64 = 0x1_0001;

/// `MIGRATE_INFO_TYPE`: there is no trusted operating system to migrate.
const NO_TRUSTED_OS: u64 = 2;

/// The vCPUs of a guest, each on a CPU of its own number.
pub(crate) trait Vcpus {
    /// The power of the vCPU with this affinity, and its CPU's number.
    fn find(&self, affinity: u64) -> Option<(usize, &Power)>;

    /// Makes a CPU look at the power of the vCPU.
    fn kick(&self, cpu: usize);
}

/// Carries out the call that the guest has made by HVC or SMC.
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

/// A status as the calling convention returns it.
const fn status(code: i32) -> u64 {
    code as i64 as u64
}

/// A 32-bit argument.
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
