//! A save through KVM's attributes and tables, and a restore from them: the state is the same, but
//! for what the format has no place for.

use std::sync::Mutex;

use vgic::cpu_interface::vmcr;
use vgic::kvm::Devices;
use vgic::state::{ExtendedState, InterruptState, LpiState, VERSION, VmState, flags};
use vgic::{Config, Host};

use super::Machine;
use super::embedder::{PROPERTIES, RAM};
use crate::attributes::{Memory, ORDERS, save_tables, transfer};
use crate::coverage::{note, note_if};

/// Bytes of a device's translation table: entries of 8 bytes for EventIDs of 14 bits.
const ITT: u64 = 8 << 14;

const _: () = assert!(RAM == Memory::BASE);

impl Machine {
    /// Takes a state through KVM's attributes and tables, in a copy of the guest's memory.
    pub(super) fn check_kvm(&self, state: &VmState) {
        let mut state = state.clone();
        // KVM has no extended interrupts, and its devices refuse a VM that has.
        let config = Config {
            extended_spis: 0,
            extended_ppis: 0,
            ..self.vm.config().clone()
        };
        state.extended = ExtendedState::default();
        state.version = VERSION;
        let config = &config;
        let mut memory = self.vm.host().memory.lock().unwrap().clone();
        // The guests of the model give no device a translation table: each gets one.
        for device in state.its.iter_mut().flat_map(|its| &mut its.devices) {
            device.itt = RAM + (memory.len() as u64).next_multiple_of(256);
            memory.resize((device.itt - RAM + ITT) as usize, 0xff);
        }
        let memory = Memory(Mutex::new(memory));

        let mut devices = Devices::of(config.clone(), self.vtr, state.clone());
        save_tables(&mut devices, config, &memory);
        let order = ORDERS[state.lpis.len() % ORDERS.len()];
        let (_, moved) = transfer(&devices, config, self.vtr, &memory, order)
            .finish()
            .unwrap();

        let expected = without_what_kvm_lacks(state.clone(), &memory);
        for (moved, expected) in moved.lpis.iter().zip(&expected.lpis) {
            assert_eq!(moved, expected);
        }
        for (moved, expected) in moved.vcpus.iter().zip(&expected.vcpus) {
            assert_eq!(moved, expected);
        }
        assert!(moved == expected);
        note("a VM goes through KVM's format");
        note_if(moved == state, "a VM goes through KVM's format whole");
        note_if(
            moved.lpis.iter().any(|lpi| lpi.interrupt.has(flags::LATCH)),
            "a VM goes through KVM's format with an LPI pending",
        );
    }
}

/// Returns a state without what KVM's format has no place for.
fn without_what_kvm_lacks(mut state: VmState, memory: &Memory) -> VmState {
    for spi in &mut state.spis {
        spi.active_on = None;
        // A message counts as a latch of a level, and as nothing of an edge.
        if spi.interrupt.has(flags::MESSAGE | flags::LEVEL) {
            spi.interrupt.flags |= flags::LATCH;
        }
        spi.interrupt.flags &= !flags::MESSAGE;
    }
    for vcpu in &mut state.vcpus {
        vcpu.pendbaser &= !(1 << 62); // PTZ
        // One binary point for both groups hides that of Group 1.
        if vcpu.vmcr & vmcr::VCBPR != 0 {
            vcpu.vmcr =
                vcpu.vmcr & !(7 << vmcr::VBPR1_SHIFT) | vmcr::reset(5) & 7 << vmcr::VBPR1_SHIFT;
        }
    }

    let mut lpis = std::mem::take(&mut state.lpis);
    for lpi in &mut lpis {
        // An LPI goes where its collection is, and what the guest has configured counts from then
        // on.
        lpi.target = home(&state, lpi);
        let was_pending = lpi.interrupt.has(flags::LATCH);
        lpi.interrupt = configured(lpi.intid, memory);
        // The pending table of a redistributor without LPIs enabled keeps its pending states.
        let enabled = lpi
            .target
            .is_some_and(|vcpu| state.vcpus[usize::from(vcpu)].enable_lpis);
        if was_pending && enabled {
            lpi.interrupt.flags |= flags::LATCH;
        }
    }
    state.lpis = lpis;
    state
}

/// Returns the vCPU of an LPI's collection, in the first ITS that maps the LPI.
fn home(state: &VmState, lpi: &LpiState) -> Option<u16> {
    let its = state.its.iter().find(|its| {
        let mut events = its.devices.iter().flat_map(|device| &device.events);
        events.any(|event| event.intid == lpi.intid)
    });
    its.unwrap().vcpu(lpi.icid)
}

/// Returns the state of an LPI that is not pending, by the configuration table.
fn configured(intid: u32, memory: &Memory) -> InterruptState {
    let mut byte = [0];
    let at = PROPERTIES + u64::from(intid - 8192);
    memory.read_memory(at, &mut byte).unwrap();
    let enabled = if byte[0] & 1 != 0 { flags::ENABLED } else { 0 };
    InterruptState {
        flags: flags::GROUP1 | enabled,
        priority: byte[0] & 0xf8,
    }
}
