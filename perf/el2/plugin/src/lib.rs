//! A TCG plugin counting the instructions of an emulated arm64 machine at EL2, by event.
//!
//! Markers in the guest ([`event`]) begin and end an event. The plugin counts the EL2 instructions
//! between markers, on all CPUs together, by *segment*. A segment is a run of instructions always
//! executed to its end. A segment ends with its translation block, and with any load or store: a
//! load or store may fault, and under `-icount` a device access makes QEMU leave the block and
//! translate the remaining instructions anew.
//!
//! The plugin also counts how many of them run below the virtual interrupt controller: in functions
//! that the controller has called ([`stacks`]). A map of the code tells the controller's own
//! instructions ([`code_map`]): the file of the argument `map=`, read when the first event begins.
//! Until then no calls are followed.
//!
//! At the end the plugin writes the counts to the file of the argument `out=`: a line
//! `event NUMBER ROUNDS` for each event, then a line
//! `code ADDRESS WORD... : NUMBER=COUNT/BELOW...` for each segment.
//!
//! The counts rely on `-icount`: QEMU then runs all CPUs on one thread. A callback's vCPU number is
//! unreliable under `-icount`: QEMU 10.0 fixes the number at translation. Registers are those of
//! the vCPU that executes.
#![expect(unsafe_code)]
// UNSAFETY: QEMU enters the plugin through C.

mod branch;
mod code_map;
#[path = "../../event.rs"]
mod event;
mod marker;
mod qemu;
mod stacks;

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use branch::Branch;
use code_map::CodeMap;
use event::Event;
use qemu::{Block, Id, Instruction, Opaque, Register};
use stacks::Stacks;

/// A run of instructions, with the number of executions begun during each event, and of those below
/// the virtual interrupt controller.
struct Segment {
    counts: [AtomicU64; Event::END],
    below: [AtomicU64; Event::END],
}

/// An instruction that may enter or leave a function, or begin to handle an exception.
struct Turn {
    address: u64,
    kind: TurnKind,
}

/// The kind of a [`Turn`].
enum TurnKind {
    Branch(Branch),
    Vector,
}

/// Address and instruction words of a segment.
type Code = (u64, Box<[u32]>);

static SEGMENTS: Mutex<Option<HashMap<Code, &'static Segment>>> = Mutex::new(None);

/// The event being measured. 0: none.
static CURRENT: AtomicUsize = AtomicUsize::new(0);

/// The call stacks, once the first event has begun.
static STACKS: Mutex<Option<Stacks>> = Mutex::new(None);

/// Number of measurements of each event.
static ROUNDS: [AtomicU64; Event::END] = [const { AtomicU64::new(0) }; Event::END];

/// The output file, and the file with the map of the code.
static OUT: OnceLock<String> = OnceLock::new();
static MAP: OnceLock<String> = OnceLock::new();

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
        if let Some(path) = argument.strip_prefix("map=") {
            let _ = MAP.set(path.to_owned());
        }
    }
    if OUT.get().is_none() || MAP.get().is_none() {
        eprintln!("el2-plugin: the arguments are out=FILE,map=FILE");
        return -1;
    }
    qemu::register(id, initialised, translated, ended);
    0
}

extern "C" fn initialised(_id: Id, _vcpu: c_uint) {
    qemu::find_registers();
}

extern "C" fn translated(_id: Id, block: *mut Opaque) {
    // SAFETY: QEMU passes `block` for the time of the call.
    let block = unsafe { Block::new(block) };
    match qemu::exception_level() {
        0 | 1 => {
            for instruction in block.instructions() {
                if let Some(number) = marker::number(instruction.word(), Event::end(), Event::END) {
                    instruction.on_execution(mark, number as *mut c_void);
                }
            }
        }
        2 => {
            // Before the counts: a vector's first instruction is the exception's.
            note_vectors(&block);
            count_segments(&block);
            // After the counts: a branch is the function's that it leaves.
            note_branch(&block);
        }
        _ => {}
    }
}

/// Notes the execution of each instruction of a block that may be the first of a vector.
fn note_vectors(block: &Block) {
    let instructions = block.instructions();
    for vector in instructions.filter(|it| code_map::may_be_vector(it.address())) {
        turn_at(&vector, TurnKind::Vector);
    }
}

/// Notes the execution of the branch at the end of a block.
fn note_branch(block: &Block) {
    let Some(last) = block.instructions().last() else {
        return;
    };
    if let Some(branch) = Branch::decode(last.word(), last.address()) {
        turn_at(&last, TurnKind::Branch(branch));
    }
}

/// Installs [`turn`] at an instruction. Its argument is leaked: blocks are translated again rarely.
fn turn_at(instruction: &Instruction, kind: TurnKind) {
    let address = instruction.address();
    let argument = Box::into_raw(Box::new(Turn { address, kind }));
    instruction.on_execution_with_registers(turn, argument.cast());
}

/// Adds a count for each segment of a block.
fn count_segments(block: &Block) {
    let mut words = Vec::new();
    let mut first = None;
    for instruction in block.instructions() {
        words.push(instruction.word());
        let ends = is_load_or_store(instruction.word());
        let begun = first.get_or_insert(instruction);
        if ends {
            begun.on_execution_with_registers(begin, segment(begun.address(), &words));
            words.clear();
            first = None;
        }
    }
    if let Some(begun) = first {
        begun.on_execution_with_registers(begin, segment(begun.address(), &words));
    }
}

/// Returns the segment of `words` at `address`, as the argument of [`begin`].
fn segment(address: u64, words: &[u32]) -> *mut c_void {
    let mut segments = SEGMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let segment: &'static Segment = segments
        .get_or_insert_default()
        .entry((address, words.into()))
        .or_insert_with(|| {
            Box::leak(Box::new(Segment {
                counts: [const { AtomicU64::new(0) }; Event::END],
                below: [const { AtomicU64::new(0) }; Event::END],
            }))
        });
    std::ptr::from_ref(segment).cast_mut().cast()
}

/// Returns whether an instruction is in the encoding group of loads and stores (DDI 0487, C4.1).
fn is_load_or_store(word: u32) -> bool {
    word & (1 << 27 | 1 << 25) == 1 << 27
}

extern "C" fn begin(_vcpu: c_uint, segment: *mut c_void) {
    // Relaxed: with -icount all callbacks run on one thread.
    let current = CURRENT.load(Relaxed);
    if current == 0 {
        return;
    }
    // SAFETY: `segment` made the pointer from a `&'static Segment`.
    let segment = unsafe { &*segment.cast::<Segment>() };
    add(&segment.counts[current]);
    with_stacks(|stacks, pointer| {
        if stacks.is_below(pointer) {
            add(&segment.below[current]);
        }
    });
}

extern "C" fn turn(_vcpu: c_uint, turn: *mut c_void) {
    with_stacks(|stacks, pointer| {
        // SAFETY: `turn_at` made the pointer from a `Turn` that is never freed.
        let &Turn { address, ref kind } = unsafe { &*turn.cast::<Turn>() };
        match *kind {
            TurnKind::Branch(Branch::Call) => stacks.call(address, pointer),
            TurnKind::Branch(Branch::Jump(target)) => stacks.branch(address, target, pointer),
            TurnKind::Branch(Branch::Register(number)) => {
                let register = qemu::GENERAL.get(usize::from(number));
                let target = register.and_then(Register::read).unwrap_or(0);
                stacks.branch(address, target, pointer);
            }
            TurnKind::Branch(Branch::ExceptionReturn) => stacks.exception_return(pointer),
            TurnKind::Vector => stacks.enter_vector(address, pointer),
        }
    });
}

/// Calls `act` with the call stacks, if they are followed, and with the stack pointer.
fn with_stacks(act: impl FnOnce(&mut Stacks, u64)) {
    let mut stacks = STACKS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(stacks) = &mut *stacks {
        act(stacks, qemu::STACK_POINTER.read().unwrap_or(0));
    }
}

extern "C" fn mark(_vcpu: c_uint, number: *mut c_void) {
    let number = number as usize;
    follow_calls();
    // Relaxed: with -icount all callbacks run on one thread.
    CURRENT.store(number, Relaxed);
    add(&ROUNDS[number]);
}

/// Follows calls from the first marker on. A map that cannot be read ends the emulation: the counts
/// would lack a part.
fn follow_calls() {
    let mut stacks = STACKS.lock().unwrap_or_else(PoisonError::into_inner);
    if stacks.is_some() {
        return;
    }
    let path = MAP.get().map_or("", String::as_str);
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    match text.and_then(|text| CodeMap::read(&text)) {
        Ok(map) => *stacks = Some(Stacks::new(map)),
        Err(error) => {
            eprintln!("el2-plugin: {path}: {error}");
            std::process::exit(1);
        }
    }
}

/// Increments a counter. All callbacks run on one thread: Relaxed suffices.
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
        let counts = segment.counts.iter().zip(&segment.below);
        let counts = counts.map(|(all, below)| (all.load(Relaxed), below.load(Relaxed)));
        if counts.clone().all(|(all, _)| all == 0) {
            continue;
        }

        let _ = write!(text, "code {address:x}");
        for word in words {
            let _ = write!(text, " {word:x}");
        }
        let _ = write!(text, " :");
        for (number, (all, below)) in counts.enumerate().filter(|&(_, (all, _))| all != 0) {
            let _ = write!(text, " {number}={all}/{below}");
        }
        text.push('\n');
    }
    text
}
