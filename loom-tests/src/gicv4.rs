//! A GICv4.0 or GICv4.1 for the models: one ITS, redistributors, and device 0 of a virtual ITS
//! behind them.
//!
//! Every access that another CPU or the device may notice is one access of loom's, which orders no
//! other memory: hardware orders none. The CPUs' accesses happen in one order, as if the GIC did
//! one thing at a time. The model panics where IHI 0069 says UNPREDICTABLE.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use loom::sync::atomic::AtomicU8;
use loom::sync::atomic::Ordering::Relaxed;
use vgic::gicv4::command::Command;
use vgic::gicv4::{Gicv4, Gicv41, ItsFault, PhysicalDevice, PhysicalIts, VpeId};
use vgic::intid::{CpuId, DeviceId, EventId, ItsId, VcpuId};

const VALID: u64 = 1 << 63;
const PENDING_LAST: u64 = 1 << 61;
/// `GICR_VPENDBASER.Doorbell` of GICv4.1.
const DOORBELL: u64 = 1 << 62;

/// Bits 51:16 of the address of a pending table.
const TABLE: u64 = 0x000f_ffff_ffff_0000;
/// First physical LPI that is a doorbell.
const FIRST_DOORBELL: u32 = 20_000;
/// INTID of no doorbell.
const NO_DOORBELL: u32 = 1023;

/// A GICv4.
#[derive(Default)]
pub(crate) struct Hardware {
    /// True for a GICv4.1.
    is_v4_1: bool,
    /// Place of an access among the others.
    order: AtomicU8,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_v4_1: bool,
    /// By vPEID.
    vpes: Vec<Vpe>,
    tables: u64,
    /// `GICR_VPENDBASER` of each CPU.
    vpendbasers: BTreeMap<u16, u64>,
    /// Events of the device.
    events: [Event; 2],
    /// True while the device's MSIs are held.
    is_held: bool,
}

/// A virtual PE.
#[derive(Default)]
struct Vpe {
    vcpu: Option<VcpuId>,
    /// Address of the pending table, while the virtual PE is mapped.
    table: Option<u64>,
    /// CPU whose redistributor the virtual PE is mapped to.
    cpu: u16,
    is_resident: bool,
    /// Pending virtual LPIs: bit n for INTID 8192 + n.
    pending: u32,
    /// True while the doorbell is enabled, or, with GICv4.1, has been asked for.
    doorbell_on: bool,
    doorbell_pending: bool,
    /// Virtual SGIs of GICv4.1, a bit each.
    sgis_pending: u16,
    sgis_enabled: u16,
}

impl Vpe {
    fn has_signalled(&self) -> bool {
        self.pending != 0 || self.sgis_pending & self.sgis_enabled != 0
    }

    /// Rings the default doorbell, if the virtual PE has asked for it, and has something to signal.
    fn ring_default_doorbell(&mut self) {
        if self.doorbell_on && self.has_signalled() {
            self.doorbell_on = false;
            self.doorbell_pending = true;
        }
    }
}

/// An event of the device.
#[derive(Default)]
struct Event {
    mapping: Mapping,
    /// True if an MSI waits in the device, whose MSIs are held.
    waits: bool,
    /// True if the physical LPI is pending, and no CPU has taken it.
    lpi_pending: bool,
}

/// The physical ITS's mapping of an event.
#[derive(Clone, Copy, Default)]
enum Mapping {
    /// An MSI is lost.
    #[default]
    None,
    /// To a physical LPI.
    Lpi,
    /// To a virtual LPI.
    Direct {
        vpe: usize,
        lpi: u32,
        has_doorbell: bool,
    },
}

/// Interrupts that a CPU has taken.
pub(crate) struct Taken {
    /// vCPUs whose doorbell has rung.
    pub(crate) doorbells: Vec<VcpuId>,
    /// Events whose physical LPI was pending.
    pub(crate) events: Vec<u32>,
}

impl State {
    fn raise(&mut self, vpe: usize, lpi: u32, has_doorbell: bool) {
        let vpe = &mut self.vpes[vpe];
        assert!(vpe.table.is_some(), "no virtual PE");
        vpe.pending |= 1 << lpi;
        if self.is_v4_1 {
            assert!(!has_doorbell, "nID");
            vpe.ring_default_doorbell();
        }
        vpe.doorbell_pending |= has_doorbell && !vpe.is_resident;
    }

    fn translate(&mut self, event: usize) {
        match self.events[event].mapping {
            Mapping::None => {}
            Mapping::Lpi => self.events[event].lpi_pending = true,
            Mapping::Direct {
                vpe,
                lpi,
                has_doorbell,
            } => self.raise(vpe, lpi, has_doorbell),
        }
    }

    /// Returns the virtual PE, the virtual LPI and the doorbell of an event that is direct.
    fn direct(&self, event: usize) -> (usize, u32, bool) {
        match self.events[event].mapping {
            Mapping::Direct {
                vpe,
                lpi,
                has_doorbell,
            } => (vpe, lpi, has_doorbell),
            _ => panic!("event {event} is not direct"),
        }
    }

    fn map(&mut self, event: usize, vpe: usize, lpi: u32, doorbell: u32) {
        self.events[event].mapping = Mapping::Direct {
            vpe,
            lpi,
            has_doorbell: doorbell != NO_DOORBELL,
        };
    }

    fn execute(&mut self, command: Command) {
        let [code_word, second, third, fourth] = command.words();
        let event = second as u32 as usize;
        let vpe = (second >> 32) as usize;
        match code_word as u8 {
            // INT.
            0x03 => {
                let (vpe, lpi, has_doorbell) = self.direct(event);
                self.raise(vpe, lpi, has_doorbell);
            }
            // CLEAR, DISCARD.
            code @ (0x04 | 0x0f) => {
                let (vpe, lpi, _) = self.direct(event);
                self.vpes[vpe].pending &= !(1 << lpi);
                if code == 0x0f {
                    self.events[event].mapping = Mapping::None;
                }
            }
            // VMAPTI.
            0x2a => {
                let mapping = self.events[event].mapping;
                assert!(!matches!(mapping, Mapping::Direct { .. }), "mapped twice");
                self.map(event, vpe, third as u32 - 8192, (third >> 32) as u32);
            }
            // VMOVI: the pending state goes along.
            0x21 => {
                let (from, lpi, _) = self.direct(event);
                self.map(event, vpe, lpi, (third >> 32) as u32);
                let (_, _, has_doorbell) = self.direct(event);
                if self.vpes[from].pending >> lpi & 1 != 0 {
                    self.vpes[from].pending &= !(1 << lpi);
                    self.raise(vpe, lpi, has_doorbell);
                }
            }
            // VMOVP.
            0x22 => {
                assert!(!self.vpes[vpe].is_resident, "moved while resident");
                self.vpes[vpe].cpu = (third >> 16) as u16;
            }
            // VMAPP.
            0x29 if third & VALID != 0 => {
                self.vpes[vpe].table = Some(fourth & TABLE);
                self.vpes[vpe].cpu = (third >> 16) as u16;
            }
            0x29 => {
                assert!(!self.vpes[vpe].is_resident, "unmapped while resident");
                self.vpes[vpe].table = None;
            }
            // VSGI. With C, the configuration stays.
            0x23 => {
                let sgi = 1 << (code_word >> 32 & 0xf);
                let vpe = &mut self.vpes[vpe];
                if code_word >> 9 & 1 != 0 {
                    vpe.sgis_pending &= !sgi;
                } else if code_word >> 8 & 1 != 0 {
                    vpe.sgis_enabled |= sgi;
                } else {
                    vpe.sgis_enabled &= !sgi;
                }
                vpe.ring_default_doorbell();
            }
            code => panic!("command {code:#x}"),
        }
    }
}

impl Hardware {
    /// Returns a GICv4.1.
    pub(crate) fn v4_1() -> Self {
        let is_v4_1 = true;
        Self {
            is_v4_1,
            state: Mutex::new(State {
                is_v4_1,
                ..State::default()
            }),
            ..Self::default()
        }
    }

    /// Returns the state for an access that another CPU or the device may notice.
    fn access(&self) -> MutexGuard<'_, State> {
        // Relaxed: orders the accesses of the hardware alone.
        self.order.fetch_add(0, Relaxed);
        self.peek()
    }

    /// Returns the state for an access that only the calling CPU can notice.
    fn peek(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Sends an MSI of the device.
    pub(crate) fn send(&self, event: usize) {
        let mut state = self.access();
        if state.is_held {
            state.events[event].waits = true;
        } else {
            state.translate(event);
        }
    }

    /// Maps an event to a physical LPI.
    pub(crate) fn map_to_lpi(&self, event: EventId) {
        self.access().events[event.0 as usize].mapping = Mapping::Lpi;
    }

    /// Takes every doorbell and physical LPI that is pending and enabled, on any CPU.
    pub(crate) fn take_physical(&self) -> Taken {
        let mut state = self.access();
        let always = self.is_v4_1;
        let rung = state.vpes.iter_mut().filter_map(|vpe| {
            let enabled = always || vpe.doorbell_on;
            let rings = enabled && std::mem::take(&mut vpe.doorbell_pending);
            vpe.vcpu.filter(|_| rings)
        });
        let doorbells = rung.collect();
        let pending = state.events.iter_mut().zip(0..).filter_map(|(event, n)| {
            let lpi = std::mem::take(&mut event.lpi_pending);
            lpi.then_some(n)
        });
        let events = pending.collect();
        Taken { doorbells, events }
    }

    /// Takes the pending virtual interrupts, as a guest on `cpu` does. Returns the number taken.
    pub(crate) fn take_virtual(&self, cpu: CpuId) -> usize {
        let mut state = self.access();
        let here = |vpe: &&mut Vpe| vpe.is_resident && vpe.cpu == cpu.0;
        let resident = state.vpes.iter_mut().find(here);
        resident.map_or(0, |vpe| {
            let sgis = vpe.sgis_pending & vpe.sgis_enabled;
            vpe.sgis_pending &= !sgis;
            (std::mem::take(&mut vpe.pending).count_ones() + sgis.count_ones()) as usize
        })
    }
}

impl Gicv4 for Hardware {
    fn v4_1(&self) -> Option<&dyn Gicv41> {
        self.is_v4_1.then_some(self)
    }

    fn its_count(&self) -> usize {
        1
    }

    fn vmovp_is_shared(&self) -> bool {
        true
    }

    fn execute(&self, _its: PhysicalIts, commands: &[Command]) -> Result<(), ItsFault> {
        // INV, VSYNC, VINVALL, INVDB: the commands before are done, and every LPI is enabled.
        const NOTHING: [u8; 4] = [0x0c, 0x25, 0x2d, 0x2e];
        for command in commands {
            if !NOTHING.contains(&(command.words()[0] as u8)) {
                self.access().execute(*command);
            }
        }
        Ok(())
    }

    fn rdbase(&self, _its: PhysicalIts, cpu: CpuId) -> u64 {
        u64::from(cpu.0) << 16
    }

    fn allocate_vpe(&self, vcpu: Option<VcpuId>) -> Option<VpeId> {
        let mut state = self.access();
        let number = state.vpes.len() as u16;
        state.vpes.push(Vpe {
            vcpu,
            ..Vpe::default()
        });
        let doorbell = vcpu.map_or(VpeId::NO_DOORBELL, |_| FIRST_DOORBELL + u32::from(number));
        Some(VpeId { number, doorbell })
    }

    fn free_vpe(&self, vpe: VpeId) {
        let vpe = &self.access().vpes[usize::from(vpe.number)];
        let doorbell_on = vpe.doorbell_on && !self.is_v4_1;
        assert!(vpe.table.is_none() && !doorbell_on, "in use");
    }

    fn allocate_table(&self, _bytes: usize) -> Option<u64> {
        let mut state = self.access();
        state.tables += 1 << 16;
        Some(state.tables)
    }

    fn free_table(&self, _table: u64, _bytes: usize) {}

    fn fill_table(&self, _table: u64, _offset: usize, _bytes: usize, _value: u8) {}

    fn vpendbaser(&self, cpu: CpuId) -> u64 {
        let state = self.peek();
        state.vpendbasers.get(&cpu.0).copied().unwrap_or(0)
    }

    fn set_vpendbaser(&self, cpu: CpuId, value: u64) {
        let mut state = self.access();
        let old = state.vpendbasers.get(&cpu.0).copied().unwrap_or(0);
        let is_v4_1 = self.is_v4_1;
        let vpe = if is_v4_1 {
            state.vpes.get_mut(usize::from(value as u16))
        } else {
            let table = Some(value & TABLE);
            state.vpes.iter_mut().find(|vpe| vpe.table == table)
        };
        let new = match (old & VALID != 0, value & VALID != 0) {
            (false, true) => {
                let looks = is_v4_1 || value & PENDING_LAST != 0;
                assert!(looks, "nobody looks into the table");
                let vpe = vpe.expect("the table of a virtual PE");
                if is_v4_1 {
                    vpe.doorbell_on = false;
                }
                assert_eq!(vpe.cpu, cpu.0, "resident where it is not mapped");
                assert!(!vpe.is_resident);
                vpe.is_resident = true;
                value
            }
            (true, false) => {
                let vpe = vpe.expect("the table of a virtual PE");
                vpe.is_resident = false;
                let unread = is_v4_1 && value & PENDING_LAST != 0;
                let pending = vpe.has_signalled() && !unread;
                if is_v4_1 {
                    vpe.doorbell_on = value & DOORBELL != 0 && !pending && !unread;
                }
                value & !PENDING_LAST | if pending { PENDING_LAST } else { 0 }
            }
            (false, false) => value,
            (true, true) => panic!("a virtual PE over another"),
        };
        state.vpendbasers.insert(cpu.0, new);
    }

    fn vpropbaser(&self, _cpu: CpuId) -> u64 {
        0
    }

    fn set_vpropbaser(&self, _cpu: CpuId, _value: u64) {}

    fn set_doorbell(&self, vpe: VpeId, cpu: CpuId, on: bool) {
        let vpe = &mut self.access().vpes[usize::from(vpe.number)];
        assert_eq!(vpe.cpu, cpu.0, "mapped elsewhere");
        assert_ne!(vpe.doorbell_on, on);
        vpe.doorbell_on = on;
    }

    fn device(&self, _its: ItsId, device: DeviceId) -> Option<PhysicalDevice> {
        let its = PhysicalIts(0);
        let device = device.0;
        Some(PhysicalDevice { its, device })
    }

    fn hold(&self, _its: ItsId, _device: DeviceId) {
        let mut state = self.access();
        assert!(!state.is_held, "held twice");
        state.is_held = true;
    }

    fn release(&self, _its: ItsId, _device: DeviceId) {
        let mut state = self.access();
        assert!(state.is_held, "not held");
        state.is_held = false;
        for event in 0..state.events.len() {
            if std::mem::take(&mut state.events[event].waits) {
                state.translate(event);
            }
        }
    }

    fn unmap_event(&self, _its: ItsId, _device: DeviceId, event: EventId) -> bool {
        let event = &mut self.access().events[event.0 as usize];
        event.mapping = Mapping::None;
        std::mem::take(&mut event.lpi_pending)
    }
}

impl Gicv41 for Hardware {
    fn has_virtual_sgis(&self) -> bool {
        true
    }

    fn write_invallr(&self, _cpu: CpuId, _value: u64) -> Result<(), ItsFault> {
        Ok(())
    }

    fn read_vsgipendr(&self, _cpu: CpuId, vsgir: u32) -> Result<u32, ItsFault> {
        let pending = self.access().vpes[vsgir as usize].sgis_pending;
        Ok(pending.into())
    }

    fn write_sgir(&self, _its: PhysicalIts, value: u64) {
        let vpe = &mut self.access().vpes[(value >> 32) as usize];
        vpe.sgis_pending |= 1 << (value & 0xf);
        vpe.ring_default_doorbell();
    }
}
