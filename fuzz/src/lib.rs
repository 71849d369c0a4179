//! A VM under attack by its guest and devices, and the properties checked.
//!
//! * [`input`]: the decoding of an input. A byte chooses, small numbers are common, and every value
//!   is reachable.
//! * [`operation`]: the operations, and the choice of each target.
//! * [`machine`]: the VM under attack, of some [`shape`]. [`guest`]: the code on its vCPUs.
//! * [`host`]: the embedder, with a record of the quotas. [`memory`]: the guest's hostile memory.
//! * [`actor`]: an embedder that misuses the API, beside the VM under attack.
//! * [`attributes`]: a VMM that restores a VM by KVM's attributes, from anybody's tables.
//! * [`gicv2`]: a VM with a GICv2, its guest and its embedder.
//! * [`gicv4`]: the machine's GICv4, for a part of the inputs.
//! * [`bounds`]: bounds on the time of operations. [`heap`]: bounds on the library's allocations.
//!
//! The fuzzer looks for panics, overflows, broken invariants (debug assertions are on), operations
//! longer than given in SECURITY.md, a heap beyond the quotas, and unbalanced counters at the end.

#[path = "../../tests/any_order/actor.rs"]
pub mod actor;
pub mod attributes;
pub mod bounds;
pub mod gicv2;
#[allow(
    dead_code,
    missing_docs,
    reason = "a module shared with tests, each using a part"
)]
#[path = "../../tests/common/gicv4.rs"]
pub mod gicv4;
pub mod guest;
pub mod heap;
pub mod host;
pub mod input;
pub mod machine;
pub mod memory;
pub mod operation;
pub mod shape;

use gicv4::Version;
use input::Input;
use machine::Machine;
use operation::{Attack, Operation};
use shape::Shape;
use vgic::TeardownReport;
use vgic::intid::Kind;
use vgic::state::VmState;
use vgic::trace::Totals;

/// Largest number of operations in a run: an input of small operations would run for long.
const OPERATIONS: usize = 600;

/// Runs a VM through the operations of an input, and tears it down.
pub fn run(attack: Attack, data: &[u8]) {
    let mut input = Input::new(data);
    let shape = input.byte();
    let number = shape & 0x7f;
    let gicv4 = if number == 0x7f { 0 } else { number >> 3 };
    let mut machine = Machine::new(Shape::new(number), version(gicv4));
    if shape & 0x80 == 0 {
        machine.set_up();
    }

    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        machine.apply(&Operation::read(&mut input, attack));
    }

    machine.finish();
}

/// Returns the version of a machine's GICv4 by two bits of a choice: none, or one of both.
fn version(choice: u8) -> Option<Version> {
    match choice & 3 {
        0 | 1 => None,
        2 => Some(Version::V4_0),
        _ => Some(Version::V4_1),
    }
}

/// Returns a state that a VM has saved, to be compared with the state that the VM was restored
/// from: an active SPI of no vCPU there is active where it is routed here.
pub(crate) fn as_given(mut saved: VmState, given: &VmState) -> VmState {
    let ours = saved.spis.iter_mut().chain(&mut saved.extended.spis);
    for (saved, given) in ours.zip(given.spis.iter().chain(&given.extended.spis)) {
        saved.active_on = saved.active_on.and(given.active_on);
    }
    saved
}

/// Checks that the VMs' injections have all been counted once: merged, delivered, withdrawn, or
/// pending at the teardown.
pub(crate) fn check_injections(before: &Totals, report: &TeardownReport) {
    for kind in Kind::ALL.map(|kind| kind as usize) {
        assert_eq!(
            before.injections[kind],
            before.coalesced[kind]
                + before.deliveries[kind]
                + before.withdrawn[kind]
                + report.pending[kind],
            "{before:?} {report:?}"
        );
    }
}

/// Restores a VM from a state that anybody has encoded, and runs it through the operations that
/// follow.
pub fn restore(data: &[u8]) {
    // Those whose states are smaller than an input.
    const SHAPES: [u8; 4] = [0, 0x20, 2, 3];

    let mut input = Input::new(data);
    let shape = input.byte();
    let Ok((state, rest)) = postcard::take_from_bytes::<VmState>(input.rest()) else {
        return;
    };

    let shape_of = Shape::new(SHAPES[usize::from(shape & 3)]);
    let mut machine = Machine::new(shape_of, version(shape >> 3));
    if shape & 4 == 0 {
        machine.set_up();
    }
    machine.restore(&state);

    let mut input = Input::new(rest);
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        machine.apply(&Operation::read(&mut input, Attack::Its));
    }
    machine.finish();
}
