//! The lock required by `arm_vgic` of its environment: the cheapest one, without masking
//! interrupts. A real kernel's cost of masking comes on top.

use std::panic::Location;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use ax_sync::interface::{AcquireResult, ContextState, LockMetadata, SpinOps};

const NO_CONTEXT: ContextState = ContextState::new(0, 0);

struct Spin;

#[ax_crate_interface::impl_interface]
impl SpinOps for Spin {
    fn acquire(
        locked: &AtomicBool,
        _metadata: &LockMetadata,
        _lock_addr: usize,
        _context: u8,
        _subclass: u32,
        _caller: &'static Location<'static>,
    ) -> ContextState {
        // Acquire: pairs with the Release stores of `release` and `force_release`. Relaxed: polls
        // only.
        while locked
            .compare_exchange_weak(false, true, Acquire, Relaxed)
            .is_err()
        {
            while locked.load(Relaxed) {
                std::hint::spin_loop();
            }
        }
        NO_CONTEXT
    }

    fn try_acquire(
        locked: &AtomicBool,
        _metadata: &LockMetadata,
        _lock_addr: usize,
        _context: u8,
        _subclass: u32,
        _caller: &'static Location<'static>,
    ) -> AcquireResult {
        let acquired = locked.compare_exchange(false, true, Acquire, Relaxed);
        AcquireResult::new(acquired.is_ok(), NO_CONTEXT)
    }

    fn release(locked: &AtomicBool, _lock_addr: usize, _context: u8, _state: ContextState) {
        locked.store(false, Release);
    }

    fn force_release(locked: &AtomicBool, _lock_addr: usize, _context: u8) {
        locked.store(false, Release);
    }

    fn is_locked(locked: &AtomicBool) -> bool {
        locked.load(Relaxed)
    }
}
