//! A TCG plugin that counts the cache lines that the CPUs of an emulated arm64 machine fetch from
//! each other at EL2.
//!
//! Every access at EL2 to memory goes through a directory of lines ([`mesi`]), by its physical
//! address. Accesses at EL1 and EL0 do so for lines that EL2 has touched, such as an ITS's command
//! queue, and are not counted. Device registers have no lines. Markers in the guest ([`load`])
//! enclose the loads that are counted. The first marker starts the directory: from then on
//! QEMU translates all code anew, with the plugin's callbacks.
//!
//! A CPU is known by its `TPIDR_EL2`, in which a hypervisor keeps a value that differs from CPU to
//! CPU. With one thread for all CPUs, a callback's vCPU number is unreliable: QEMU 10.0 fixes the
//! number at translation. No other CPU runs from the beginning of a translation block to its end
//! there. So the register is read at the first instruction of each block at EL2, and below EL2 for
//! an access that matters. With the argument `threads=multi` each CPU has a thread, and the vCPU
//! number counts.
//!
//! At the end the plugin writes the counts ([`counts`]) to the file of the argument `out=`.
#![expect(unsafe_code)]
// UNSAFETY: QEMU enters the plugin through C.

mod access;
mod counts;
#[path = "../../load.rs"]
mod load;
#[path = "../../plugin/src/marker.rs"]
mod marker;
#[path = "../../plugin/src/qemu.rs"]
#[allow(dead_code, reason = "each plugin uses its part")]
mod qemu;
mod site;

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use mesi::{Directory, LINE, Outcome};

use access::{Access, on_access, on_execution};
use counts::Key;
use load::Load;
use qemu::{Block, Id, Opaque};
use site::{Site, is_barrier};

/// The directory.
static DIRECTORY: LazyLock<Directory> = LazyLock::new(Directory::default);

/// True from the first marker on.
static IS_ACTIVE: AtomicBool = AtomicBool::new(false);

/// Number of the load that is counted. 0: none.
static LOAD: AtomicUsize = AtomicUsize::new(0);

/// True if each CPU has a thread.
static HAS_THREADS: AtomicBool = AtomicBool::new(false);

/// The running CPU, if one thread runs all CPUs.
static CPU: AtomicUsize = AtomicUsize::new(0);

/// The plugin's number.
static ID: AtomicU64 = AtomicU64::new(0);

/// The output file.
static OUT: OnceLock<String> = OnceLock::new();

/// Installs the plugin: QEMU calls this on loading. Returns 0 on success.
///
/// # Safety
/// `arguments` points to `count` C strings, as in QEMU's call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    // SAFETY: by the caller's promise.
    for argument in unsafe { qemu::arguments(count, arguments) } {
        if let Some(path) = argument.strip_prefix("out=") {
            let _ = OUT.set(path.to_owned());
        }
        if argument == "threads=multi" {
            HAS_THREADS.store(true, Relaxed);
        }
    }
    if OUT.get().is_none() {
        eprintln!("el2-lines: the argument out=FILE is missing");
        return -1;
    }
    // Relaxed: set before the first callback.
    ID.store(id, Relaxed);
    qemu::register(id, initialised, translated, ended);
    0
}

extern "C" fn initialised(_id: Id, _vcpu: c_uint) {
    qemu::find_registers();
}

extern "C" fn translated(_id: Id, block: *mut Opaque) {
    // SAFETY: QEMU passes `block` for the time of the call.
    let block = unsafe { Block::new(block) };
    let level = qemu::exception_level();
    // Relaxed: all is translated anew after it has been set.
    let is_active = IS_ACTIVE.load(Relaxed);
    // Relaxed: set before the first translation.
    let has_threads = HAS_THREADS.load(Relaxed);

    for (number, instruction) in block.instructions().enumerate() {
        let word = instruction.word();
        if let Some(number) = marker::number(word, Load::end(), Load::END) {
            instruction.on_execution(mark, number as *mut c_void);
        }
        if !is_active {
            continue;
        }
        if number == 0 && level == 2 && !has_threads {
            on_execution(&instruction, note_cpu, std::ptr::null_mut());
        }

        let accessed = if level == 2 { at_el2 } else { below_el2 };
        let site = Site::of(instruction.address(), word);
        on_access(
            &instruction,
            accessed,
            std::ptr::from_ref(site).cast_mut().cast(),
        );
        if level == 2 && is_barrier(word) {
            instruction.on_execution(barrier, std::ptr::null_mut());
        }
    }
}

extern "C" fn mark(_vcpu: c_uint, number: *mut c_void) {
    LOAD.store(number as usize, Relaxed);
    if !IS_ACTIVE.swap(true, Relaxed) {
        qemu::reset(ID.load(Relaxed), begun_anew);
    }
}

/// Installs the callbacks again, after QEMU has dropped them and all translations.
extern "C" fn begun_anew(id: Id) {
    qemu::register(id, initialised, translated, ended);
}

extern "C" fn barrier(_vcpu: c_uint, _: *mut c_void) {
    counts::add(&counts::of(LOAD.load(Relaxed)).barriers);
}

/// Notes which CPU runs, if one thread runs all CPUs.
extern "C" fn note_cpu(_vcpu: c_uint, _: *mut c_void) {
    CPU.store(running_cpu(), Relaxed);
}

/// Finds out which CPU runs. The CPUs are numbered in the order in which they come here.
fn running_cpu() -> usize {
    static KNOWN: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    let value = qemu::TPIDR_EL2.read().unwrap_or(0);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let number = known.iter().position(|&other| other == value);
    number.unwrap_or_else(|| {
        known.push(value);
        known.len() - 1
    })
}

extern "C" fn at_el2(vcpu: c_uint, access: Access, address: u64, site: *mut c_void) {
    // SAFETY: `translated` made the pointer from a `&'static Site`.
    let site = unsafe { &*site.cast::<Site>() };
    let cpu = if HAS_THREADS.load(Relaxed) {
        vcpu as usize
    } else {
        CPU.load(Relaxed)
    };
    for line in lines(access, address) {
        let kind = kind(access, site);
        let outcome = DIRECTORY.access(cpu, line, kind);
        let load = LOAD.load(Relaxed);
        if load == 0 {
            continue;
        }

        let counts = counts::of(load);
        match kind {
            mesi::Access::Read => counts::add(&counts.reads),
            mesi::Access::Write => counts::add(&counts.writes),
        }
        if site.is_atomic && !access.is_store() {
            counts::add(&counts.atomics);
        }
        match outcome {
            Outcome::Hit => {}
            Outcome::Memory => counts::add(&counts.cold),
            Outcome::Transfer(kind) => {
                let site = site.address;
                let key = Key {
                    load,
                    line,
                    site,
                    kind,
                };
                counts::transfer(key, address, cpu);
            }
        }
    }
}

extern "C" fn below_el2(vcpu: c_uint, access: Access, address: u64, site: *mut c_void) {
    // SAFETY: `translated` made the pointer from a `&'static Site`.
    let site = unsafe { &*site.cast::<Site>() };
    for line in lines(access, address).filter(|&line| DIRECTORY.knows(line)) {
        let cpu = if HAS_THREADS.load(Relaxed) {
            vcpu as usize
        } else {
            running_cpu()
        };
        DIRECTORY.access(cpu, line, kind(access, site));
    }
}

/// Returns the kind of an access.
fn kind(access: Access, site: &Site) -> mesi::Access {
    if access.is_store() || site.is_atomic {
        mesi::Access::Write
    } else {
        mesi::Access::Read
    }
}

/// Returns the lines of an access, none if it is a device's.
#[inline(always)]
fn lines(access: Access, address: u64) -> impl Iterator<Item = u64> {
    let physical = access.physical(address);
    let lines = physical.map(|physical| physical / LINE..=(physical + access.size() - 1) / LINE);
    lines.into_iter().flatten()
}

extern "C" fn ended(_id: Id, _: *mut c_void) {
    if let Some(path) = OUT.get()
        && let Err(error) = std::fs::write(path, counts::report())
    {
        eprintln!("el2-lines: {path}: {error}");
    }
}
