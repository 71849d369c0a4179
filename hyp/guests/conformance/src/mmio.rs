//! Device registers: one plain load or store each, of the width that the test asks for.
#![expect(unsafe_code)]
// UNSAFETY: accesses addresses of the machine.

macro_rules! accesses {
    ($($read:ident, $write:ident, $type:ty, $load:literal, $store:literal;)*) => {$(
        /// Reads a register.
        #[inline(never)]
        pub fn $read(address: usize) -> $type {
            let value;
            // SAFETY: the address is a device register's, or in memory that only such accesses use.
            unsafe {
                core::arch::asm!($load, address = in(reg) address, value = out(reg) value,
                                 options(nostack, preserves_flags));
            }
            value
        }

        /// Writes a register.
        #[inline(never)]
        pub fn $write(address: usize, value: $type) {
            // SAFETY: the address is a device register's, or in memory that only such accesses use.
            unsafe {
                core::arch::asm!($store, address = in(reg) address, value = in(reg) value,
                                 options(nostack, preserves_flags));
            }
        }
    )*};
}

accesses! {
    read_8, write_8, u8, "ldrb {value:w}, [{address}]", "strb {value:w}, [{address}]";
    read_16, write_16, u16, "ldrh {value:w}, [{address}]", "strh {value:w}, [{address}]";
    read_32, write_32, u32, "ldr {value:w}, [{address}]", "str {value:w}, [{address}]";
    read_64, write_64, u64, "ldr {value}, [{address}]", "str {value}, [{address}]";
}
