//! The return addresses on a stack.
//!
//! The code keeps no frame pointers: they would cost 3 % of the instructions of an exit. So every
//! word of the stack that is the address behind a call is a return address. Some may be left from
//! calls that have ended, in parts of the stack that nobody has overwritten since.
#![expect(unsafe_code)]
// UNSAFETY: reads the stack and the image by address.

use core::arch::asm;
use core::ops::Range;

use crate::boot::boot_stack;
use crate::cpu::percpu::PerCpu;
use crate::memory::layout;
use crate::panic::Interrupted;

/// Most return addresses that are reported.
const MOST: usize = 48;

/// Bytes of an instruction.
const INSTRUCTION: usize = 4;

/// Calls `report` with the address of the interrupted instruction, if there is one, and of each
/// call on the stack, the latest first. The addresses are link-time addresses, so that `addr2line`
/// understands them.
pub(crate) fn addresses(interrupted: Option<&Interrupted<'_>>, mut report: impl FnMut(usize)) {
    let stack_pointer = match interrupted {
        Some(Interrupted { frame, stack, pc }) => {
            report(*pc as usize);
            if let Some(call) = call_before(frame.x[30] as usize) {
                report(call);
            }
            *stack
        }
        None => {
            let stack_pointer;
            // SAFETY: reads a register only.
            unsafe { asm!("mov {}, sp", out(reg) stack_pointer, options(nomem, nostack)) };
            stack_pointer
        }
    };

    let words = stack_of(stack_pointer).step_by(size_of::<usize>());
    let calls = words.filter_map(|address| {
        // SAFETY: an aligned address on a stack of this CPU, which is mapped, and which nobody
        // writes meanwhile.
        call_before(unsafe { *(address as *const usize) })
    });
    calls.take(MOST).for_each(report);
}

/// Returns the addresses from the stack pointer to the end of the stack that it points to, or none
/// if it points to no stack of the calling CPU.
fn stack_of(stack_pointer: usize) -> Range<usize> {
    let none = stack_pointer..stack_pointer;
    if !stack_pointer.is_multiple_of(size_of::<usize>()) {
        return none;
    }

    let stacks = match PerCpu::try_current() {
        Some(cpu) => [cpu.stack(), cpu.emergency_stack()],
        None => [boot_stack(), none.clone()],
    };
    let mut stacks = stacks.into_iter();
    stacks
        .find(|stack| stack.contains(&stack_pointer))
        .map_or(none, |stack| stack_pointer..stack.end)
}

/// Returns the address of the call that returns to `address`, if there is one.
fn call_before(address: usize) -> Option<usize> {
    /// `BL`, and `BLR` with a register.
    const CALLS: [(u32, u32); 2] = [(0xfc00_0000, 0x9400_0000), (0xffff_fc1f, 0xd63f_0000)];
    let call = address.checked_sub(INSTRUCTION)?;
    if !layout::image().text.contains(&call) || !call.is_multiple_of(INSTRUCTION) {
        return None;
    }

    // SAFETY: an aligned address in the image's instructions.
    let instruction = unsafe { *(call as *const u32) };
    let mut calls = CALLS.iter();
    calls
        .any(|(mask, bits)| instruction & mask == *bits)
        .then_some(call)
}
