//! A shadow of the call stacks at EL2, which tells the instructions that run below the virtual
//! interrupt controller.
//!
//! An instruction is *below* the controller if a function that the controller has called, or jumped
//! to at its own end, has not returned yet. Each call is a [`Frame`]: the stack pointer at the
//! function's entry, and the address to which the function returns.
//!
//! * Frames are found by the stack pointer alone: no CPU and no thread is known. A stack has frames
//!   of its own, so that a switch to another stack, of a thread or for interrupts, begins anew, and
//!   the switch back goes on.
//! * A function has returned when a branch goes to its return address, with the stack pointer of
//!   its entry. Frames deeper than the stack pointer have been given up, and are dropped.
//! * An exception that is taken at EL2 is a frame that is not below the controller. It ends by an
//!   `ERET` with the same stack pointer.

use std::collections::HashMap;

use super::code_map::CodeMap;

/// A function that has been called, or an exception that has been taken, and has not returned.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Stack pointer at the entry, and at the return.
    pointer: u64,
    /// Address of the instruction to return to. `None`: an exception.
    back: Option<u64>,
    /// True if what runs in the frame is below the virtual interrupt controller.
    below: bool,
}

/// Bits of an address that are above the virtual address space. Pointer authentication uses them.
const NO_ADDRESS: u32 = 16;

/// The stacks of a machine. They are empty at first, wherever its CPUs are.
#[derive(Debug)]
pub(crate) struct Stacks {
    map: CodeMap,
    /// Frames by the number of the stack, outer frames first.
    frames: HashMap<u64, Vec<Frame>>,
}

impl Stacks {
    /// Returns stacks for the code of a map.
    pub(crate) fn new(map: CodeMap) -> Self {
        let frames = HashMap::new();
        Self { map, frames }
    }

    /// Tells whether code that runs with a stack pointer is below the virtual interrupt controller,
    /// by its callers.
    pub(crate) fn is_below(&self, pointer: u64) -> bool {
        let frames = self.frames.get(&self.map.stack(pointer));
        let mut live = frames.into_iter().flatten().rev();
        live.find(|frame| frame.pointer >= pointer)
            .is_some_and(|frame| frame.below)
    }

    /// Notes a call by the instruction at `address`.
    pub(crate) fn call(&mut self, address: u64, pointer: u64) {
        let below = self.is_below(pointer) || self.map.is_vgic(address);
        self.push(Frame {
            pointer,
            back: Some(address + 4),
            below,
        });
    }

    /// Notes a branch by the instruction at `address`, which may be the end of a function: a
    /// return, or a jump to another function, which returns in its place.
    pub(crate) fn branch(&mut self, address: u64, target: u64, pointer: u64) {
        let map = &self.map;
        let Some(frames) = self.frames.get_mut(&map.stack(pointer)) else {
            return;
        };
        drop_given_up(frames, pointer);

        let returns = |frame: &Frame| {
            let back = frame.back;
            frame.pointer == pointer && back.is_some_and(|back| (back ^ target) << NO_ADDRESS == 0)
        };
        if let Some(at) = frames.iter().rposition(returns) {
            frames.truncate(at);
        } else if let Some(frame) = frames.last_mut()
            && frame.pointer == pointer
            && map.is_vgic(address)
            && map.enters_function(address, target)
        {
            frame.below = true;
        }
    }

    /// Notes an exception if the instruction at `address`, about to be executed, is the first of a
    /// vector for exceptions from EL2.
    pub(crate) fn enter_vector(&mut self, address: u64, pointer: u64) {
        if self.map.is_vector(address) {
            self.push(Frame {
                pointer,
                back: None,
                below: false,
            });
        }
    }

    /// Notes an `ERET`, from an exception that was taken at EL2 or to a lower level.
    pub(crate) fn exception_return(&mut self, pointer: u64) {
        if let Some(frames) = self.frames.get_mut(&self.map.stack(pointer)) {
            drop_given_up(frames, pointer);
            frames.pop_if(|frame| frame.pointer == pointer && frame.back.is_none());
        }
    }

    /// Adds the innermost frame of a stack.
    fn push(&mut self, frame: Frame) {
        let frames = self
            .frames
            .entry(self.map.stack(frame.pointer))
            .or_default();
        drop_given_up(frames, frame.pointer);
        frames.push(frame);
    }
}

/// Drops the frames that are deeper than the stack pointer.
fn drop_given_up(frames: &mut Vec<Frame>, pointer: u64) {
    let live = frames.iter().rposition(|frame| frame.pointer >= pointer);
    frames.truncate(live.map_or(0, |last| last + 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function of the controller's, two others, and the vector for interrupts at EL2.
    const VGIC: u64 = 0x1000;
    const OTHER: u64 = 0x1100;
    const THIRD: u64 = 0x1200;
    const VECTOR: u64 = 0x2280;
    const TOP: u64 = 0x8000;

    fn stacks() -> Stacks {
        let text = format!(
            "stack 4000\nvectors 2000\nfunction {VGIC:x} vgic_f\nfunction {OTHER:x} other\n\
             function {THIRD:x} third\nvgic {VGIC:x} {OTHER:x}\n"
        );
        Stacks::new(CodeMap::read(&text).unwrap())
    }

    #[test]
    fn what_the_controller_calls_is_below_it_until_it_returns() {
        let mut stacks = stacks();
        stacks.call(OTHER, TOP);
        assert!(!stacks.is_below(TOP - 16), "the controller itself");
        stacks.call(VGIC + 8, TOP - 16);
        assert!(stacks.is_below(TOP - 16) && stacks.is_below(TOP - 64));
        stacks.call(OTHER + 8, TOP - 64);
        stacks.branch(THIRD, OTHER + 12, TOP - 64);
        assert!(stacks.is_below(TOP - 64), "one level has returned");
        stacks.branch(OTHER + 16, VGIC + 12, TOP - 16);
        assert!(!stacks.is_below(TOP - 16));
    }

    #[test]
    fn a_recursion_returns_as_often_as_it_is_called() {
        let mut stacks = stacks();
        let depths = [TOP - 16, TOP - 32, TOP - 48];
        for pointer in depths {
            stacks.call(VGIC + 8, pointer);
        }
        for pointer in depths.into_iter().rev() {
            assert!(stacks.is_below(pointer));
            stacks.branch(VGIC + 12, VGIC + 12, pointer);
        }
        assert!(!stacks.is_below(TOP - 16));
    }

    #[test]
    fn a_function_that_the_controller_jumps_to_returns_in_its_place() {
        let mut stacks = stacks();
        stacks.call(OTHER, TOP);
        stacks.branch(VGIC + 4, VGIC + 0x40, TOP);
        assert!(!stacks.is_below(TOP), "a jump inside of a function");
        stacks.branch(OTHER + 4, THIRD, TOP);
        assert!(!stacks.is_below(TOP), "a jump of another function");
        stacks.branch(VGIC + 4, THIRD, TOP);
        assert!(stacks.is_below(TOP));
        // Its return address has pointer authentication.
        stacks.branch(THIRD + 4, (OTHER + 4) | (0xab << 48), TOP);
        assert!(!stacks.is_below(TOP));
    }

    #[test]
    fn an_exception_in_the_middle_is_not_below() {
        let mut stacks = stacks();
        stacks.call(VGIC, TOP);
        stacks.enter_vector(VECTOR + 4, TOP - 32);
        assert!(stacks.is_below(TOP - 48), "no vector");
        stacks.enter_vector(VECTOR, TOP - 32);
        assert!(!stacks.is_below(TOP - 48));
        stacks.call(OTHER, TOP - 48);
        stacks.call(VGIC, TOP - 64);
        assert!(
            stacks.is_below(TOP - 80),
            "the handler calls the controller"
        );
        stacks.branch(OTHER, VGIC + 4, TOP - 64);
        stacks.branch(OTHER, OTHER + 4, TOP - 48);
        stacks.exception_return(TOP - 32);
        assert!(
            stacks.is_below(TOP - 32),
            "the interrupted function goes on"
        );
        stacks.exception_return(TOP - 32);
        assert!(stacks.is_below(TOP - 32), "an ERET to a lower level");
    }

    #[test]
    fn a_stack_has_frames_of_its_own() {
        let (mut stacks, other) = (stacks(), TOP + 0x4000);
        stacks.call(VGIC, TOP - 32);
        stacks.call(OTHER, TOP - 64);
        assert!(!stacks.is_below(other - 64), "another thread");
        stacks.call(OTHER, other - 64);
        assert!(!stacks.is_below(other - 96));
        stacks.branch(THIRD, OTHER + 4, TOP - 64);
        assert!(stacks.is_below(TOP - 32), "the thread goes on");
    }

    #[test]
    fn frames_that_are_given_up_are_dropped() {
        let mut stacks = stacks();
        stacks.call(OTHER, TOP);
        stacks.call(VGIC, TOP - 64);
        // The stack pointer goes back without a return.
        assert!(!stacks.is_below(TOP - 16));
        stacks.call(OTHER, TOP - 16);
        assert!(!stacks.is_below(TOP - 64));
    }
}
