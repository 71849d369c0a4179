//! The used part of QEMU's plugin interface: C symbols exported by QEMU's executable (interface
//! version 3, QEMU 9.1 and later), and two of GLib, a dependency of QEMU.
#![expect(unsafe_code)]
// UNSAFETY: a C interface.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Interface version of the plugin. QEMU reads this symbol.
#[unsafe(no_mangle)]
pub(crate) static qemu_plugin_version: c_int = 3;

/// A plugin's number.
pub(crate) type Id = u64;

/// Returns the arguments of a plugin.
///
/// # Safety
/// `arguments` points to `count` C strings, as in QEMU's call of `qemu_plugin_install`.
pub(crate) unsafe fn arguments(count: c_int, arguments: *const *const c_char) -> Vec<String> {
    let count = usize::try_from(count).unwrap_or(0);
    let argument = |index| {
        // SAFETY: the caller promises `count` C strings, and `index` is below `count`.
        let argument = unsafe { CStr::from_ptr(*arguments.add(index)) };
        argument.to_string_lossy().into_owned()
    };
    (0..count).map(argument).collect()
}

/// A translation block, or an instruction of a block, during translation.
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

/// Flag of a callback without register accesses.
const NO_REGISTERS: c_int = 0;

/// Flag of a callback that reads registers.
const READS_REGISTERS: c_int = 1;

/// A callback at run time. Arguments: the vCPU's number, and the argument of the registration.
pub(crate) type Executed = extern "C" fn(c_uint, *mut c_void);

unsafe extern "C" {
    fn qemu_plugin_reset(id: Id, callback: extern "C" fn(Id));
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

/// Installs `initialised` for each vCPU, `translated` for each translation block, and `ended` for
/// the end of the emulation.
pub(crate) fn register(
    id: Id,
    initialised: extern "C" fn(Id, c_uint),
    translated: extern "C" fn(Id, *mut Opaque),
    ended: extern "C" fn(Id, *mut c_void),
) {
    // SAFETY: `id` is the plugin's own, and the functions have the signatures of QEMU's header.
    unsafe {
        qemu_plugin_register_vcpu_init_cb(id, initialised);
        qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
        qemu_plugin_register_atexit_cb(id, ended, std::ptr::null_mut());
    }
}

/// Drops the plugin's callbacks and all translations, then calls `dropped`.
#[allow(dead_code, reason = "each plugin uses its part")]
pub(crate) fn reset(id: Id, dropped: extern "C" fn(Id)) {
    // SAFETY: `id` is the plugin's own, and `dropped` has the signature of QEMU's header.
    unsafe { qemu_plugin_reset(id, dropped) };
}

/// A translation block during its translation.
pub(crate) struct Block(*mut Opaque);

/// An instruction of a [`Block`].
pub(crate) struct Instruction(pub(crate) *mut Opaque);

impl Block {
    /// Wraps the block passed to the callback for translations.
    ///
    /// # Safety
    /// `block` comes from that callback, and the callback has not returned.
    pub(crate) unsafe fn new(block: *mut Opaque) -> Self {
        Self(block)
    }

    /// Returns the block's instructions.
    pub(crate) fn instructions(&self) -> impl Iterator<Item = Instruction> {
        // SAFETY: the caller of `new` promised a valid block.
        let count = unsafe { qemu_plugin_tb_n_insns(self.0) };
        (0..count).map(|index| {
            // SAFETY: the caller of `new` promised a valid block, and `index` is below its
            // instruction count.
            Instruction(unsafe { qemu_plugin_tb_get_insn(self.0, index) })
        })
    }
}

impl Instruction {
    /// Returns the instruction's virtual address.
    pub(crate) fn address(&self) -> u64 {
        // SAFETY: the caller of `Block::new` promised a valid block, and QEMU owns its
        // instructions.
        unsafe { qemu_plugin_insn_vaddr(self.0) }
    }

    /// Returns the instruction's encoding.
    pub(crate) fn word(&self) -> u32 {
        let mut word = [0; 4];
        // SAFETY: the caller of `Block::new` promised a valid block. QEMU writes at most
        // `word.len()` bytes.
        unsafe { qemu_plugin_insn_data(self.0, word.as_mut_ptr().cast(), word.len()) };
        u32::from_le_bytes(word)
    }

    /// Installs `callback` with `argument` for each execution of the instruction.
    pub(crate) fn on_execution(&self, callback: Executed, argument: *mut c_void) {
        // SAFETY: the caller of `Block::new` promised a valid block. `callback` has QEMU's
        // signature.
        unsafe { qemu_plugin_register_vcpu_insn_exec_cb(self.0, callback, NO_REGISTERS, argument) };
    }

    /// Installs `callback`, which may read registers, with `argument` for each execution of the
    /// instruction. Callbacks of one instruction run in the order of their installation, before the
    /// instruction.
    pub(crate) fn on_execution_with_registers(&self, callback: Executed, argument: *mut c_void) {
        let (instruction, flags) = (self.0, READS_REGISTERS);
        // SAFETY: the caller of `Block::new` promised a valid block. `callback` has QEMU's
        // signature.
        unsafe { qemu_plugin_register_vcpu_insn_exec_cb(instruction, callback, flags, argument) };
    }
}

/// Handle of a register, which all vCPUs share.
pub(crate) struct Register(AtomicPtr<c_void>);

/// `PSTATE`.
static CPSR: Register = Register(AtomicPtr::new(std::ptr::null_mut()));

/// `TPIDR_EL2`.
#[allow(dead_code, reason = "each plugin uses its part")]
pub(crate) static TPIDR_EL2: Register = Register(AtomicPtr::new(std::ptr::null_mut()));

/// The stack pointer of the current exception level.
pub(crate) static STACK_POINTER: Register = Register(AtomicPtr::new(std::ptr::null_mut()));

/// `X0` to `X30`.
pub(crate) static GENERAL: [Register; 31] =
    [const { Register(AtomicPtr::new(std::ptr::null_mut())) }; 31];

thread_local! {
    /// The calling thread's buffer for the value of a register, which is never freed.
    // SAFETY: `g_byte_array_new` has no precondition.
    static BUFFER: *mut Array = unsafe { g_byte_array_new() };
}

/// Finds the handles of the registers. Called in the callback for a vCPU's initialisation.
pub(crate) fn find_registers() {
    // SAFETY: QEMU allows the call during initialisation. QEMU never frees the array and its
    // strings.
    let registers = unsafe {
        let array = &*qemu_plugin_get_registers();
        std::slice::from_raw_parts(array.data.cast::<RegisterDescriptor>(), array.len as usize)
    };
    let general = (0..).zip(&GENERAL);
    let general = general.map(|(number, handle)| (format!("x{number}"), handle));
    let others = [
        ("cpsr", &CPSR),
        ("sp", &STACK_POINTER),
        ("TPIDR_EL2", &TPIDR_EL2),
    ];
    let others = others.map(|(name, handle)| (name.to_owned(), handle));

    for (name, handle) in general.chain(others) {
        let found = registers.iter().find(|register| {
            // SAFETY: QEMU's register names are C strings.
            name.as_bytes() == unsafe { CStr::from_ptr(register.name) }.to_bytes()
        });
        if let Some(register) = found {
            // Relaxed: the handle is the same for every vCPU, and its value is all that is shared.
            handle.0.store(register.handle, Ordering::Relaxed);
        }
    }
}

impl Register {
    /// Returns the register's value on the calling vCPU, or `None` if QEMU has no such register.
    /// Called during a translation, or by a callback that may read registers.
    pub(crate) fn read(&self) -> Option<u64> {
        // Relaxed: as in `find_registers`.
        let handle = self.0.load(Ordering::Relaxed);
        if handle.is_null() {
            return None;
        }
        let buffer = BUFFER.with(|&buffer| buffer);
        // SAFETY: the handle lives for ever. The calling thread alone uses the array.
        let value = unsafe {
            g_byte_array_set_size(buffer, 0);
            qemu_plugin_read_register(handle, buffer);
            let array = &*buffer;
            std::slice::from_raw_parts(array.data, array.len as usize)
        };
        // QEMU answers in the target's byte order.
        let bytes = value.iter().take(8).rev();
        Some(bytes.fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

/// Returns the exception level of the translating vCPU, 0 to 3. Returns 0 if QEMU has no `cpsr`.
pub(crate) fn exception_level() -> u8 {
    // CurrentEL, bits 3:2 of PSTATE.
    CPSR.read().map_or(0, |value| (value >> 2) as u8 & 3)
}
