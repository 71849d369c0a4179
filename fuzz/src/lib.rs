//! A VM under attack by its guest and devices, and the properties checked.
//!
//! * [`input`]: the decoding of an input. A byte chooses, small numbers are common, and every value
//!   is reachable.
//! * [`operation`]: the operations, and the choice of each target.
//! * [`machine`]: the VM under attack, of some [`shape`]. [`guest`]: the code on its vCPUs.
//! * [`host`]: the embedder, with a record of the quotas. [`memory`]: the guest's hostile memory.
//! * [`actor`]: an embedder that misuses the API, beside the VM under attack.
//! * [`bounds`]: bounds on the time of operations. [`heap`]: bounds on the library's allocations.
//!
//! The fuzzer looks for panics, overflows, broken invariants (debug assertions are on), operations
//! longer than given in SECURITY.md, a heap beyond the quotas, and unbalanced counters at the end.

#[path = "../../tests/any_order/actor.rs"]
pub mod actor;
pub mod bounds;
pub mod guest;
pub mod heap;
pub mod host;
pub mod input;
pub mod machine;
pub mod memory;
pub mod operation;
pub mod shape;

use input::Input;
use machine::Machine;
use operation::{Attack, Operation};
use shape::Shape;

/// Largest number of operations in a run: an input of small operations would run for long.
const OPERATIONS: usize = 600;

/// Runs a VM through the operations of an input, and tears it down.
pub fn run(attack: Attack, data: &[u8]) {
    let mut input = Input::new(data);
    let shape = input.byte();
    let mut machine = Machine::new(Shape::new(shape & 0x7f));
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
