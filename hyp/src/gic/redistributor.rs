//! A CPU's redistributor: SGIs and PPIs, and the CPU's LPI tables.
#![expect(unsafe_code)]
// UNSAFETY: accesses registers at the address that the device tree gives.

use core::ops::Range;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

use super::lpi::PendingTable;
use super::{PRIORITIES, URGENT, left_on};
use crate::cpu::patience;

register_bitfields! {u32,
    /// `GICR_CTLR`.
    Control [
        RWP OFFSET(3) NUMBITS(1) [],
        ENABLE_LPIS OFFSET(0) NUMBITS(1) [],
    ],
    /// `GICR_WAKER`.
    Waker [
        CHILDREN_ASLEEP OFFSET(2) NUMBITS(1) [],
        PROCESSOR_SLEEP OFFSET(1) NUMBITS(1) [],
    ],
}

register_bitfields! {u64,
    /// `GICR_TYPER`.
    Type [
        /// `Aff3.Aff2.Aff1.Aff0`.
        AFFINITY OFFSET(32) NUMBITS(32) [],
        PROCESSOR_NUMBER OFFSET(8) NUMBITS(16) [],
        /// Set in the last redistributor of its region.
        LAST OFFSET(4) NUMBITS(1) [],
        /// Set with GICv4.1, whose registers of virtual LPIs are others.
        RVPEID OFFSET(7) NUMBITS(1) [],
        /// Set if there are two more frames, for virtual LPIs.
        VLPIS OFFSET(1) NUMBITS(1) [],
    ],
}

register_structs! {
    Registers {
        (0x0000 => ctlr: ReadWrite<u32, Control::Register>),
        (0x0004 => _reserved0),
        (0x0008 => typer: ReadOnly<u64, Type::Register>),
        (0x0010 => _reserved1),
        (0x0014 => waker: ReadWrite<u32, Waker::Register>),
        (0x0018 => _reserved2),
        (0x0070 => propbaser: ReadWrite<u64>),
        (0x0078 => pendbaser: ReadWrite<u64>),
        (0x0080 => _reserved3),
        // The second frame: SGIs and PPIs.
        (0x1_0000 => _reserved4),
        (0x1_0080 => igroupr0: ReadWrite<u32>),
        (0x1_0084 => _reserved5),
        (0x1_0100 => isenabler0: ReadWrite<u32>),
        (0x1_0104 => _reserved6),
        (0x1_0180 => icenabler0: ReadWrite<u32>),
        (0x1_0184 => _reserved7),
        (0x1_0200 => ispendr0: ReadWrite<u32>),
        (0x1_0204 => _reserved8),
        (0x1_0280 => icpendr0: ReadWrite<u32>),
        (0x1_0284 => _reserved9),
        (0x1_0380 => icactiver0: ReadWrite<u32>),
        (0x1_0384 => _reserved10),
        (0x1_0400 => ipriorityr: [ReadWrite<u32>; 8]),
        (0x1_0420 => _reserved11),
        (0x2_0000 => @END),
    },
    /// The third frame, of a GICv4: virtual LPIs.
    VirtualLpis {
        (0x0000 => _reserved0),
        (0x0070 => vpropbaser: ReadWrite<u64>),
        (0x0078 => vpendbaser: ReadWrite<u64>),
        (0x0080 => _reserved1),
        (0x2_0000 => @END),
    }
}

/// Redistributor of one CPU.
pub(crate) struct Redistributor {
    registers: &'static Registers,
    /// Registers of virtual LPIs, if the redistributor has those of GICv4.0.
    virtual_lpis: Option<&'static VirtualLpis>,
}

// SAFETY: the registers are device memory. Each write sets a whole register, and bits are set and
// cleared by separate addresses.
unsafe impl Sync for Redistributor {}
// SAFETY: the registers are device memory, which belongs to no CPU.
unsafe impl Send for Redistributor {}

impl Redistributor {
    /// Finds the redistributor of the CPU with this affinity, in the layout of `MPIDR_EL1`.
    ///
    /// # Safety
    /// The regions hold redistributors, are mapped by identity for ever, and nobody else drives
    /// them.
    pub(crate) unsafe fn find(regions: &[Range<usize>], affinity: u64) -> Option<Self> {
        let packed = (affinity >> 32) << 24 | affinity & 0xff_ffff;
        for region in regions {
            let mut frame = region.start;
            while frame < region.end {
                // SAFETY: by the caller's promise, redistributors fill the region up to the last
                // one.
                let registers = unsafe { &*(frame as *const Registers) };
                let kind = registers.typer.extract();
                let has_virtual_lpis = kind.is_set(Type::VLPIS);
                if kind.read(Type::AFFINITY) == packed {
                    let next = (frame + size_of::<Registers>()) as *const VirtualLpis;
                    let virtual_lpis = (has_virtual_lpis && !kind.is_set(Type::RVPEID))
                        // SAFETY: by the caller's promise, the frames are a redistributor's.
                        .then(|| unsafe { &*next });
                    return Some(Self {
                        registers,
                        virtual_lpis,
                    });
                }

                if kind.is_set(Type::LAST) {
                    break;
                }
                let frames = if has_virtual_lpis { 2 } else { 1 };
                frame += frames * size_of::<Registers>();
            }
        }
        None
    }

    /// Wakes the redistributor, with the SGIs in `sgis` enabled and every PPI disabled. Called by
    /// its own CPU.
    pub(crate) fn start(&self, sgis: u16) {
        let registers = self.registers;
        registers.waker.modify(Waker::PROCESSOR_SLEEP.val(0));
        while registers.waker.is_set(Waker::CHILDREN_ASLEEP) {
            core::hint::spin_loop();
        }

        registers.icenabler0.set(u32::MAX);
        registers.icpendr0.set(u32::MAX);
        registers.icactiver0.set(u32::MAX);
        registers.igroupr0.set(u32::MAX);
        registers
            .ipriorityr
            .iter()
            .for_each(|priority| priority.set(PRIORITIES));
        self.wait_rwp();
        registers.isenabler0.set(sgis.into());
    }

    /// Makes PPI `intid`, which is disabled, come before every other interrupt.
    pub(crate) fn make_urgent(&self, intid: u32) {
        let shift = intid % 4 * 8;
        let others = PRIORITIES & !(0xff << shift);
        self.registers.ipriorityr[intid as usize / 4].set(others | u32::from(URGENT) << shift);
    }

    /// Enables or disables PPI `intid`.
    pub(crate) fn enable(&self, intid: u32, on: bool) {
        if on {
            self.registers.isenabler0.set(1 << intid);
        } else {
            self.registers.icenabler0.set(1 << intid);
            self.wait_rwp();
        }
    }

    /// Returns true if PPI `intid` is pending, enabled or not.
    pub(crate) fn is_pending(&self, intid: u32) -> bool {
        self.registers.ispendr0.get() & 1 << intid != 0
    }

    /// Deactivates the PPIs whose bits are set in `ppis`.
    pub(crate) fn deactivate(&self, ppis: u32) {
        self.registers.icactiver0.set(ppis);
    }

    /// Disables LPIs that are enabled, with tables that the hypervisor does not know.
    pub(super) fn turn_lpis_off(&self) -> left_on::Lpis {
        left_on::turn_off(self)
    }

    /// Enables LPIs, which are disabled before. `properties` is the value of `GICR_PROPBASER`.
    pub(crate) fn start_lpis(&self, properties: u64, pending: &PendingTable) {
        self.registers.propbaser.set(properties);
        self.registers.pendbaser.set(pending.base_register());
        barrier::dsb(barrier::SY);
        self.registers.ctlr.modify(Control::ENABLE_LPIS.val(1));
        barrier::dsb(barrier::SY);
    }

    /// Returns `GICR_VPROPBASER` and `GICR_VPENDBASER` of GICv4.0, if the redistributor has them.
    pub(crate) fn virtual_lpis(&self) -> Option<[&ReadWrite<u64>; 2]> {
        let registers = self.virtual_lpis?;
        Some([&registers.vpropbaser, &registers.vpendbaser])
    }

    /// Returns the redistributor's name in the commands of an ITS: its address if `by_address`,
    /// otherwise its number (`GITS_TYPER.PTA`).
    pub(crate) fn its_target(&self, by_address: bool) -> u64 {
        if by_address {
            (&raw const *self.registers).addr() as u64
        } else {
            self.registers.typer.read(Type::PROCESSOR_NUMBER) << 16
        }
    }

    /// Waits until the effects of register writes are visible (`GICR_CTLR.RWP`).
    fn wait_rwp(&self) {
        while self.registers.ctlr.is_set(Control::RWP) {
            core::hint::spin_loop();
        }
    }
}

impl left_on::Control for Redistributor {
    fn read(&self) -> u32 {
        self.registers.ctlr.get()
    }

    fn write(&self, value: u32) {
        self.registers.ctlr.set(value);
        barrier::dsb(barrier::SY);
    }

    fn wait(&self, done: impl Fn(u32) -> bool) -> bool {
        patience::wait(|| done(self.registers.ctlr.get()))
    }
}
