//! The SMMU (IHI 0070): confines the DMA of devices, and their MSIs.
//!
//! Every transaction has a StreamID, for a PCI function its requester ID. A stream that is attached
//! to a guest's [`DmaTables`] is translated by them, as stage 2 translates a CPU's accesses. All
//! other streams are aborted, also while the SMMU is disabled. Aborted transactions of attached
//! streams are counted, and the first few are printed.
//!
//! Commands are rare: streams are attached and detached when a guest is made and ends. Each call
//! waits until the SMMU has executed its commands. Events are read in these calls and at the end:
//! the SMMU raises no interrupt.
#![expect(unsafe_code)]
// UNSAFETY: accesses registers at the address that the device tree gives.

mod command;
mod event;
mod queue;
mod registers;
mod stream_table;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::Range;

use aarch64_cpu::registers::{ReadWriteable, Readable, Writeable};
use spin::{Mutex, Once};
use tock_registers::fields::FieldValue;

use crate::cpu::patience;
use crate::memory::dma::DmaTables;
use crate::memory::reach::Reach;
use crate::println;
use command::{Command, CommandQueue};
use event::EventQueue;
use registers::{
    Control0, Control1, Control2, Features0, Features1, Features5, GlobalBypass, Registers,
};
use stream_table::{Entry, StreamTable};

/// Events that are printed.
const PRINTED: u64 = 8;

/// The machine's SMMU.
pub(crate) struct Smmu {
    registers: &'static Registers,
    state: Mutex<State>,
}

struct State {
    commands: CommandQueue,
    events: EventQueue,
    streams: StreamTable,
    /// Tables of the attached streams. The SMMU reads them until the stream is detached.
    attached: BTreeMap<u32, Arc<DmaTables>>,
    /// Tables of all streams at once.
    all: Option<Arc<DmaTables>>,
    /// Number of events.
    faults: u64,
}

// SAFETY: the registers are device memory. Registers that change are written under the lock of
// `state`.
unsafe impl Sync for Smmu {}
// SAFETY: the registers are device memory, which belongs to no CPU.
unsafe impl Send for Smmu {}

static SMMU: Once<Smmu> = Once::new();

/// Takes the SMMU at `frame` over. From now on every stream is aborted until it is attached.
///
/// # Safety
/// An SMMU is there, mapped by identity for ever, and nobody else drives it.
///
/// # Panics
/// If the SMMU lacks a feature that the hypervisor needs, or does not react.
pub(crate) unsafe fn start(frame: &Range<usize>) -> &'static Smmu {
    // SAFETY: by the caller's promise, an SMMU is there for ever.
    let registers = unsafe { &*(frame.start as *const Registers) };
    SMMU.call_once(|| Smmu::start(registers))
}

/// Returns the SMMU, if the machine has one.
pub(crate) fn get() -> Option<&'static Smmu> {
    SMMU.get()
}

impl Smmu {
    fn start(registers: &'static Registers) -> Self {
        let (features, sizes) = (registers.idr0.extract(), registers.idr1.extract());
        assert!(
            features.is_set(Features0::S2P)
                && features.read(Features0::TTF) & 2 != 0
                && features.is_set(Features0::COHACC)
                && registers.idr5.is_set(Features5::GRAN4K)
                && sizes.read(Features1::PRESET) == 0
                && sizes.read(Features1::CMDQS) >= command::FEWEST,
            "the SMMU has no stage 2 like the CPUs', or does not snoop: IDR0 {:#x}, IDR1 {:#x}",
            features.get(),
            sizes.get()
        );

        registers
            .gbpa
            .modify(GlobalBypass::ABORT::SET + GlobalBypass::UPDATE::SET);
        wait("GBPA", || !registers.gbpa.is_set(GlobalBypass::UPDATE));
        registers.cr0.set(0);
        wait("CR0", || registers.cr0ack.get() == 0);
        registers.irq_ctrl.set(0);
        wait("IRQ_CTRL", || registers.irq_ctrlack.get() == 0);
        // Errors from before the hypervisor are none of its own.
        (registers.gerrorn).set(registers.gerror.get());

        registers.cr1.write(
            Control1::TABLE_SH::Inner
                + Control1::TABLE_OC::WriteBack
                + Control1::TABLE_IC::WriteBack
                + Control1::QUEUE_SH::Inner
                + Control1::QUEUE_OC::WriteBack
                + Control1::QUEUE_IC::WriteBack,
        );
        registers
            .cr2
            .write(Control2::PTM::SET + Control2::RECINVSID::SET);

        let two_levels = features.read(Features0::ST_LEVEL) != 0;
        let streams = StreamTable::new(sizes.read(Features1::SIDSIZE), two_levels);
        streams.install(registers);

        let mut commands = CommandQueue::new(sizes.read(Features1::CMDQS));
        registers.cmdq_base.set(commands.base_register());
        registers.cmdq_prod.set(0);
        registers.cmdq_cons.set(0);
        enable(registers, Control0::CMDQEN::SET);
        let forget = [Command::forget_entries(), Command::forget_translations()];
        commands.execute(registers, &forget);

        let events = EventQueue::new(sizes.read(Features1::EVENTQS));
        registers.eventq_base.set(events.base_register());
        registers.eventq_prod.set(0);
        registers.eventq_cons.set(0);
        enable(registers, Control0::EVENTQEN::SET);
        if features.is_set(Features0::ATS) {
            // Requests that a device calls translated are aborted: no stream may make them.
            enable(registers, Control0::ATSCHK::SET);
        }
        enable(registers, Control0::SMMUEN::SET);

        Self {
            registers,
            state: Mutex::new(State {
                commands,
                events,
                streams,
                attached: BTreeMap::new(),
                all: None,
                faults: 0,
            }),
        }
    }

    /// Returns the reach of the SMMU's output addresses.
    pub(crate) fn reach(&self) -> Reach {
        Reach::of(self.registers.idr5.read(Features5::OAS).into())
    }

    /// Attaches every stream to the tables.
    pub(crate) fn attach_all(&self, tables: Arc<DmaTables>) {
        let mut state = self.state.lock();
        let State {
            commands, streams, ..
        } = &mut *state;
        streams.set_all(self.entry(&tables), || {
            commands.execute(self.registers, &[Command::forget_entries()]);
        });
        state.all = Some(tables);
    }

    /// Returns true if the SMMU translates for the stream.
    pub(crate) fn has_stream(&self, stream: u32) -> bool {
        self.state.lock().streams.contains(stream)
    }

    /// Attaches a stream to the tables, which the SMMU shares until the stream is detached or
    /// attached anew.
    ///
    /// # Panics
    /// If the SMMU has no such stream.
    pub(crate) fn attach(&self, stream: u32, tables: Arc<DmaTables>) {
        let mut state = self.state.lock();
        assert!(state.streams.contains(stream), "no stream {stream:#x}");
        self.abort(&mut state, stream);
        let State {
            commands, streams, ..
        } = &mut *state;
        streams.set(stream, self.entry(&tables), || {
            commands.execute(self.registers, &[Command::forget_entry(stream)]);
        });
        state.attached.insert(stream, tables);
    }

    /// Detaches a stream: from now on it is aborted, and nothing of its tables is cached.
    pub(crate) fn detach(&self, stream: u32) {
        let mut state = self.state.lock();
        if state.streams.contains(stream) {
            self.abort(&mut state, stream);
        }
    }

    /// Makes a stream's entry abort, and drops the stream's tables.
    fn abort(&self, state: &mut State, stream: u32) {
        let State {
            commands, streams, ..
        } = state;
        streams.abort(stream, || {
            commands.execute(self.registers, &[Command::forget_entry(stream)]);
        });

        // No translation by the old tables begins any more.
        let old = state.attached.remove(&stream);
        if let Some(old) = old.as_ref().or(state.all.as_ref()) {
            let forget = Command::forget_translations_of(old.vmid());
            commands.execute(self.registers, &[forget]);
        }
        self.read_events(state);
    }

    /// Returns the number of aborted transactions of attached streams so far, and prints the first
    /// few. Events that the SMMU's queue had no room for are not counted. Takes the SMMU's lock.
    pub(crate) fn faults(&self) -> u64 {
        let mut state = self.state.lock();
        self.read_events(&mut state);
        state.faults
    }

    fn read_events(&self, state: &mut State) {
        // A device may fill the queue as fast as it is read.
        for _ in 0..state.events.capacity() {
            let Some(event) = state.events.take(self.registers) else {
                break;
            };
            if state.faults < PRINTED {
                println!("hyp: a device's access is aborted: {event}");
            }
            state.faults += 1;
        }
        if state.events.has_overflowed(self.registers) {
            println!("hyp: the SMMU's events are more than its queue holds");
        }
    }

    fn entry(&self, tables: &DmaTables) -> Entry {
        Entry::stage2(tables, self.reach().ps())
    }
}

/// Enables a part of the SMMU.
fn enable(registers: &Registers, part: FieldValue<u32, Control0::Register>) {
    registers.cr0.modify(part);
    wait("CR0", || registers.cr0ack.get() == registers.cr0.get());
}

/// Waits until `done` returns true.
///
/// # Panics
/// If it does not in time. `register` is the register that was written.
fn wait(register: &str, done: impl Fn() -> bool) {
    let done = patience::wait(done);
    assert!(done, "the SMMU does not take a new value of {register}");
}
