//! A TCG plugin that counts what an emulated arm64 machine executes at EL2, by event.
//!
//! Markers in the guest ([`event`]) begin and end an event. What is executed at EL2 in between, on all
//! CPUs together, is counted by *segment*: a run of instructions that is executed to its end whenever it
//! is begun. A segment ends with its translation block, and with any load or store: that may fault, and
//! under `-icount` a device access makes QEMU leave the block and translate the rest of it anew.
//!
//! At the end the counts go to the file named by the argument `out=`: a line `event NUMBER ROUNDS` for
//! each event, then a line `code ADDRESS WORD... : NUMBER=COUNT...` for each segment.
//!
//! The counting relies on `-icount`, with which QEMU runs all CPUs on one thread. (The number of the
//! vCPU that a callback is given is not to be relied on then: QEMU 10.0 settles it at translation.)
#![expect(unsafe_code)]
// UNSAFETY: entered by QEMU, through C.

#[path = "../../event.rs"]
mod event;
mod qemu;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use event::Event;
use qemu::{Block, Id, Opaque};

/// A run of instructions and how often it was begun during each event.
struct Segment {
    counts: [AtomicU64; Event::END],
}

/// Where it lies and what it consists of.
type Code = (u64, Box<[u32]>);

static SEGMENTS: Mutex<Option<HashMap<Code, &'static Segment>>> = Mutex::new(None);

/// The event that is being measured; 0: none.
static CURRENT: AtomicUsize = AtomicUsize::new(0);

/// How often each event was measured.
static ROUNDS: [AtomicU64; Event::END] = [const { AtomicU64::new(0) }; Event::END];

/// The file that the counts go to.
static OUT: OnceLock<String> = OnceLock::new();

/// Entered by QEMU when it loads the plugin; 0 if the plugin can do its work.
///
/// # Safety
/// As QEMU calls it: `arguments` points to `count` C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: by the caller's promise.
        let argument = unsafe { CStr::from_ptr(*arguments.add(index)) }.to_string_lossy();
        if let Some(path) = argument.strip_prefix("out=") {
            let _ = OUT.set(path.to_owned());
        }
    }
    if OUT.get().is_none() {
        eprintln!("el2-plugin: the argument out=FILE is missing");
        return -1;
    }
    qemu::register(id, initialised, translated, ended);
    0
}

extern "C" fn initialised(_id: Id, _vcpu: c_uint) {
    qemu::find_cpsr();
}

extern "C" fn translated(_id: Id, block: *mut Opaque) {
    // SAFETY: QEMU hands it to us for the time of this call.
    let block = unsafe { Block::new(block) };
    match qemu::exception_level() {
        0 | 1 => {
            for instruction in block.instructions() {
                if let Some(number) = event::marked(instruction.word()) {
                    instruction.on_execution(mark, number as *mut c_void);
                }
            }
        }
        2 => count_segments(&block),
        _ => {}
    }
}

/// Has the segments of a block counted.
fn count_segments(block: &Block) {
    let mut words = Vec::new();
    let mut first = None;
    for instruction in block.instructions() {
        words.push(instruction.word());
        let ends = is_load_or_store(instruction.word());
        let begun = first.get_or_insert(instruction);
        if ends {
            begun.on_execution(begin, segment(begun.address(), &words));
            words.clear();
            first = None;
        }
    }
    if let Some(begun) = first {
        begun.on_execution(begin, segment(begun.address(), &words));
    }
}

/// The segment of this code, as the argument of [`begin`].
fn segment(address: u64, words: &[u32]) -> *mut c_void {
    let mut segments = SEGMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let segment: &'static Segment = segments
        .get_or_insert_default()
        .entry((address, words.into()))
        .or_insert_with(|| {
            Box::leak(Box::new(Segment {
                counts: [const { AtomicU64::new(0) }; Event::END],
            }))
        });
    std::ptr::from_ref(segment).cast_mut().cast()
}

/// Whether an instruction is in the encoding group of loads and stores (DDI 0487, C4.1).
fn is_load_or_store(word: u32) -> bool {
    word & (1 << 27 | 1 << 25) == 1 << 27
}

extern "C" fn begin(_vcpu: c_uint, segment: *mut c_void) {
    let current = CURRENT.load(Relaxed);
    if current != 0 {
        // SAFETY: made by `segment`, from a reference that lives for ever.
        let segment = unsafe { &*segment.cast::<Segment>() };
        add(&segment.counts[current]);
    }
}

extern "C" fn mark(_vcpu: c_uint, number: *mut c_void) {
    let number = number as usize;
    CURRENT.store(number, Relaxed);
    add(&ROUNDS[number]);
}

/// Counts one more. There is one thread.
fn add(count: &AtomicU64) {
    count.store(count.load(Relaxed) + 1, Relaxed);
}

extern "C" fn ended(_id: Id, _: *mut c_void) {
    if let Some(path) = OUT.get()
        && let Err(error) = std::fs::write(path, report())
    {
        eprintln!("el2-plugin: {path}: {error}");
    }
}

fn report() -> String {
    let mut text = String::new();
    let segments = SEGMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    for event in Event::ALL {
        let number = event as usize;
        let rounds = ROUNDS[number].load(Relaxed);
        let _ = writeln!(text, "event {number} {rounds}");
    }
    for ((address, words), segment) in segments.iter().flatten() {
        let counts = segment.counts.iter().map(|count| count.load(Relaxed));
        if counts.clone().all(|count| count == 0) {
            continue;
        }
        let _ = write!(text, "code {address:x}");
        for word in words {
            let _ = write!(text, " {word:x}");
        }
        let _ = write!(text, " :");
        for (number, count) in counts.enumerate().filter(|&(_, count)| count != 0) {
            let _ = write!(text, " {number}={count}");
        }
        text.push('\n');
    }
    text
}
