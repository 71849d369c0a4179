//! Bounds on the time of operations, in steps of the library, reads of guest memory and waits for a
//! physical ITS: the tables of SECURITY.md.

use vgic::trace::steps;

use crate::gicv4::beside::waits;
use crate::memory;

/// Largest number of steps, of reads of guest memory, and of waits for a physical ITS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound(pub u64, pub u64, pub u64);

/// A register with a field for each of 32 interrupts.
pub const BITS: Bound = Bound(400, 0, 0);
/// Any register of the distributor or a redistributor without a bound of its own.
pub const REGISTER: Bound = Bound(50, 1, 1);
/// `GICD_CTLR`.
pub const GROUPS: Bound = Bound(1_000, 0, 0);
/// A trapped system register.
pub const SGI: Bound = Bound(5_000, 0, 0);
/// A register of an ITS, or a slice of its commands.
pub const ITS: Bound = Bound(2_500, 160, 40);
/// `GICR_INVALLR`, `GICR_SYNCR`, or a slice of an invalidation.
pub const SWEEP: Bound = Bound(4_000, 256, 33);
/// `GICR_CTLR`, or a slice of a pending table and the configurations.
pub const PENDING_TABLE: Bound = Bound(9_000, 257, 33);
/// A connection: every SPI and PPI may be connected to the physical interrupt already.
pub const CONNECTION: Bound = Bound(20_000, 0, 0);
/// An injection.
pub const INJECTION: Bound = Bound(30, 0, 0);
/// An entry, or another call on a vCPU: block, power on.
pub const ENTRY: Bound = Bound(200, 0, 1);
/// A put or power-off. Builds with debug assertions check the vCPU's whole list, possibly thousands
/// of interrupts.
pub const LEAVE: Bound = Bound(10_000, 0, 0);
/// An exit.
pub const EXIT: Bound = Bound(100, 0, 0);
/// `add_vcpu`: every SPI may be routed to the new vCPU already.
pub const ADDED: Bound = Bound(10_000, 0, 0);
/// One call of `Vgic::advance`: a slice of each kind of work, with two ITSes.
pub const ADVANCE: Bound = Bound(
    GROUPS.0 + SGI.0 + SWEEP.0 + PENDING_TABLE.0 + 2 * ITS.0 + 1_000,
    SWEEP.1 + PENDING_TABLE.1 + 2 * ITS.1,
    SWEEP.2 + 2 * ITS.2,
);

/// Runs `work` and asserts its bound.
pub fn within<R>(bound: Bound, work: impl FnOnce() -> R) -> R {
    let before = Bound(steps(), memory::reads(), waits());
    let result = work();
    let taken = Bound(
        steps() - before.0,
        memory::reads() - before.1,
        waits() - before.2,
    );
    assert!(
        taken.0 <= bound.0 && taken.1 <= bound.1 && taken.2 <= bound.2,
        "{taken:?} of {bound:?}"
    );
    result
}
