//! The physical ITS: translates the devices' MSIs into LPIs.
//!
//! Collection n is CPU number n. Commands are rare, as the guest seldom maps, moves or unmaps
//! events. Each call waits until the ITS has executed its commands.
#![expect(unsafe_code)]
// UNSAFETY: accesses registers at the address that the device tree gives.

mod command;

use alloc::collections::BTreeMap;
use core::ops::Range;

use aarch64_cpu::registers::{ReadWriteable, Readable, Writeable};
use spin::Mutex;
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

use command::{Command, CommandQueue};

use crate::gic::cpu_interface;
use crate::memory::table::Table;

register_bitfields! {u32,
    /// `GITS_CTLR`.
    Control [
        QUIESCENT OFFSET(31) NUMBITS(1) [],
        ENABLED OFFSET(0) NUMBITS(1) [],
    ],
}

register_bitfields! {u64,
    /// `GITS_TYPER`.
    Type [
        /// Set if one VMOVP on one ITS is enough for all.
        VMOVP OFFSET(37) NUMBITS(1) [],
        /// Set if redistributors are named by their address, not by their number.
        PTA OFFSET(19) NUMBITS(1) [],
        /// Bits of DeviceID, less one.
        DEVBITS OFFSET(13) NUMBITS(5) [],
        /// Bits of EventID, less one.
        ID_BITS OFFSET(8) NUMBITS(5) [],
        /// Bytes of an entry of an interrupt translation table, less one.
        ITT_ENTRY_SIZE OFFSET(4) NUMBITS(4) [],
        /// Set if the ITS has virtual LPIs.
        VIRTUAL OFFSET(1) NUMBITS(1) [],
    ],
    /// `GITS_CREADR`.
    ReadPointer [
        OFFSET OFFSET(5) NUMBITS(15) [],
        STALLED OFFSET(0) NUMBITS(1) [],
    ],
    /// `GITS_BASER<n>`.
    Base [
        VALID OFFSET(63) NUMBITS(1) [],
        INDIRECT OFFSET(62) NUMBITS(1) [],
        INNER_CACHE OFFSET(59) NUMBITS(3) [WriteBack = 7],
        KIND OFFSET(56) NUMBITS(3) [
            None = 0,
            Devices = 1,
            VirtualPes = 2,
            Collections = 4,
        ],
        /// Bytes of an entry, less one.
        ENTRY_SIZE OFFSET(48) NUMBITS(5) [],
        /// Bits 47:12 of the address.
        PAGE OFFSET(12) NUMBITS(36) [],
        SHAREABILITY OFFSET(10) NUMBITS(2) [Inner = 1],
        PAGE_SIZE OFFSET(8) NUMBITS(2) [Kib4 = 0, Kib16 = 1, Kib64 = 2],
        /// Pages, less one.
        SIZE OFFSET(0) NUMBITS(8) [],
    ],
}

register_structs! {
    Registers {
        (0x0000 => ctlr: ReadWrite<u32, Control::Register>),
        (0x0004 => _reserved0),
        (0x0008 => typer: ReadOnly<u64, Type::Register>),
        (0x0010 => _reserved1),
        (0x0080 => cbaser: ReadWrite<u64>),
        (0x0088 => cwriter: ReadWrite<u64>),
        (0x0090 => creadr: ReadOnly<u64, ReadPointer::Register>),
        (0x0098 => _reserved2),
        (0x0100 => baser: [ReadWrite<u64, Base::Register>; 8]),
        (0x0140 => _reserved3),
        (0x2_0000 => @END),
    }
}

/// Most bits of DeviceID in tables: those of a PCI segment's requester IDs.
const DEVICE_BITS: u32 = 16;

/// Number of vPEIDs that the hypervisor uses, from 0 on.
pub(crate) const VIRTUAL_PES: usize = 4096;

/// Alignment of an interrupt translation table, in bytes.
const ITT_ALIGNMENT: usize = 256;

/// Page sizes of `GITS_BASER<n>` as code and bytes, from the largest.
const PAGE_SIZES: [(u64, usize); 3] = [(2, 64 << 10), (1, 16 << 10), (0, 4 << 10)];

/// Reason why the ITS refuses a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ItsError {
    /// The DeviceID is beyond the range of the ITS or of its table.
    Device,
    /// The device is not mapped, or has fewer events.
    Event,
}

/// An ITS.
pub(crate) struct Its {
    registers: &'static Registers,
    /// Names of the redistributors in commands, by CPU number.
    targets: alloc::vec::Vec<u64>,
    state: Mutex<State>,
}

struct State {
    queue: CommandQueue,
    devices: BTreeMap<u32, Device>,
}

/// A mapped device.
struct Device {
    event_bits: u32,
    /// Interrupt translation table. Belongs to the ITS while the device is mapped.
    _translations: Table,
}

// SAFETY: the registers are device memory. Registers that change are written under the lock of
// `state`.
unsafe impl Sync for Its {}
// SAFETY: the registers are device memory, which belongs to no CPU.
unsafe impl Send for Its {}

impl Its {
    /// Disables the ITS at `frame`. When it returns, the ITS sends no LPIs, and uses its tables no
    /// more.
    ///
    /// # Safety
    /// An ITS is there, mapped by identity for ever, and nobody else drives it.
    pub(crate) unsafe fn stop(frame: &Range<usize>) {
        // SAFETY: by the caller's promise, an ITS is there for ever.
        let registers = unsafe { &*(frame.start as *const Registers) };
        registers.ctlr.modify(Control::ENABLED.val(0));
        while !registers.ctlr.is_set(Control::QUIESCENT) {
            core::hint::spin_loop();
        }
    }

    /// Initializes the ITS at `frame`, which is disabled, with a collection for each CPU, and
    /// enables it. `target` returns the name of a CPU's redistributor, by its address if the flag
    /// is set, otherwise by its number.
    ///
    /// # Safety
    /// An ITS is there, mapped by identity for ever, and nobody else drives it.
    ///
    /// # Panics
    /// If the ITS asks for a table of an unknown kind.
    pub(crate) unsafe fn start(
        frame: &Range<usize>,
        cpus: usize,
        target: impl Fn(usize, bool) -> u64,
    ) -> Self {
        // SAFETY: by the caller's promise, an ITS is there for ever.
        let registers = unsafe { &*(frame.start as *const Registers) };
        for base in &registers.baser {
            let entries = match base.read_as_enum(Base::KIND) {
                Some(Base::KIND::Value::Devices) => {
                    1 << (registers.typer.read(Type::DEVBITS) as u32 + 1).min(DEVICE_BITS)
                }
                Some(Base::KIND::Value::Collections) => cpus,
                Some(Base::KIND::Value::VirtualPes) => VIRTUAL_PES,
                // No table.
                _ => continue,
            };
            install_table(base, entries);
        }

        let queue = CommandQueue::new();
        registers.cbaser.set(queue.base_register());
        registers.cwriter.set(0);
        registers.ctlr.modify(Control::ENABLED.val(1));

        let by_address = registers.typer.is_set(Type::PTA);
        let its = Self {
            registers,
            targets: (0..cpus).map(|cpu| target(cpu, by_address)).collect(),
            state: Mutex::new(State {
                queue,
                devices: BTreeMap::new(),
            }),
        };

        for (cpu, &target) in its.targets.iter().enumerate() {
            let map = Command::map_collection(cpu as u16, target);
            its.state
                .lock()
                .queue
                .execute(registers, &[map, Command::sync(target)]);
        }
        its
    }

    /// Maps a device with the events below 2^`event_bits`. The device must not be mapped.
    ///
    /// # Errors
    /// [`ItsError::Device`] if there is no such DeviceID, [`ItsError::Event`] if there are fewer
    /// events.
    pub(crate) fn map_device(&self, device: u32, event_bits: u32) -> Result<(), ItsError> {
        let kind = self.registers.typer.extract();
        if device >> (kind.read(Type::DEVBITS) as u32 + 1).min(DEVICE_BITS) != 0 {
            return Err(ItsError::Device);
        }
        if event_bits > kind.read(Type::ID_BITS) as u32 + 1 {
            return Err(ItsError::Event);
        }

        let entry_size = kind.read(Type::ITT_ENTRY_SIZE) as usize + 1;
        let translations = Table::new(entry_size << event_bits, ITT_ALIGNMENT);
        let map = Command::map_device(device, event_bits, translations.physical());
        let mut state = self.state.lock();
        state.queue.execute(self.registers, &[map]);
        state.devices.insert(
            device,
            Device {
                event_bits,
                _translations: translations,
            },
        );
        Ok(())
    }

    /// Unmaps a device and all its events. Does nothing if the device is not mapped.
    pub(crate) fn unmap_device(&self, device: u32) {
        let mut state = self.state.lock();
        if state.devices.contains_key(&device) {
            self.execute_and_sync(&mut state, Command::unmap_device(device));
            // The ITS has given the table back.
            state.devices.remove(&device);
        }
    }

    /// Maps an event of a device to `lpi` on CPU number `cpu`.
    ///
    /// # Errors
    /// [`ItsError::Event`] if the device is not mapped, or has fewer events.
    pub(crate) fn map_event(
        &self,
        device: u32,
        event: u32,
        lpi: u32,
        cpu: usize,
    ) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        match state.devices.get(&device) {
            Some(mapped) if event >> mapped.event_bits == 0 => {}
            _ => return Err(ItsError::Event),
        }
        let commands = [
            Command::map_event(device, event, lpi, cpu as u16),
            // The redistributor may have cached the LPI's old configuration.
            Command::invalidate(device, event),
            Command::sync(self.targets[cpu]),
        ];
        state.queue.execute(self.registers, &commands);
        Ok(())
    }

    /// Moves a mapped event, pending or not, from CPU number `from` to CPU number `to`.
    pub(crate) fn move_event(&self, device: u32, event: u32, from: usize, to: usize) {
        let commands = [
            Command::move_event(device, event, to as u16),
            Command::sync(self.targets[from]),
            Command::sync(self.targets[to]),
        ];
        self.state.lock().queue.execute(self.registers, &commands);
    }

    /// Unmaps an event of CPU number `cpu`, and clears its pending state.
    pub(crate) fn unmap_event(&self, device: u32, event: u32, cpu: usize) {
        let commands = [
            Command::discard(device, event),
            Command::sync(self.targets[cpu]),
        ];
        self.state.lock().queue.execute(self.registers, &commands);
    }

    /// Takes an event of CPU number `from`, whose device sends none, out of the ITS, and returns
    /// true if `lpi` was pending. The LPI is the most urgent of all interrupts, and `cpu` is the
    /// calling CPU: if it is pending, this CPU acknowledges it next.
    pub(crate) fn take_event(
        &self,
        device: u32,
        event: u32,
        lpi: u32,
        from: usize,
        cpu: usize,
    ) -> bool {
        /// Reads of `ICC_HPPIR1_EL1` until a pending LPI has reached the CPU.
        const READS: usize = 16;

        self.move_event(device, event, from, cpu);
        let read_again = [
            Command::invalidate(device, event),
            Command::sync(self.targets[cpu]),
        ];
        self.state.lock().queue.execute(self.registers, &read_again);
        let pending = (0..READS).any(|_| cpu_interface::is_next(lpi));
        if pending {
            let taken = cpu_interface::acknowledge();
            debug_assert_eq!(taken, Some(lpi));
            taken.into_iter().for_each(cpu_interface::drop_priority);
        }
        self.unmap_event(device, event, cpu);
        pending
    }

    /// Makes the redistributor of CPU number `cpu` read the configuration of its LPIs again.
    pub(crate) fn invalidate_all(&self, cpu: usize) {
        let commands = [
            Command::invalidate_all(cpu as u16),
            Command::sync(self.targets[cpu]),
        ];
        self.state.lock().queue.execute(self.registers, &commands);
    }

    /// Returns true if the ITS has virtual LPIs.
    pub(crate) fn has_virtual_lpis(&self) -> bool {
        self.registers.typer.is_set(Type::VIRTUAL)
    }

    /// Returns true if one VMOVP on one ITS is enough for all.
    pub(crate) fn is_vmovp_shared(&self) -> bool {
        self.registers.typer.is_set(Type::VMOVP)
    }

    /// Returns the name of a CPU's redistributor in commands.
    pub(crate) fn target(&self, cpu: usize) -> u64 {
        self.targets[cpu]
    }

    /// Executes commands of the library's. Returns false if the ITS does not in time.
    #[must_use]
    pub(crate) fn execute(&self, commands: &[vgic::gicv4::command::Command]) -> bool {
        let commands = commands.iter().copied().map(Command::of_library);
        let mut state = self.state.lock();
        state.queue.try_execute(self.registers, commands)
    }

    /// Executes a command, and a SYNC for every CPU.
    fn execute_and_sync(&self, state: &mut State, command: Command) {
        state.queue.execute(self.registers, &[command]);
        for &target in &self.targets {
            state
                .queue
                .execute(self.registers, &[Command::sync(target)]);
        }
    }
}

/// Gives the ITS the table that `base` asks for, with `entries` entries, for ever.
///
/// # Panics
/// If the ITS accepts no table of that size.
fn install_table(base: &ReadWrite<u64, Base::Register>, entries: usize) {
    /// Largest number of pages in the register.
    const MOST_PAGES: usize = 256;
    let bytes = entries * (base.read(Base::ENTRY_SIZE) as usize + 1);
    for (code, page) in PAGE_SIZES {
        let pages = bytes.div_ceil(page).max(1);
        if pages > MOST_PAGES {
            break;
        }
        let table = Table::new(pages * page, page);
        base.modify(
            Base::VALID::SET
                + Base::INDIRECT::CLEAR
                + Base::INNER_CACHE::WriteBack
                + Base::PAGE.val(table.physical() >> 12)
                + Base::SHAREABILITY::Inner
                + Base::PAGE_SIZE.val(code)
                + Base::SIZE.val(pages as u64 - 1),
        );
        // The register reads back a page size only if the ITS supports it.
        if base.read(Base::PAGE_SIZE) == code {
            core::mem::forget(table);
            return;
        }
        base.modify(Base::VALID::CLEAR);
    }

    panic!(
        "the ITS has no table for {entries} entries: GITS_BASER {:#x}",
        base.get()
    );
}
