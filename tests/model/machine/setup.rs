//! The library and the reference after reset, and the guest's set-up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vgic::config::ItsConfig;
use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId};
use vgic::mmio::Width;
use vgic::{Config, Cpu, Vgic};

use super::embedder::{
    Embedder, PROPERTIES, QUEUE_SIZE, RAM_SIZE, collection_table, device_table, pending_table,
    queue,
};
use super::{Machine, Place, VALID};
use crate::gicv4::Model;
use crate::operation::{CPUS, EXTENDED, ITSES, LPI_BITS, LPIS, Operation, PES, SPIS, WIRED};
use crate::reference::{FIRST_LPI, Frame, Gic};

impl Machine {
    /// Returns both sides after set-up, on CPUs with the properties `vtr`, with a GICv4 or without.
    pub fn new(vtr: Vtr, gicv4: bool) -> Self {
        let gicv4 = gicv4.then(Arc::<Model>::default);
        let vtr = Vtr {
            list_registers: Self::limit(gicv4.is_some(), vtr.list_registers),
            // The VM has extended interrupts.
            extended_range: true,
            ..vtr
        };
        let host = Embedder {
            gicv4: gicv4.clone(),
            ..Embedder::default()
        };
        let affinities = (0..PES as u8).map(|n| Affinity::new(0, 0, 0, n));
        let config = Config {
            spis: SPIS,
            extended_spis: EXTENDED,
            extended_ppis: EXTENDED,
            lpis: 1 << LPI_BITS,
            its: [0x0808_0000, 0x0810_0000]
                .into_iter()
                .zip(ITSES)
                .map(|(base, size)| ItsConfig {
                    device_bits: size.device_bits as u8,
                    event_bits: size.event_bits as u8,
                    collections: size.collections as u32,
                    max_devices: size.devices as u32,
                    max_events: size.events as u32,
                    ..ItsConfig::at(base)
                })
                .collect(),
            ..Config::new(affinities.clone().collect())
        };

        let mpidrs: Vec<u64> = affinities.map(Affinity::mpidr).collect();
        let domain = Domain::new();
        let cpus = (0..CPUS as u16).map(|n| {
            let local = domain.register(CpuId(n)).unwrap();
            Cpu::new(local, SoftwareInterface::new(vtr))
        });
        let cpus = cpus.collect();

        let mut machine = Self {
            vm: Vgic::new(&domain, config, host).unwrap(),
            cpus,
            domain,
            acknowledged: Default::default(),
            reference: Gic::new(&mpidrs, WIRED, LPI_BITS, &ITSES),
            list_registers: vtr.list_registers.into(),
            vtr,
            left_behind: Default::default(),
            taken_back: Default::default(),
            last_cpu: [0; PES],
            gicv4,
            direct: [false; PES],
            doubled: BTreeSet::new(),
            queued: Default::default(),
            waiting: Default::default(),
            shown: BTreeSet::new(),
            meddled: BTreeSet::new(),
            taker: BTreeMap::new(),
            absent: None,
            last: None,
            places: [Place::Away, Place::Off, Place::Off],
            handling: Default::default(),
        };

        machine
            .vm
            .host()
            .memory
            .lock()
            .unwrap()
            .resize(RAM_SIZE as usize, 0);

        machine.connect();
        machine.compare_registers(0);
        machine.set_up_lpis();
        machine.set_up_wired();
        machine.map_lpis();
        machine.set_up_direct();
        machine.last = Some(machine.shot());
        machine
    }

    /// Sets up the wired interrupts: every PE on, every interrupt in Group 1, enabled and unmasked,
    /// with different priorities and some edge-triggered.
    fn set_up_wired(&mut self) {
        for pe in 0..PES {
            self.set_up_pe(pe);
        }

        let mut write =
            |at, value| self.apply(&Operation::Write(0, Frame::Distributor, at, 4, value));
        write(0, 3);
        for n in [1, 2] {
            write(0x80 + 4 * n, u64::MAX);
            write(0x100 + 4 * n, u64::MAX);
        }

        for n in 0..u64::from(SPIS) / 4 {
            write(0x420 + 4 * n, priorities(n));
        }
        write(0xc08, 0xaaaa_8a20);

        // The extended SPIs.
        write(0x1000, u64::MAX);
        write(0x1200, u64::MAX);
        for n in 0..u64::from(EXTENDED) / 4 {
            write(0x2000 + 4 * n, priorities(n + 1));
        }
        write(0x3000, 0x0000_0a20);
    }

    /// Powers a PE on, and sets up its SGIs, its PPIs and its CPU interface.
    pub(super) fn set_up_pe(&mut self, pe: usize) {
        let frame = Frame::Redistributor(pe);
        self.apply(&Operation::PowerOn(pe));
        let mut write = |at, value| self.apply(&Operation::Write(pe, frame, at, 4, value));
        // Awake.
        write(0x14, 0);
        // Two frequently sent SGIs are in Group 0.
        write(0x1_0080, 0xffff_ff3f);
        write(0x1_0100, u64::MAX);
        write(0x1_0c04, 0x8800_0000);
        // The extended PPIs.
        write(0x1_0084, u64::MAX);
        write(0x1_0104, u64::MAX);
        write(0x1_0c08, 0x0000_0880);
        for n in 0..8 + u64::from(EXTENDED) / 4 {
            write(0x1_0400 + 4 * n, priorities(n));
        }
        for group1 in [false, true] {
            self.apply(&Operation::Enable(pe, group1, true));
        }
        self.apply(&Operation::Mask(pe, 0xf8));
    }

    /// Sets up tables and queues, EnableLPIs, and the enabled ITSes, without mappings.
    fn set_up_lpis(&mut self) {
        const { assert!(QUEUE_SIZE == 0x1000, "a page, as GITS_CBASER says below") };
        let write = |gpa, value| {
            let cpu = &self.cpus[0];
            let _ = self.vm.mmio_write(&cpu.pin(), gpa, Width::Double, value);
        };

        for pe in 0..PES {
            let gicr = self.gpa(Frame::Redistributor(pe), 0);
            write(gicr + 0x70, PROPERTIES | 13);
            write(gicr + 0x78, pending_table(pe));
        }

        for (its, config) in self.vm.config().its.iter().enumerate() {
            write(config.base + 0x100, VALID | device_table(its));
            write(config.base + 0x108, VALID | collection_table(its));
            write(config.base + 0x80, VALID | queue(its));
        }

        for pe in 0..PES {
            self.apply(&Operation::EnableLpis(0, pe, Some(0)));
        }
        for its in 0..ITSES.len() {
            self.apply(&Operation::EnableIts(0, its, true));
        }
    }

    /// Makes every PE and the first device of each ITS direct, if there is a GICv4.
    fn set_up_direct(&mut self) {
        if self.gicv4.is_some() {
            for pe in 0..PES {
                self.set_direct(pe, true);
            }
            for its in 0..ITSES.len() {
                self.set_direct_device(its, 0, true, None);
            }
        }
    }

    /// Maps a collection for each PE, and a device with eight LPIs on each ITS. Some LPIs are
    /// mapped by both ITSes.
    fn map_lpis(&mut self) {
        for n in 0..LPIS {
            let byte = (n as u8) << 5 | 1;
            self.apply(&Operation::Configure(0, FIRST_LPI + n, byte, 3));
        }

        for its in 0..ITSES.len() {
            for pe in 0..PES as u64 {
                self.apply(&Operation::Command(
                    0,
                    its,
                    [0x09, 0, VALID | pe << 16 | pe, 0],
                ));
            }

            self.apply(&Operation::Command(0, its, [0x08, 2, VALID, 0]));
            for n in 0..8 {
                let intid = u64::from(FIRST_LPI) + n + 5 * its as u64;
                let mapti = [0x0a, n | intid << 32, intid % PES as u64, 0];
                self.apply(&Operation::Command(0, its, mapti));
            }
        }
    }
}

/// Returns the priorities of the `n`th four interrupts.
fn priorities(n: u64) -> u64 {
    (0..4).fold(0, |word, byte| {
        let priority = (4 * n + byte) * 0x28 % 0x100;
        word | priority << (8 * byte)
    })
}
