//! A GICv4.0 in software: ITSes that execute commands, redistributors with `GICR_VPENDBASER`, and
//! tables in memory. Written from IHI 0069; where it says UNPREDICTABLE, the model panics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use vgic::gicv4::command::Command;
use vgic::gicv4::{Gicv4, ItsFault, PhysicalDevice, PhysicalIts, VpeId};
use vgic::intid::{CpuId, DeviceId, EventId, ItsId, VcpuId};

const VALID: u64 = 1 << 63;
const IDAI: u64 = 1 << 62;
const PENDING_LAST: u64 = 1 << 61;
const DIRTY: u64 = 1 << 60;

/// INTID of no doorbell.
const NO_DOORBELL: u32 = 1023;
/// First physical LPI that is a doorbell.
const FIRST_DOORBELL: u32 = 20_000;
/// Reads of `GICR_VPENDBASER` for which a departing virtual PE is dirty.
const DIRTY_READS: u8 = 2;

/// An MSI's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Pending as a virtual LPI.
    Direct,
    /// Waits in the device, whose MSIs are held.
    Held,
    /// The ITS has no virtual LPI for the event: the hypervisor's handler injects the MSI, if it
    /// has mapped the event.
    Software,
}

#[derive(Default)]
pub struct Model(Mutex<State>);

#[derive(Default)]
struct State {
    vpes: BTreeMap<u16, Vpe>,
    /// By DeviceID and EventID.
    events: BTreeMap<(u32, u64), Event>,
    cpus: BTreeMap<u16, Redistributor>,
    tables: BTreeMap<u64, Vec<u8>>,
    next_table: u64,
    numbers: BTreeSet<u16>,
    doorbells_on: BTreeSet<u32>,
    doorbells_pending: BTreeSet<u32>,
    /// Events whose physical LPI is pending, and which no CPU has taken.
    lpis_pending: BTreeSet<(u32, u32)>,
    /// Devices whose MSIs are to be direct.
    devices: BTreeSet<u32>,
    /// Events that wait, by held device.
    held: BTreeMap<u32, Vec<u64>>,
    /// Virtual PEs with commands that no VSYNC has followed.
    unsynced: BTreeSet<u16>,
    /// vPEIDs and tables that are left; `None` for plenty.
    vpes_left: Option<usize>,
    tables_left: Option<usize>,
    /// Commands that are left until the ITS stops; `None` for plenty.
    commands_left: Option<usize>,
    commands: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Event {
    vintid: usize,
    vpe: u16,
    doorbell: u32,
}

struct Vpe {
    table: u64,
    id_bits: u32,
    cpu: u16,
    /// Configuration bytes that the redistributor has cached.
    cache: BTreeMap<usize, u8>,
}

#[derive(Default)]
struct Redistributor {
    vpendbaser: u64,
    vpropbaser: u64,
    /// The resident virtual PE.
    resident: Option<u16>,
    dirty: u8,
}

impl State {
    fn table(&self, at: u64) -> &Vec<u8> {
        self.tables
            .get(&at)
            .unwrap_or_else(|| panic!("no table at {at:#x}"))
    }

    fn set_pending(&mut self, vpe: u16, vintid: usize, pending: bool) {
        let at = self.vpes[&vpe].table;
        let table = self.tables.get_mut(&at).expect("a pending table");
        let mask = 1 << (vintid % 8);
        if pending {
            table[vintid / 8] |= mask;
        } else {
            table[vintid / 8] &= !mask;
        }
    }

    fn is_pending(&self, vpe: u16, vintid: usize) -> bool {
        self.table(self.vpes[&vpe].table)[vintid / 8] >> (vintid % 8) & 1 != 0
    }

    /// Makes a virtual LPI pending; rings the doorbell unless the virtual PE is resident.
    fn raise(&mut self, event: Event) {
        self.set_pending(event.vpe, event.vintid, true);
        let cpu = self.vpes[&event.vpe].cpu;
        let resident = self.cpus.get(&cpu).and_then(|cpu| cpu.resident);
        if resident != Some(event.vpe) && event.doorbell != NO_DOORBELL {
            self.doorbells_pending.insert(event.doorbell);
        }
    }

    /// Returns the configuration byte of a virtual LPI, from the cache if it is there.
    fn configuration(&mut self, cpu: u16, vpe: u16, vintid: usize) -> u8 {
        let table = self.cpus[&cpu].vpropbaser & 0x000f_ffff_ffff_f000;
        // The first byte is INTID 8192's (IHI 0069, 5.1.1).
        let byte = self.table(table)[vintid - 8192];
        *self
            .vpes
            .get_mut(&vpe)
            .expect("mapped")
            .cache
            .entry(vintid)
            .or_insert(byte)
    }

    /// Returns the pending and enabled virtual LPI of the highest priority.
    fn first(&mut self, cpu: u16, vpe: u16) -> Option<usize> {
        let table = self.table(self.vpes[&vpe].table).iter();
        let pending: Vec<usize> = (table.enumerate())
            .filter(|(_, byte)| **byte != 0)
            .flat_map(|(at, byte)| {
                (0..8)
                    .filter(move |bit| byte >> bit & 1 != 0)
                    .map(move |bit| at * 8 + bit)
            })
            .collect();
        let enabled = pending.into_iter().filter_map(|lpi| {
            let byte = self.configuration(cpu, vpe, lpi);
            (byte & 1 != 0).then_some((byte & 0xfc, lpi))
        });
        enabled.min().map(|(_, lpi)| lpi)
    }

    fn is_resident(&self, vpe: u16) -> bool {
        self.cpus.values().any(|cpu| cpu.resident == Some(vpe))
    }

    fn execute(&mut self, command: Command) {
        let [code, second, third, fourth] = command.words();
        let (device, event) = ((code >> 32) as u32, second & 0xffff_ffff);
        let vpe = (second >> 32) as u16;
        let code = code as u8;
        self.commands.push(code);
        let key = (device, event);
        let mapped = |state: &Self| {
            let event = state.events.get(&key);
            *event.unwrap_or_else(|| panic!("{code:#x} of an event that is not mapped"))
        };
        match code {
            // INT, CLEAR, DISCARD, INV.
            0x03 | 0x04 | 0x0f | 0x0c => {
                let event = mapped(self);
                match code {
                    0x03 => self.raise(event),
                    0x0c => {
                        let vpe = self.vpes.get_mut(&event.vpe).expect("mapped");
                        vpe.cache.remove(&event.vintid);
                    }
                    _ => self.set_pending(event.vpe, event.vintid, false),
                }
                if code == 0x0f {
                    self.events.remove(&key);
                }
                self.unsynced.insert(event.vpe);
            }
            // VMAPTI.
            0x2a => {
                assert!(self.vpes.contains_key(&vpe), "no virtual PE {vpe}");
                let (vintid, doorbell) = (third as u32 as usize, (third >> 32) as u32);
                assert!(vintid >= 8192 && vintid >> self.vpes[&vpe].id_bits == 0);
                let event = Event {
                    vintid,
                    vpe,
                    doorbell,
                };
                assert!(self.events.insert(key, event).is_none(), "mapped twice");
                self.unsynced.insert(vpe);
            }
            // VMOVI: the pending state goes along.
            0x21 => {
                let old = mapped(self);
                assert!(third & 1 != 0 && self.vpes.contains_key(&vpe));
                let pending = self.is_pending(old.vpe, old.vintid);
                self.set_pending(old.vpe, old.vintid, false);
                let doorbell = (third >> 32) as u32;
                let new = Event {
                    vpe,
                    doorbell,
                    ..old
                };
                self.events.insert(key, new);
                if pending {
                    self.raise(new);
                }
                self.unsynced.extend([old.vpe, vpe]);
            }
            // VMOVP.
            0x22 => {
                assert!(!self.is_resident(vpe), "moved while resident");
                let cpu = (third >> 16) as u16;
                self.vpes.get_mut(&vpe).expect("mapped").cpu = cpu;
                self.unsynced.insert(vpe);
            }
            // VMAPP.
            0x29 if third & VALID != 0 => {
                let new = Vpe {
                    table: fourth & 0x000f_ffff_ffff_0000,
                    id_bits: (fourth & 0x1f) as u32 + 1,
                    cpu: (third >> 16) as u16,
                    cache: BTreeMap::new(),
                };
                let table = self.table(new.table);
                assert_eq!(table.len() * 8, 1 << new.id_bits);
                assert!(self.vpes.insert(vpe, new).is_none());
                self.unsynced.insert(vpe);
            }
            0x29 => {
                assert!(!self.is_resident(vpe), "unmapped while resident");
                assert!(self.events.values().all(|event| event.vpe != vpe));
                assert!(!self.unsynced.contains(&vpe));
                self.vpes.remove(&vpe).expect("mapped");
            }
            // VINVALL, VSYNC.
            0x2d => {
                self.vpes.get_mut(&vpe).expect("mapped").cache.clear();
                self.unsynced.insert(vpe);
            }
            0x25 => {
                self.unsynced.remove(&vpe);
            }
            _ => panic!("command {code:#x}"),
        }
    }

    fn send(&mut self, device: u32, event: u64) -> Sent {
        if let Some(waiting) = self.held.get_mut(&device) {
            waiting.push(event);
            return Sent::Held;
        }
        match self.events.get(&(device, event)) {
            Some(&event) => {
                self.raise(event);
                Sent::Direct
            }
            None => Sent::Software,
        }
    }
}

/// The test's side: devices, guests and the hypervisor's handler.
impl Model {
    /// Makes a device's MSIs direct, or ends that, for the library to ask.
    pub fn set_device(&self, device: u32, on: bool) {
        let mut state = self.0.lock().unwrap();
        if on {
            state.devices.insert(device);
        } else {
            state.devices.remove(&device);
        }
    }

    /// Sends an MSI of a device.
    pub fn send(&self, device: u32, event: u32) -> Sent {
        self.0.lock().unwrap().send(device, event.into())
    }

    /// Sends an MSI whose physical LPI, if it has one, no CPU takes for now. Returns true if it
    /// has.
    pub fn send_to_busy_cpu(&self, device: u32, event: u32) -> bool {
        let mut state = self.0.lock().unwrap();
        let busy = state.send(device, event.into()) == Sent::Software;
        if busy {
            state.lpis_pending.insert((device, event));
        }
        busy
    }

    /// Takes the physical LPIs that are pending, and returns their events.
    pub fn take_lpis(&self) -> Vec<(u32, u32)> {
        let taken = std::mem::take(&mut self.0.lock().unwrap().lpis_pending);
        taken.into_iter().collect()
    }

    /// Takes a virtual LPI, as a guest on `cpu` does by ICV_IAR1.
    pub fn take(&self, cpu: usize) -> Option<u32> {
        let mut state = self.0.lock().unwrap();
        let vpe = state.cpus.get(&(cpu as u16))?.resident?;
        let lpi = state.first(cpu as u16, vpe)?;
        state.set_pending(vpe, lpi, false);
        Some(lpi as u32)
    }

    /// Takes the vPEIDs whose doorbell is pending and enabled.
    pub fn ring(&self) -> Vec<u16> {
        let mut state = self.0.lock().unwrap();
        let on = state.doorbells_on.clone();
        let (rung, left) = (state.doorbells_pending.iter()).partition(|bell| on.contains(bell));
        state.doorbells_pending = left;
        let rung: BTreeSet<u32> = rung;
        rung.into_iter()
            .map(|bell| (bell - FIRST_DOORBELL) as u16)
            .collect()
    }

    /// Returns true if a virtual PE of this vPEID has its doorbell enabled.
    pub fn is_doorbell_on(&self, vpe: u16) -> bool {
        let state = self.0.lock().unwrap();
        state
            .doorbells_on
            .contains(&(FIRST_DOORBELL + u32::from(vpe)))
    }

    /// Returns true if a virtual PE is resident on `cpu`.
    pub fn is_occupied(&self, cpu: usize) -> bool {
        let state = self.0.lock().unwrap();
        let cpu = state.cpus.get(&(cpu as u16));
        cpu.is_some_and(|cpu| cpu.resident.is_some())
    }

    /// Takes the numbers of the commands executed since the last call, without VSYNC.
    pub fn take_commands(&self) -> Vec<u8> {
        let mut commands = std::mem::take(&mut self.0.lock().unwrap().commands);
        commands.retain(|code| *code != 0x25);
        commands
    }

    /// Leaves so many vPEIDs, tables and commands.
    pub fn leave(&self, vpes: Option<usize>, tables: Option<usize>, commands: Option<usize>) {
        let mut state = self.0.lock().unwrap();
        state.vpes_left = vpes;
        state.tables_left = tables;
        state.commands_left = commands;
    }

    /// Checks that nothing is left of any VM.
    pub fn check_empty(&self) {
        let state = self.0.lock().unwrap();
        assert_eq!(state.vpes.len(), 0, "virtual PEs are left");
        assert_eq!(state.events.len(), 0, "events are left");
        assert_eq!(state.tables.len(), 0, "tables are left");
        assert_eq!(state.numbers.len(), 0, "vPEIDs are left");
        assert_eq!(state.doorbells_on.len(), 0, "doorbells are on");
        assert!(state.cpus.values().all(|cpu| cpu.resident.is_none()));
    }
}

/// Takes one of those that are left.
fn spend(left: &mut Option<usize>) -> bool {
    match left {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}

impl Gicv4 for Model {
    fn its_count(&self) -> usize {
        1
    }

    fn vmovp_is_shared(&self) -> bool {
        true
    }

    fn execute(&self, its: PhysicalIts, commands: &[Command]) -> Result<(), ItsFault> {
        assert_eq!(its, PhysicalIts(0));
        let mut state = self.0.lock().unwrap();
        for command in commands {
            if !spend(&mut state.commands_left) {
                state.unsynced.clear();
                return Err(ItsFault);
            }
            state.execute(*command);
        }
        assert!(state.unsynced.is_empty(), "no VSYNC after {commands:x?}");
        Ok(())
    }

    fn rdbase(&self, _its: PhysicalIts, cpu: CpuId) -> u64 {
        u64::from(cpu.0) << 16
    }

    fn allocate_vpe(&self, _vcpu: Option<VcpuId>) -> Option<VpeId> {
        let mut state = self.0.lock().unwrap();
        if !spend(&mut state.vpes_left) {
            return None;
        }
        let number = (0..).find(|number| !state.numbers.contains(number))?;
        state.numbers.insert(number);
        let doorbell = FIRST_DOORBELL + u32::from(number);
        Some(VpeId { number, doorbell })
    }

    fn free_vpe(&self, vpe: VpeId) {
        let mut state = self.0.lock().unwrap();
        assert!(!state.vpes.contains_key(&vpe.number), "still mapped");
        assert!(state.numbers.remove(&vpe.number));
        state.doorbells_pending.remove(&vpe.doorbell);
    }

    fn allocate_table(&self, bytes: usize) -> Option<u64> {
        let mut state = self.0.lock().unwrap();
        if !spend(&mut state.tables_left) {
            return None;
        }
        state.next_table += 0x1_0000_0000;
        let at = state.next_table;
        state.tables.insert(at, vec![0; bytes]);
        Some(at)
    }

    fn free_table(&self, table: u64, bytes: usize) {
        let mut state = self.0.lock().unwrap();
        assert!(state.vpes.values().all(|vpe| vpe.table != table), "in use");
        let residents = state.cpus.values().filter(|cpu| cpu.resident.is_some());
        for cpu in residents {
            assert_ne!(cpu.vpropbaser & 0x000f_ffff_ffff_f000, table, "in use");
        }
        assert_eq!(state.tables.remove(&table).expect("a table").len(), bytes);
    }

    fn fill_table(&self, table: u64, offset: usize, bytes: usize, value: u8) {
        let mut state = self.0.lock().unwrap();
        assert!(
            state.vpes.values().all(|vpe| vpe.table != table),
            "the hardware's"
        );
        state.tables.get_mut(&table).expect("a table")[offset..offset + bytes].fill(value);
    }

    fn vpendbaser(&self, cpu: CpuId) -> u64 {
        let mut state = self.0.lock().unwrap();
        let cpu = state.cpus.entry(cpu.0).or_default();
        if cpu.dirty > 0 {
            cpu.dirty -= 1;
            return cpu.vpendbaser & !PENDING_LAST | DIRTY;
        }
        cpu.vpendbaser
    }

    fn set_vpendbaser(&self, cpu: CpuId, value: u64) {
        let mut state = self.0.lock().unwrap();
        let old = state.cpus.entry(cpu.0).or_default();
        assert_eq!(old.dirty, 0, "written while a virtual PE leaves");
        match (old.resident, value & VALID != 0) {
            (None, true) => {
                assert_ne!(value & PENDING_LAST, 0, "nobody looks into the table");
                let table = value & 0x000f_ffff_ffff_0000;
                let (&number, vpe) = (state.vpes.iter())
                    .find(|(_, vpe)| vpe.table == table)
                    .expect("the table of a virtual PE");
                assert_eq!(vpe.cpu, cpu.0, "resident where it is not mapped");
                let now = state.cpus.get_mut(&cpu.0).expect("above");
                now.resident = Some(number);
                now.vpendbaser = value;
            }
            (Some(vpe), false) => {
                const FIXED: u64 = !(VALID | IDAI | PENDING_LAST | DIRTY);
                assert_eq!(old.vpendbaser & FIXED, value & FIXED, "changed while valid");
                let pending = state.first(cpu.0, vpe).is_some();
                let now = state.cpus.get_mut(&cpu.0).expect("above");
                now.resident = None;
                now.dirty = DIRTY_READS;
                now.vpendbaser = value & FIXED | if pending { PENDING_LAST } else { 0 };
            }
            (None, false) => old.vpendbaser = value,
            (Some(_), true) => panic!("a virtual PE over another"),
        }
    }

    fn vpropbaser(&self, cpu: CpuId) -> u64 {
        self.0
            .lock()
            .unwrap()
            .cpus
            .entry(cpu.0)
            .or_default()
            .vpropbaser
    }

    fn set_vpropbaser(&self, cpu: CpuId, value: u64) {
        let mut state = self.0.lock().unwrap();
        let cpu = state.cpus.entry(cpu.0).or_default();
        assert!(cpu.resident.is_none(), "changed while valid");
        cpu.vpropbaser = value;
    }

    fn set_doorbell(&self, vpe: VpeId, cpu: CpuId, on: bool) {
        let mut state = self.0.lock().unwrap();
        assert_eq!(state.vpes[&vpe.number].cpu, cpu.0, "mapped elsewhere");
        if on {
            assert!(state.doorbells_on.insert(vpe.doorbell));
        } else {
            assert!(state.doorbells_on.remove(&vpe.doorbell));
        }
    }

    fn device(&self, _its: ItsId, device: DeviceId) -> Option<PhysicalDevice> {
        let its = PhysicalIts(0);
        let device = device.0;
        let wanted = self.0.lock().unwrap().devices.contains(&device);
        wanted.then_some(PhysicalDevice { its, device })
    }

    fn hold(&self, _its: ItsId, device: DeviceId) {
        let mut state = self.0.lock().unwrap();
        assert!(
            state.held.insert(device.0, Vec::new()).is_none(),
            "held twice"
        );
    }

    fn release(&self, _its: ItsId, device: DeviceId) {
        let mut state = self.0.lock().unwrap();
        let waiting = state.held.remove(&device.0).expect("held");
        assert!(waiting.is_empty(), "the test sends none meanwhile");
    }

    fn unmap_event(&self, _its: ItsId, device: DeviceId, event: EventId) -> bool {
        let mut state = self.0.lock().unwrap();
        assert!(
            state.held.contains_key(&device.0),
            "an MSI might find no mapping"
        );
        state.lpis_pending.remove(&(device.0, event.0))
    }
}
