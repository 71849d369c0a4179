//! The part of QEMU's plugin interface that we use: plain C symbols that its executable exports
//! (interface version 3, QEMU 9.1 and later), and two of GLib's that it brings along.
#![expect(unsafe_code)]
// UNSAFETY: a C interface.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The interface version that the plugin is written for; QEMU looks for this symbol.
#[unsafe(no_mangle)]
pub(crate) static qemu_plugin_version: c_int = 3;

/// A plugin's number.
pub(crate) type Id = u64;

/// A translation block, or an instruction of one, while it is being translated.
#[repr(C)]
pub(crate) struct Opaque {
    _private: [u8; 0],
}

#[repr(C)]
struct Array {
    data: *mut u8,
    len: c_uint,
}

#[repr(C)]
struct RegisterDescriptor {
    handle: *mut c_void,
    name: *const c_char,
    feature: *const c_char,
}

/// A callback that neither reads nor writes registers.
const NO_REGISTERS: c_int = 0;

/// What a callback at run time is handed: the vCPU's number and the argument it was registered with.
pub(crate) type Executed = extern "C" fn(c_uint, *mut c_void);

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_init_cb(id: Id, callback: extern "C" fn(Id, c_uint));
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: extern "C" fn(Id, *mut Opaque));
    fn qemu_plugin_register_atexit_cb(
        id: Id,
        callback: extern "C" fn(Id, *mut c_void),
        argument: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Opaque,
        callback: Executed,
        flags: c_int,
        argument: *mut c_void,
    );
    fn qemu_plugin_tb_n_insns(block: *const Opaque) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Opaque, index: usize) -> *mut Opaque;
    fn qemu_plugin_insn_vaddr(instruction: *const Opaque) -> u64;
    fn qemu_plugin_insn_data(instruction: *const Opaque, to: *mut c_void, len: usize) -> usize;
    fn qemu_plugin_get_registers() -> *mut Array;
    fn qemu_plugin_read_register(handle: *mut c_void, into: *mut Array) -> c_int;
    fn g_byte_array_new() -> *mut Array;
    fn g_byte_array_set_size(array: *mut Array, size: c_uint) -> *mut Array;
}

/// Has `initialised` called for each vCPU, `translated` for each translation block, and `ended` when
/// the emulation ends.
pub(crate) fn register(
    id: Id,
    initialised: extern "C" fn(Id, c_uint),
    translated: extern "C" fn(Id, *mut Opaque),
    ended: extern "C" fn(Id, *mut c_void),
) {
    // SAFETY: `id` is ours, and the functions are what QEMU asks for.
    unsafe {
        qemu_plugin_register_vcpu_init_cb(id, initialised);
        qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
        qemu_plugin_register_atexit_cb(id, ended, std::ptr::null_mut());
    }
}

/// A translation block that is being translated.
pub(crate) struct Block(*mut Opaque);

/// An instruction of a [`Block`].
pub(crate) struct Instruction(*mut Opaque);

impl Block {
    /// The block that QEMU hands to the callback for translations.
    ///
    /// # Safety
    /// `block` is that block, and the callback has not returned.
    pub(crate) unsafe fn new(block: *mut Opaque) -> Self {
        Self(block)
    }

    /// Its instructions.
    pub(crate) fn instructions(&self) -> impl Iterator<Item = Instruction> {
        // SAFETY: by the promise made to `new`.
        let count = unsafe { qemu_plugin_tb_n_insns(self.0) };
        (0..count).map(|index| {
            // SAFETY: as above; the block has this many.
            Instruction(unsafe { qemu_plugin_tb_get_insn(self.0, index) })
        })
    }
}

impl Instruction {
    /// Its virtual address.
    pub(crate) fn address(&self) -> u64 {
        // SAFETY: by the promise made to `Block::new`.
        unsafe { qemu_plugin_insn_vaddr(self.0) }
    }

    /// Its encoding.
    pub(crate) fn word(&self) -> u32 {
        let mut word = [0; 4];
        // SAFETY: as above; QEMU writes at most as many bytes as it is told.
        unsafe { qemu_plugin_insn_data(self.0, word.as_mut_ptr().cast(), word.len()) };
        u32::from_le_bytes(word)
    }

    /// Has `callback` called with `argument` whenever the instruction is about to be executed.
    pub(crate) fn on_execution(&self, callback: Executed, argument: *mut c_void) {
        // SAFETY: as above.
        unsafe { qemu_plugin_register_vcpu_insn_exec_cb(self.0, callback, NO_REGISTERS, argument) };
    }
}

/// Handle of the vCPUs' `cpsr`, which is the same for all, and a buffer for its value.
static CPSR: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static BUFFER: AtomicPtr<Array> = AtomicPtr::new(std::ptr::null_mut());

/// Finds out how to read the exception level; in the callback for a vCPU's initialisation.
pub(crate) fn find_cpsr() {
    // SAFETY: called where QEMU allows it; the array and what it points to are QEMU's for good.
    let registers = unsafe {
        let array = &*qemu_plugin_get_registers();
        std::slice::from_raw_parts(array.data.cast::<RegisterDescriptor>(), array.len as usize)
    };
    let found = registers.iter().find(|register| {
        // SAFETY: QEMU's names are C strings.
        let name = unsafe { CStr::from_ptr(register.name) };
        name == c"cpsr"
    });
    if let Some(register) = found {
        CPSR.store(register.handle, Ordering::Relaxed);
        // SAFETY: a plain constructor; the array is never freed.
        BUFFER.store(unsafe { g_byte_array_new() }, Ordering::Relaxed);
    }
}

/// The exception level of the vCPU that is translating, 0 to 3; 0 if it cannot be read.
pub(crate) fn exception_level() -> u8 {
    let (cpsr, buffer) = (CPSR.load(Ordering::Relaxed), BUFFER.load(Ordering::Relaxed));
    if cpsr.is_null() || buffer.is_null() {
        return 0;
    }
    // SAFETY: the handle and the array are valid for ever; with -icount there is one thread.
    let value = unsafe {
        g_byte_array_set_size(buffer, 0);
        qemu_plugin_read_register(cpsr, buffer);
        let array = &*buffer;
        std::slice::from_raw_parts(array.data, array.len as usize)
    };
    // CurrentEL, bits 3:2 of PSTATE; QEMU answers in the target's byte order.
    value.first().map_or(0, |low| (low >> 2) & 3)
}
