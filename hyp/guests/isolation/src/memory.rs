//! The machine's memory map, and accesses to registers.
//!
//! Accesses are single instructions that a hypervisor can emulate from the exception syndrome.
#![expect(unsafe_code)]
// UNSAFETY: accesses memory by address.

use core::arch::asm;

/// Address of RAM, and its size in bytes.
pub(crate) const RAM: u64 = 0x4000_0000;
pub(crate) const RAM_SIZE: u64 = 16 << 20;

/// RAM beyond the image and the stacks, for memory that is used by address.
pub(crate) const SPARE: u64 = RAM + (4 << 20);

macro_rules! accesses {
    ($($read:ident, $write:ident: $type:ty, $load:literal, $store:literal;)*) => {$(
        /// Loads from an address.
        pub(crate) fn $read(address: u64) -> $type {
            let value: $type;
            // SAFETY: the address is a device's, RAM without a reference to it, or unmapped, which
            // is an exception that is handled.
            unsafe {
                asm!($load, out(reg) value, in(reg) address, options(nostack, preserves_flags));
            };
            value
        }

        /// Stores to an address.
        pub(crate) fn $write(address: u64, value: $type) {
            // SAFETY: the address is a device's, RAM without a reference to it, or unmapped, which
            // is an exception that is handled.
            unsafe {
                asm!($store, in(reg) value, in(reg) address, options(nostack, preserves_flags));
            };
        }
    )*};
}

accesses! {
    read8, write8: u32, "ldrb {:w}, [{}]", "strb {:w}, [{}]";
    read16, write16: u32, "ldrh {:w}, [{}]", "strh {:w}, [{}]";
    read32, write32: u32, "ldr {:w}, [{}]", "str {:w}, [{}]";
    read64, write64: u64, "ldr {}, [{}]", "str {}, [{}]";
}
