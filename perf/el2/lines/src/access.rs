//! The part of QEMU's plugin interface about accesses to memory.
#![expect(unsafe_code)]
// UNSAFETY: a C interface.

use std::ffi::{c_int, c_uint, c_void};

use crate::qemu::{Instruction, Opaque};

/// An access: flags of QEMU's.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Access(u32);

/// A physical address, as QEMU keeps it during a callback.
#[repr(C)]
struct Physical {
    _private: [u8; 0],
}

/// A callback for accesses. Arguments: the vCPU's number, the access, its virtual address, and the
/// argument of the registration.
pub(crate) type Accessed = extern "C" fn(c_uint, Access, u64, *mut c_void);

/// Flag of a callback that reads registers.
const READS_REGISTERS: c_int = 1;
/// Loads and stores.
const LOADS_AND_STORES: c_int = 3;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut Opaque,
        callback: Accessed,
        flags: c_int,
        kinds: c_int,
        argument: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Opaque,
        callback: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        argument: *mut c_void,
    );
    fn qemu_plugin_mem_is_store(access: Access) -> bool;
    fn qemu_plugin_mem_size_shift(access: Access) -> c_uint;
    fn qemu_plugin_get_hwaddr(access: Access, address: u64) -> *mut Physical;
    fn qemu_plugin_hwaddr_is_io(physical: *const Physical) -> bool;
    fn qemu_plugin_hwaddr_phys_addr(physical: *const Physical) -> u64;
}

/// Installs `callback`, which may read registers, with `argument` for each access of an
/// instruction.
pub(crate) fn on_access(instruction: &Instruction, callback: Accessed, argument: *mut c_void) {
    // SAFETY: an `Instruction` is valid, and `callback` has QEMU's signature.
    unsafe {
        qemu_plugin_register_vcpu_mem_cb(
            instruction.0,
            callback,
            READS_REGISTERS,
            LOADS_AND_STORES,
            argument,
        );
    }
}

/// Installs `callback`, which may read registers, for each execution of an instruction.
pub(crate) fn on_execution(
    instruction: &Instruction,
    callback: extern "C" fn(c_uint, *mut c_void),
    argument: *mut c_void,
) {
    // SAFETY: an `Instruction` is valid, and `callback` has QEMU's signature.
    unsafe {
        qemu_plugin_register_vcpu_insn_exec_cb(instruction.0, callback, READS_REGISTERS, argument);
    }
}

impl Access {
    /// Returns true for a store.
    pub(crate) fn is_store(self) -> bool {
        // SAFETY: QEMU made the flags.
        unsafe { qemu_plugin_mem_is_store(self) }
    }

    /// Returns the number of bytes.
    pub(crate) fn size(self) -> u64 {
        // SAFETY: QEMU made the flags.
        1 << unsafe { qemu_plugin_mem_size_shift(self) }
    }

    /// Returns the physical address, or `None` for a device's. Called in the callback for the
    /// access, with its virtual address.
    pub(crate) fn physical(self, address: u64) -> Option<u64> {
        // SAFETY: QEMU answers for the access of the callback, by a pointer that is good until the
        // callback returns, or null.
        unsafe {
            let physical = qemu_plugin_get_hwaddr(self, address);
            if physical.is_null() || qemu_plugin_hwaddr_is_io(physical) {
                return None;
            }
            Some(qemu_plugin_hwaddr_phys_addr(physical))
        }
    }
}
