//! The physical interrupt controller: a GICv3, with ITSes if the machine has any (IHI 0069).
//!
//! Every interrupt is in Group 1 and has one priority: which of the guest's interrupts comes first is
//! the virtual controller's business. Interrupts of the guest's devices stay active at the physical
//! controller until the guest deactivates them through a list register, so a level that is still high
//! does not interrupt again in the meantime; the CPU interface therefore drops the priority and
//! deactivates in two steps (`ICC_CTLR_EL1.EOImode` 1).

pub(crate) mod cpu_interface;
pub(crate) mod distributor;
pub(crate) mod its;
pub(crate) mod lpi;
pub(crate) mod redistributor;
mod table;

/// The priority of every interrupt.
const PRIORITY: u8 = 0xa0;

/// Four priorities in a register.
const PRIORITIES: u32 = u32::from_ne_bytes([PRIORITY; 4]);
