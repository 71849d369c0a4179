//! A VM as plain data.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// The machine and the VM that a snapshot is of, as far as they have to be those that it is
/// restored on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// `MIDR_EL1`: the model of the CPUs.
    pub(crate) cpu: u64,
    /// Identification registers of the CPU, as the guest reads them.
    pub(crate) features: Vec<u64>,
    /// `ICH_VTR_EL2.PREbits` and `IDbits`. The number of list registers may be another.
    pub(crate) interface: u64,
    /// Bytes of a vector register.
    pub(crate) vector: u64,
    /// Ticks of the counter in a second.
    pub(crate) frequency: u64,
    /// Bytes of RAM.
    pub(crate) memory: u64,
    /// Number of vCPUs.
    pub(crate) vcpus: u64,
    /// Most events that the ITS maps.
    pub(crate) events: u64,
    /// 1 if the VM has the entropy device.
    pub(crate) entropy: u64,
}

impl Identity {
    /// Returns why a snapshot of this identity cannot be restored where `here` is the identity, if
    /// it cannot.
    pub(crate) fn refusal(&self, here: &Self) -> Option<String> {
        let same = [
            ("CPUs with MIDR_EL1", self.cpu, here.cpu),
            ("a GIC with ICH_VTR_EL2", self.interface, here.interface),
            ("vectors of bytes", self.vector, here.vector),
            ("a counter of Hz", self.frequency, here.frequency),
            ("RAM of bytes", self.memory, here.memory),
            ("vCPUs", self.vcpus, here.vcpus),
            ("events", self.events, here.events),
            ("entropy devices", self.entropy, here.entropy),
        ];
        let other = same.iter().find(|(_, theirs, ours)| theirs != ours);
        if let Some((of, theirs, ours)) = other {
            return Some(format!("it has {of} {theirs:#x}, and here are {ours:#x}"));
        }
        (self.features != here.features).then(|| "its CPUs have other features".into())
    }
}

/// The state of a VM, but for its RAM.
#[derive(Serialize, Deserialize)]
pub(crate) struct State {
    /// `CNTVCT_EL0` when the VM was stopped: the guest's clock goes on from here.
    pub(crate) virtual_counter: u64,
    /// `CNTPCT_EL0` when the VM was stopped.
    pub(crate) physical_counter: u64,
    /// vCPUs, by number.
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) console: Console,
    /// Entropy device, if the VM has one.
    pub(crate) entropy: Option<Virtio>,
    /// Interrupt controller.
    pub(crate) vgic: vgic::state::VmState,
}

/// A vCPU on no CPU.
#[derive(Serialize, Deserialize)]
pub(crate) struct Vcpu {
    /// True if the vCPU is on, as PSCI has it.
    pub(crate) is_on: bool,
    /// Entry point and `x0` of a start or resumption that was requested and not made.
    pub(crate) start: Option<(u64, u64)>,
    /// Registers, from the vCPU's start until its power-off.
    pub(crate) registers: Option<Registers>,
}

impl Vcpu {
    /// Returns true if a vCPU can be in this state, whose interrupt controller has it powered on if
    /// it `is_powered`. One that goes on where it was is on there; one that starts, or resumes, may
    /// be.
    pub(crate) fn is_sound(&self, is_powered: bool) -> bool {
        match (self.is_on, &self.start, &self.registers) {
            (false, start, registers) => start.is_none() && registers.is_none(),
            (true, None, None) => false,
            (true, None, Some(_)) => is_powered,
            (true, Some(_), _) => true,
        }
    }
}

/// Registers of a vCPU.
#[derive(Serialize, Deserialize)]
pub(crate) struct Registers {
    /// `x0` to `x30`.
    pub(crate) general: [u64; 31],
    pub(crate) system: SystemRegisters,
    pub(crate) vector: VectorRegisters,
}

/// System registers of EL1 and EL0, and the program counter and state, by name.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct SystemRegisters {
    pub(crate) afsr0: u64,
    pub(crate) afsr1: u64,
    pub(crate) amair: u64,
    pub(crate) cntkctl: u64,
    pub(crate) cntp_cval: u64,
    pub(crate) cntp_ctl: u64,
    pub(crate) cntv_cval: u64,
    pub(crate) cntv_ctl: u64,
    pub(crate) contextidr: u64,
    pub(crate) cpacr: u64,
    pub(crate) csselr: u64,
    pub(crate) elr: u64,
    /// `ELR_EL2`: the program counter.
    pub(crate) elr_el2: u64,
    pub(crate) esr: u64,
    pub(crate) far: u64,
    pub(crate) mair: u64,
    pub(crate) mdscr: u64,
    pub(crate) par: u64,
    pub(crate) sctlr: u64,
    pub(crate) sp_el0: u64,
    pub(crate) sp_el1: u64,
    pub(crate) spsr: u64,
    /// `SPSR_EL2`: the processor state.
    pub(crate) spsr_el2: u64,
    pub(crate) tcr: u64,
    pub(crate) tpidr_el0: u64,
    pub(crate) tpidr_el1: u64,
    pub(crate) tpidrro: u64,
    pub(crate) ttbr0: u64,
    pub(crate) ttbr1: u64,
    pub(crate) vbar: u64,
}

/// Floating-point and vector registers.
#[derive(Serialize, Deserialize)]
pub(crate) struct VectorRegisters {
    /// With SVE `Z0` to `Z31`, `P0` to `P15` and `FFR`, otherwise `V0` to `V31`.
    pub(crate) vectors: Vec<u8>,
    /// `FPSR`, `FPCR` and `ZCR_EL1`.
    pub(crate) status: u64,
    pub(crate) control: u64,
    pub(crate) length: u64,
}

/// The console: registers of a PL011, and bytes on their way.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Console {
    /// `UARTCR`.
    pub(crate) control: u32,
    /// `UARTIMSC`.
    pub(crate) mask: u32,
    /// `UARTRIS`, but for the interrupt of received bytes.
    pub(crate) raw: u32,
    /// Line that the guest has begun.
    pub(crate) line: String,
    /// Lines that the guest may write yet.
    pub(crate) lines_left: u32,
    /// Input that the guest has not read.
    pub(crate) input: VecDeque<u8>,
}

/// A virtio device with one queue: a PCI function with MSI-X.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Virtio {
    /// Command register.
    pub(crate) command: u16,
    /// Base address register 0.
    pub(crate) bar: u32,
    /// Control register of MSI-X.
    pub(crate) msix_control: u16,
    /// Vectors of MSI-X: address, data, control.
    pub(crate) vectors: [[u32; 4]; 2],
    /// Vectors that are pending, one bit each.
    pub(crate) pending: u32,
    pub(crate) feature_select: u32,
    pub(crate) driver_feature_select: u32,
    /// Features that the driver has accepted.
    pub(crate) driver_features: [u32; 2],
    /// Device status.
    pub(crate) status: u8,
    pub(crate) config_vector: u16,
    pub(crate) queue_select: u16,
    pub(crate) queue_vector: u16,
    /// True if the driver has enabled the queue.
    pub(crate) is_enabled: bool,
    pub(crate) queue: VirtioQueue,
}

/// A split virtqueue.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct VirtioQueue {
    /// Number of places.
    pub(crate) size: u16,
    /// Guest-physical addresses of the three areas.
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
    /// Index of the next request, in both rings.
    pub(crate) next: u16,
}
