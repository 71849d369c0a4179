//! A GICv4.0 or GICv4.1 in software: an ITS that executes commands, redistributors with
//! `GICR_VPENDBASER`, and tables in memory. Written from IHI 0069; where it says UNPREDICTABLE, the
//! model panics.
//!
//! The GICv4.1 has virtual SGIs, and no individual doorbells (`GITS_TYPER.nID`).

#[path = "gicv4_beside.rs"]
pub mod beside;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use vgic::gicv4::command::Command;
use vgic::gicv4::{Gicv4, Gicv41, ItsFault, PhysicalDevice, PhysicalIts, VpeId};
use vgic::intid::{CpuId, DeviceId, EventId, ItsId, VcpuId};

const VALID: u64 = 1 << 63;
const IDAI: u64 = 1 << 62;
const PENDING_LAST: u64 = 1 << 61;
const DIRTY: u64 = 1 << 60;
/// `GICR_VPENDBASER` of GICv4.1.
const DOORBELL: u64 = 1 << 62;
const GROUP1: u64 = 1 << 58;
const GROUP0: u64 = 1 << 59;

const NO_DOORBELL: u32 = VpeId::NO_DOORBELL;
/// First physical LPI that is a doorbell.
const FIRST_DOORBELL: u32 = 20_000;
/// Reads of `GICR_VPENDBASER` for which a departing virtual PE is dirty, and one of GICv4.1 that
/// arrives.
const DIRTY_READS: u8 = 2;

/// Returns the DeviceID, at the physical ITS, of a device of a virtual ITS.
pub fn physical(its: ItsId, device: DeviceId) -> u32 {
    u32::from(its.0) << 16 | device.0
}

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
pub struct Model(Mutex<State>, Version);

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Version {
    #[default]
    V4_0,
    V4_1,
}

type Interruption = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    version: Version,
    vpes: BTreeMap<u16, Vpe>,
    /// By DeviceID and EventID.
    events: BTreeMap<(u32, u64), Event>,
    cpus: BTreeMap<u16, Redistributor>,
    tables: BTreeMap<u64, Vec<u8>>,
    next_table: u64,
    numbers: BTreeSet<u16>,
    /// vCPU of each virtual PE, but of those of none.
    owners: BTreeMap<u16, usize>,
    doorbells_on: BTreeSet<u32>,
    doorbells_pending: BTreeSet<u32>,
    /// Events whose physical LPI is pending, and which no CPU has taken.
    lpis_pending: BTreeSet<(u32, u32)>,
    /// Devices whose MSIs are to be direct.
    devices: BTreeSet<u32>,
    /// Devices at the ITS, where they are others than their DeviceIDs say.
    elsewhere: BTreeMap<u32, u32>,
    /// Events that wait, by held device.
    held: BTreeMap<u32, Vec<u64>>,
    /// The MSI that its device sends as soon as its MSIs are held.
    at_hold: Option<(u32, u64)>,
    /// Called once a command of this number has been executed, and the ITS has answered.
    after: Option<(u8, Interruption)>,
    /// MSIs that were held, and then had no virtual LPI.
    by_software: Vec<(u32, u32)>,
    /// Virtual PEs with commands that no VSYNC has followed.
    unsynced: BTreeSet<u16>,
    /// vPEIDs and tables that are left; `None` for plenty.
    vpes_left: Option<usize>,
    tables_left: Option<usize>,
    /// Commands that are left until the ITS stops; `None` for plenty.
    commands_left: Option<usize>,
    /// True if the ITS executes nothing any more.
    is_stopped: bool,
    commands: Vec<u8>,
    /// Number of waits for the ITS, and of commands.
    work: (u64, u64),
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
    /// GICv4.1: the configuration table, the default doorbell, and whether it has been asked for.
    configuration: u64,
    doorbell: u32,
    is_doorbell_asked: bool,
    /// VGrp0En and VGrp1En of the last residency.
    groups: u64,
    sgis: [Sgi; 16],
}

/// A virtual SGI.
#[derive(Clone, Copy, Default)]
struct Sgi {
    enabled: bool,
    group1: bool,
    priority: u8,
    pending: bool,
}

#[derive(Default)]
struct Redistributor {
    vpendbaser: u64,
    vpropbaser: u64,
    /// The resident virtual PE.
    resident: Option<u16>,
    dirty: u8,
}

/// Returns the numbers of the bits in a pending table that are 1, eight bytes at a time.
fn ones(table: &[u8]) -> impl Iterator<Item = usize> {
    let words = table.chunks_exact(8).enumerate();
    let others = words.filter(|(_, bytes)| *bytes != [0; 8]);
    others.flat_map(|(at, bytes)| {
        let bits = (0..64).filter(|bit| bytes[bit / 8] >> (bit % 8) & 1 != 0);
        bits.map(move |bit| at * 64 + bit)
    })
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
        if self.version == Version::V4_1 {
            assert_eq!(event.doorbell, NO_DOORBELL, "nID");
            self.ring_default_doorbell(event.vpe);
        } else if !self.is_resident(event.vpe) && event.doorbell != NO_DOORBELL {
            self.doorbells_pending.insert(event.doorbell);
        }
    }

    /// Rings the default doorbell of a virtual PE that has asked for it, if an enabled virtual
    /// interrupt is pending.
    fn ring_default_doorbell(&mut self, number: u16) {
        let vpe = &self.vpes[&number];
        let (cpu, asked, doorbell) = (vpe.cpu, vpe.is_doorbell_asked, vpe.doorbell);
        if asked && self.first(cpu, number).is_some() {
            assert_ne!(doorbell, NO_DOORBELL, "asked for no doorbell");
            self.vpes
                .get_mut(&number)
                .expect("mapped")
                .is_doorbell_asked = false;
            self.doorbells_pending.insert(doorbell);
        }
    }

    /// Returns the configuration byte of a virtual LPI, from the cache if it is there.
    fn configuration(&mut self, cpu: u16, vpe: u16, vintid: usize) -> u8 {
        let table = match self.version {
            Version::V4_0 => self.cpus[&cpu].vpropbaser & 0x000f_ffff_ffff_f000,
            Version::V4_1 => self.vpes[&vpe].configuration,
        };
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

    /// Returns the pending and enabled virtual interrupt of the highest priority.
    fn first(&mut self, cpu: u16, vpe: u16) -> Option<usize> {
        let pending: Vec<usize> = ones(self.table(self.vpes[&vpe].table)).collect();
        let enabled = pending.into_iter().filter_map(|lpi| {
            let byte = self.configuration(cpu, vpe, lpi);
            (byte & 1 != 0).then_some((byte & 0xfc, lpi))
        });
        let lpi = enabled.min();
        let vpe = &self.vpes[&vpe];
        let is_open = |group| self.version == Version::V4_0 || vpe.groups & group != 0;
        let signalled = |sgi: &Sgi| {
            let group = if sgi.group1 { GROUP1 } else { GROUP0 };
            sgi.pending && sgi.enabled && is_open(group)
        };
        let sgis = vpe.sgis.iter().enumerate();
        let sgis = sgis
            .filter(|(_, sgi)| signalled(sgi))
            .map(|(n, sgi)| (sgi.priority, n));
        let lpi = lpi.filter(|_| is_open(GROUP1));
        sgis.chain(lpi).min().map(|(_, intid)| intid)
    }

    /// Returns the virtual PE that this value of `GICR_VPENDBASER` makes resident.
    fn arriving(&self, value: u64) -> u16 {
        if self.version == Version::V4_1 {
            assert_ne!(value & (GROUP0 | GROUP1), 0, "no group is enabled");
            assert!(self.vpes.contains_key(&(value as u16)), "not mapped");
            return value as u16;
        }

        assert_ne!(value & PENDING_LAST, 0, "nobody looks into the table");
        let table = value & 0x000f_ffff_ffff_0000;
        let mut vpes = self.vpes.iter();
        let found = vpes.find(|(_, vpe)| vpe.table == table);
        *found.expect("the table of a virtual PE").0
    }

    fn is_resident(&self, vpe: u16) -> bool {
        self.cpus.values().any(|cpu| cpu.resident == Some(vpe))
    }

    fn execute(&mut self, command: Command) {
        const ALLOC: u64 = 1 << 8;
        let [first, second, third, fourth] = command.words();
        let (device, event) = ((first >> 32) as u32, second & 0xffff_ffff);
        let vpe = (second >> 32) as u16;
        let code = first as u8;
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
            // VMOVP. DB and the default doorbell are of GICv4.1.
            0x22 => {
                assert!(!self.is_resident(vpe), "moved while resident");
                let cpu = (third >> 16) as u16;
                let moved = self.vpes.get_mut(&vpe).expect("mapped");
                moved.cpu = cpu;
                if self.version == Version::V4_1 {
                    assert_eq!((third >> 63, fourth as u32), (1, moved.doorbell));
                } else {
                    assert_eq!((third >> 63, fourth), (0, 0));
                }
                self.unsynced.insert(vpe);
            }
            // VMAPP. Alloc, the configuration table and the default doorbell are of GICv4.1.
            0x29 if third & VALID != 0 => {
                let new = Vpe {
                    table: fourth & 0x000f_ffff_ffff_0000,
                    id_bits: (fourth & 0x1f) as u32 + 1,
                    cpu: (third >> 16) as u16,
                    cache: BTreeMap::new(),
                    configuration: first & 0x000f_ffff_ffff_0000,
                    doorbell: second as u32,
                    is_doorbell_asked: false,
                    groups: 0,
                    sgis: [Sgi::default(); 16],
                };
                if self.version == Version::V4_1 {
                    assert_ne!(first & ALLOC, 0, "the first mapping allocates");
                    let configuration = self.table(new.configuration).len();
                    assert_eq!(configuration + 8192, 1 << new.id_bits);
                } else {
                    assert_eq!((first, second as u32), (0x29, 0));
                }
                let table = self.table(new.table);
                assert_eq!(table.len() * 8, 1 << new.id_bits);
                assert!(self.vpes.insert(vpe, new).is_none());
                self.unsynced.insert(vpe);
            }
            0x29 => {
                let alloc = first & ALLOC != 0;
                assert_eq!(alloc, self.version == Version::V4_1, "the last one frees");
                assert!(!self.is_resident(vpe), "unmapped while resident");
                assert!(self.events.values().all(|event| event.vpe != vpe));
                assert!(!self.unsynced.contains(&vpe));
                self.vpes.remove(&vpe).expect("mapped");
            }
            // VSGI. With C, the configuration stays.
            0x23 => {
                assert_eq!(self.version, Version::V4_1);
                let sgis = &mut self.vpes.get_mut(&vpe).expect("mapped").sgis;
                let sgi = &mut sgis[(first >> 32 & 0xf) as usize];
                if first >> 9 & 1 != 0 {
                    sgi.pending = false;
                } else {
                    sgi.enabled = first >> 8 & 1 != 0;
                    sgi.group1 = first >> 10 & 1 != 0;
                    sgi.priority = (first >> 20 & 0xf) as u8 * 16;
                    self.ring_default_doorbell(vpe);
                }
                self.unsynced.insert(vpe);
            }
            // INVDB.
            0x2e => {
                assert_eq!(self.version, Version::V4_1);
                assert!(self.vpes.contains_key(&vpe));
                self.unsynced.insert(vpe);
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
    /// Returns a GIC of this version, with nothing mapped.
    pub fn new(version: Version) -> Self {
        let state = State {
            version,
            ..State::default()
        };
        Self(Mutex::new(state), version)
    }

    /// Makes a device's MSIs direct, or ends that, for the library to ask.
    pub fn set_device(&self, device: u32, on: bool) {
        let mut state = self.0.lock().unwrap();
        if on {
            state.devices.insert(device);
        } else {
            state.devices.remove(&device);
        }
    }

    /// Replaces the physical device behind a device, for the library to ask.
    pub fn replace_device(&self, device: u32, by: u32) {
        self.0.lock().unwrap().elsewhere.insert(device, by);
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

    /// Takes a virtual interrupt, as a guest on `cpu` does by ICV_IAR1.
    pub fn take(&self, cpu: usize) -> Option<u32> {
        let mut state = self.0.lock().unwrap();
        let vpe = state.cpus.get(&(cpu as u16))?.resident?;
        let intid = state.first(cpu as u16, vpe)?;
        let mapped = state.vpes.get_mut(&vpe).expect("mapped");
        match mapped.sgis.get_mut(intid) {
            Some(sgi) => sgi.pending = false,
            None => state.set_pending(vpe, intid, false),
        }
        Some(intid as u32)
    }

    /// Takes the vPEIDs whose doorbell is pending and enabled.
    pub fn ring(&self) -> Vec<u16> {
        let mut state = self.0.lock().unwrap();
        let on = state.doorbells_on.clone();
        let always = state.version == Version::V4_1;
        let pending = state.doorbells_pending.iter();
        let (rung, left) = pending.partition(|bell| always || on.contains(bell));
        state.doorbells_pending = left;
        let rung: BTreeSet<u32> = rung;
        rung.into_iter()
            .map(|bell| (bell - FIRST_DOORBELL) as u16)
            .collect()
    }

    /// Returns true if a virtual PE of this vPEID has its doorbell enabled, or has asked for it.
    pub fn is_doorbell_on(&self, vpe: u16) -> bool {
        let state = self.0.lock().unwrap();
        if state.version == Version::V4_1 {
            return state.vpes[&vpe].is_doorbell_asked;
        }
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

    /// Stops the ITS for good.
    pub fn stop(&self) {
        self.0.lock().unwrap().is_stopped = true;
    }

    /// Makes the redistributor of `cpu` cache the configuration of a virtual LPI.
    pub fn cache(&self, cpu: usize, vpe: u16, lpi: usize) {
        let mut state = self.0.lock().unwrap();
        state.configuration(cpu as u16, vpe, lpi);
    }

    /// Calls `interruption` after the next command `code`, before the library goes on.
    pub fn interrupt_after(&self, code: u8, interruption: impl FnOnce() + Send + 'static) {
        self.0.lock().unwrap().after = Some((code, Box::new(interruption)));
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
    fn v4_1(&self) -> Option<&dyn Gicv41> {
        (self.1 == Version::V4_1).then_some(self)
    }

    fn its_count(&self) -> usize {
        1
    }

    fn vmovp_is_shared(&self) -> bool {
        true
    }

    fn execute(&self, its: PhysicalIts, commands: &[Command]) -> Result<(), ItsFault> {
        assert_eq!(its, PhysicalIts(0));
        let mut state = self.0.lock().unwrap();
        assert!(commands.len() <= 17, "{} commands at once", commands.len());
        state.work.0 += 1;
        state.work.1 += commands.len() as u64;
        for command in commands {
            if state.is_stopped || !spend(&mut state.commands_left) {
                state.unsynced.clear();
                return Err(ItsFault);
            }
            state.execute(*command);
        }
        assert!(state.unsynced.is_empty(), "no VSYNC after {commands:x?}");
        let is_among = |code| {
            commands
                .iter()
                .any(|command| command.words()[0] as u8 == code)
        };
        let after = state.after.take_if(|(code, _)| is_among(*code));
        drop(state);
        if let Some((_, interruption)) = after {
            interruption();
        }
        Ok(())
    }

    fn rdbase(&self, _its: PhysicalIts, cpu: CpuId) -> u64 {
        u64::from(cpu.0) << 16
    }

    fn allocate_vpe(&self, vcpu: Option<VcpuId>) -> Option<VpeId> {
        let mut state = self.0.lock().unwrap();
        if !spend(&mut state.vpes_left) {
            return None;
        }
        let number = (0..).find(|number| !state.numbers.contains(number))?;
        state.numbers.insert(number);
        let owner = vcpu.map(|vcpu| (number, vcpu.index()));
        state.owners.extend(owner);
        let doorbell = vcpu.map_or(NO_DOORBELL, |_| FIRST_DOORBELL + u32::from(number));
        Some(VpeId { number, doorbell })
    }

    fn free_vpe(&self, vpe: VpeId) {
        let mut state = self.0.lock().unwrap();
        assert!(!state.vpes.contains_key(&vpe.number), "still mapped");
        assert!(state.numbers.remove(&vpe.number));
        state.owners.remove(&vpe.number);
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
        let uses = |vpe: &Vpe| vpe.table == table || vpe.configuration == table;
        assert!(!state.vpes.values().any(uses), "in use");
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
        let version = state.version;
        let old = state.cpus.entry(cpu.0).or_default();
        assert_eq!(old.dirty, 0, "written while a virtual PE arrives or leaves");
        let before = old.vpendbaser;
        match (old.resident, value & VALID != 0) {
            (None, true) => {
                let number = state.arriving(value);
                assert_eq!(
                    state.vpes[&number].cpu, cpu.0,
                    "resident where it is not mapped"
                );
                let now = state.cpus.get_mut(&cpu.0).expect("above");
                now.resident = Some(number);
                now.vpendbaser = value;
                if version == Version::V4_1 {
                    now.dirty = DIRTY_READS;
                    let vpe = state.vpes.get_mut(&number).expect("mapped");
                    vpe.is_doorbell_asked = false;
                    vpe.groups = value & (GROUP0 | GROUP1);
                }
            }
            (Some(number), false) => {
                let output = VALID | IDAI | DOORBELL | PENDING_LAST | DIRTY;
                assert_eq!(before & !output, value & !output, "changed while valid");
                let pending = state.first(cpu.0, number).is_some();
                let mut left = value & !output;
                if version == Version::V4_1 {
                    let unread = value & PENDING_LAST != 0;
                    let asks = value & DOORBELL != 0 && !pending && !unread;
                    state
                        .vpes
                        .get_mut(&number)
                        .expect("mapped")
                        .is_doorbell_asked = asks;
                }
                // Nobody looks where the hypervisor has set the bit.
                if pending && value & PENDING_LAST == 0 {
                    left |= PENDING_LAST;
                }
                let now = state.cpus.get_mut(&cpu.0).expect("above");
                now.resident = None;
                now.dirty = DIRTY_READS;
                now.vpendbaser = left;
            }
            (None, false) => old.vpendbaser = value,
            (Some(_), true) => panic!("a virtual PE over another"),
        }
    }

    fn vpropbaser(&self, cpu: CpuId) -> u64 {
        assert_eq!(self.1, Version::V4_0, "the embedder's");
        self.0
            .lock()
            .unwrap()
            .cpus
            .entry(cpu.0)
            .or_default()
            .vpropbaser
    }

    fn set_vpropbaser(&self, cpu: CpuId, value: u64) {
        assert_eq!(self.1, Version::V4_0, "the embedder's");
        let mut state = self.0.lock().unwrap();
        let cpu = state.cpus.entry(cpu.0).or_default();
        assert!(cpu.resident.is_none(), "changed while valid");
        cpu.vpropbaser = value;
    }

    fn set_doorbell(&self, vpe: VpeId, cpu: CpuId, on: bool) {
        assert_eq!(self.1, Version::V4_0, "enabled for ever");
        let mut state = self.0.lock().unwrap();
        assert_eq!(state.vpes[&vpe.number].cpu, cpu.0, "mapped elsewhere");
        if on {
            assert!(state.doorbells_on.insert(vpe.doorbell));
        } else {
            assert!(state.doorbells_on.remove(&vpe.doorbell));
        }
    }

    fn device(&self, its: ItsId, device: DeviceId) -> Option<PhysicalDevice> {
        let device = physical(its, device);
        let state = self.0.lock().unwrap();
        let wanted = state.devices.contains(&device);
        let device = state.elsewhere.get(&device).copied().unwrap_or(device);
        let its = PhysicalIts(0);
        wanted.then_some(PhysicalDevice { its, device })
    }

    fn hold(&self, its: ItsId, device: DeviceId) {
        let device = physical(its, device);
        let mut state = self.0.lock().unwrap();
        let at_once = state.at_hold.take_if(|(of, _)| *of == device);
        let waiting = at_once.map(|(_, event)| event).into_iter().collect();
        assert!(state.held.insert(device, waiting).is_none(), "held twice");
    }

    fn release(&self, its: ItsId, device: DeviceId) {
        let device = physical(its, device);
        let mut state = self.0.lock().unwrap();
        for event in state.held.remove(&device).expect("held") {
            if state.send(device, event) == Sent::Software {
                state.by_software.push((device, event as u32));
            }
        }
    }

    fn unmap_event(&self, its: ItsId, device: DeviceId, event: EventId) -> bool {
        let device = physical(its, device);
        let mut state = self.0.lock().unwrap();
        assert!(
            state.held.contains_key(&device),
            "an MSI might find no mapping"
        );
        state.lpis_pending.remove(&(device, event.0))
    }
}

impl Gicv41 for Model {
    fn has_virtual_sgis(&self) -> bool {
        true
    }

    fn write_invallr(&self, cpu: CpuId, value: u64) -> Result<(), ItsFault> {
        let mut state = self.0.lock().unwrap();
        if !spend(&mut state.commands_left) {
            return Err(ItsFault);
        }
        assert_ne!(value & VALID, 0, "the V bit");
        let vpe = (value >> 32) as u16;
        let vpe = state.vpes.get_mut(&vpe).expect("mapped");
        assert_eq!(vpe.cpu, cpu.0, "mapped elsewhere");
        vpe.cache.clear();
        Ok(())
    }

    fn read_vsgipendr(&self, cpu: CpuId, vsgir: u32) -> Result<u32, ItsFault> {
        let mut state = self.0.lock().unwrap();
        if !spend(&mut state.commands_left) {
            return Err(ItsFault);
        }
        let vpe = &state.vpes[&(vsgir as u16)];
        assert_eq!(vpe.cpu, cpu.0, "mapped elsewhere");
        let pending = vpe.sgis.iter().enumerate().filter(|(_, sgi)| sgi.pending);
        Ok(pending.fold(0, |word, (n, _)| word | 1 << n))
    }

    fn write_sgir(&self, its: PhysicalIts, value: u64) {
        assert_eq!(its, PhysicalIts(0));
        let mut state = self.0.lock().unwrap();
        let vpe = (value >> 32) as u16;
        let sgis = &mut state.vpes.get_mut(&vpe).expect("mapped").sgis;
        sgis[(value & 0xf) as usize].pending = true;
        state.ring_default_doorbell(vpe);
    }
}
