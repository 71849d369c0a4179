//! A VM, what a guest and its devices do to it, and what must hold whatever they do.
//!
//! * [`input`]: how an input is read: a byte chooses, small numbers are common, and everything can be said;
//! * [`operation`]: what can happen, and which of it each target lets happen;
//! * [`machine`]: the VM that it happens to, of one [`shape`] or another; [`guest`]: what runs on its vCPUs;
//! * [`host`]: the embedder, which keeps the quotas' books; [`memory`]: the guest's memory, hostile;
//! * [`bounds`]: how long each thing may take; [`heap`]: how much the library may allocate.
//!
//! Panics, overflows, broken invariants (debug assertions are on), operations longer than SECURITY.md says, a
//! heap beyond the quotas and books that do not balance at the end are what the fuzzer looks for.

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

/// Most operations of one run: an input of small ones would not end for long.
const OPERATIONS: usize = 600;

/// Runs a VM through what an input says, to its end.
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
