//! The embedder of a hostile guest: records the guest's mappings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vgic::config::ItsConfig;
use vgic::gicv4::Gicv4;
use vgic::intid::{CpuId, DeviceId, EventId, IntId, ItsId, VcpuId};
use vgic::{BadAddress, Host, PhysicalInterrupt};

use crate::gicv4::beside::Part;
use crate::gicv4::{Model, Version};
use crate::memory::Memory;

/// A device of an ITS.
type Device = (ItsId, DeviceId);

/// Guest memory, and the record of the guest's mappings.
#[derive(Default)]
pub struct HostileHost {
    /// Guest memory.
    pub memory: Memory,
    quotas: Vec<ItsConfig>,
    calls: AtomicU64,
    /// The vCPU that each CPU has entered last.
    stays: Mutex<BTreeMap<usize, Stay>>,
    /// Without the events that are direct.
    mapped: Arc<Mutex<Mapped>>,
    /// The machine's GICv4, if it has one.
    pub(crate) gicv4: Option<Part>,
}

struct Stay {
    vcpu: VcpuId,
    /// True until the CPU exits.
    inside: bool,
    kicked: bool,
}

#[derive(Default)]
struct Mapped {
    /// Number of events of each mapped device.
    devices: BTreeMap<Device, u64>,
    events: BTreeSet<(Device, EventId)>,
}

impl HostileHost {
    /// Returns the host of a VM with the given ITSes, on a machine with a GICv4 or without.
    #[must_use]
    pub fn new(quotas: Vec<ItsConfig>, gicv4: Option<Version>) -> Self {
        let mapped: Arc<Mutex<Mapped>> = Arc::default();
        let record = mapped.clone();
        // An event that becomes direct is not the host's any more.
        let on_unmap = move |its, device, event| {
            let known = record
                .lock()
                .unwrap()
                .events
                .remove(&((its, device), event));
            assert!(known, "{event:?} was not mapped");
        };
        Self {
            gicv4: gicv4.map(|of| Part::new(Arc::new(Model::new(of)), 0, on_unmap)),
            quotas,
            memory: Memory::default(),
            calls: AtomicU64::default(),
            stays: Mutex::default(),
            mapped,
        }
    }

    /// Returns the vCPU that a CPU has in the guest.
    pub fn inside(&self, cpu: usize) -> Option<VcpuId> {
        let stays = self.stays.lock().unwrap();
        let stay = stays.get(&cpu).filter(|stay| stay.inside);
        stay.map(|stay| stay.vcpu)
    }

    /// Notes an entry of a CPU with a vCPU, or an exit.
    pub fn set_inside(&self, cpu: usize, vcpu: Option<VcpuId>) {
        let mut stays = self.stays.lock().unwrap();
        match (vcpu, stays.get_mut(&cpu)) {
            (Some(vcpu), _) => {
                let (inside, kicked) = (true, false);
                let stay = Stay {
                    vcpu,
                    inside,
                    kicked,
                };
                stays.insert(cpu, stay);
            }
            // Until the next entry, the vCPU may be kicked, if it has not been.
            (None, Some(stay)) => stay.inside = false,
            (None, None) => {}
        }
    }

    fn called(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    fn mapped(&self) -> MutexGuard<'_, Mapped> {
        self.mapped.lock().unwrap()
    }
}

impl Drop for HostileHost {
    /// Checks that every mapping of the guest has been unmapped.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let mapped = self.mapped();
            assert!(mapped.devices.is_empty() && mapped.events.is_empty());
        }
    }
}

impl Host for HostileHost {
    fn kick(&self, cpu: CpuId, vcpu: VcpuId) {
        let mut stays = self.stays.lock().unwrap();
        let stay = stays.get_mut(&usize::from(cpu.0));
        let stay = stay.filter(|stay| stay.vcpu == vcpu && !stay.kicked);
        stay.expect("at most one kick until the next entry, on the vCPU's last CPU")
            .kicked = true;
    }

    fn wake(&self, _vcpu: VcpuId) {
        self.called();
    }

    fn gicv4(&self) -> Option<&dyn Gicv4> {
        self.gicv4.as_ref().map(|part| part as &dyn Gicv4)
    }

    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.memory.read(gpa, buffer)
    }

    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        self.memory.store(gpa, bytes)
    }

    fn deactivate(&self, _physical: PhysicalInterrupt) {
        self.called();
    }

    fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
        self.called().is_multiple_of(3)
    }

    fn device_mapped(&self, its: ItsId, device: DeviceId, event_bits: u8) {
        let mut mapped = self.mapped();
        let fresh = mapped.devices.insert((its, device), 1 << event_bits);
        assert!(fresh.is_none(), "{device:?} is mapped twice");

        let rooms = mapped.devices.iter().filter(|((of, _), _)| *of == its);
        let (devices, events) = rooms.fold((0, 0), |(n, sum), (_, room)| (n + 1, sum + room));
        let quota = &self.quotas[usize::from(its.0)];

        assert!(devices <= quota.max_devices, "{devices} devices");
        assert!(events <= u64::from(quota.max_events), "{events} events");
        assert!(event_bits <= quota.event_bits, "{event_bits} bits");
        assert!(u64::from(device.0) >> quota.device_bits == 0, "{device:?}");
    }

    fn device_unmapped(&self, its: ItsId, device: DeviceId) {
        let mut mapped = self.mapped();
        let room = mapped.devices.remove(&(its, device));
        assert!(room.is_some(), "{device:?} was not mapped");
        let device = (its, device);
        assert!(!mapped.events.iter().any(|(of, _)| *of == device));
    }

    fn event_mapped(
        &self,
        its: ItsId,
        device: DeviceId,
        event: EventId,
        _lpi: IntId,
        _target: Option<VcpuId>,
    ) {
        let mut mapped = self.mapped();
        let room = mapped.devices.get(&(its, device)).copied();
        assert!(
            room.is_some_and(|room| u64::from(event.0) < room),
            "{event:?}"
        );
        mapped.events.insert(((its, device), event));
    }

    fn event_unmapped(&self, its: ItsId, device: DeviceId, event: EventId) {
        let known = self.mapped().events.remove(&((its, device), event));
        assert!(known, "{event:?} was not mapped");
    }
}
