//! Device registers.
#![expect(unsafe_code)]
// UNSAFETY: accesses addresses of the machine that the guest is written for.

macro_rules! accesses {
    ($($read:ident, $write:ident, $type:ty, $load:literal, $store:literal;)*) => {$(
        /// Reads a register by one plain load, which a hypervisor can decode.
        #[inline(always)]
        pub(crate) fn $read(address: usize) -> $type {
            let value;
            // SAFETY: the address is a device register of this machine, where the guest has no
            // memory.
            unsafe {
                core::arch::asm!($load, address = in(reg) address, value = out(reg) value,
                                 options(nostack, preserves_flags));
            }
            value
        }

        /// Writes a register by one plain store, which a hypervisor can decode.
        #[inline(always)]
        pub(crate) fn $write(address: usize, value: $type) {
            // SAFETY: the address is a device register of this machine, where the guest has no
            // memory.
            unsafe {
                core::arch::asm!($store, address = in(reg) address, value = in(reg) value,
                                 options(nostack, preserves_flags));
            }
        }
    )*};
}

accesses! {
    read_8, write_8, u8, "ldrb {value:w}, [{address}]", "strb {value:w}, [{address}]";
    read_32, write_32, u32, "ldr {value:w}, [{address}]", "str {value:w}, [{address}]";
    read_64, write_64, u64, "ldr {value}, [{address}]", "str {value}, [{address}]";
}
