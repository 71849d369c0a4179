//! The redistributor of one vCPU (IHI 0069, 12.10 and 12.11): `RD_base` at 0, `SGI_base` at 0x1_0000.
//!
//! Any vCPU may access any redistributor. `GICR_PROPBASER` is one register for the whole VM, as
//! `GICR_TYPER.CommonLPIAff` = 0 tells the guest. `GICR_WAKER` stores what is written: a sleeping
//! redistributor of a VM does not hold interrupts back, the vCPU's being off does.

use crate::Vgic;
use crate::cpu_interface::CpuInterface;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::{AtomicU32, AtomicU64, Mutant, mutant};
use crate::vcpu::residency::RECALL;
use crate::vcpu::{AWAITED_BY_GICR, Vcpu};

use super::bank::{Bank, offset};
use super::lpi_tables::NOT_SCANNING;
use super::{Access, IIDR, Width, identification, read_half, write_half};

const CTLR: u64 = 0x0000;
const IIDR_OFFSET: u64 = 0x0004;
const TYPER: u64 = 0x0008;
const TYPER_HIGH: u64 = 0x000c;
const WAKER: u64 = 0x0014;
const PROPBASER: u64 = 0x0070;
const PROPBASER_HIGH: u64 = 0x0074;
const PENDBASER: u64 = 0x0078;
const PENDBASER_HIGH: u64 = 0x007c;
const INVLPIR: u64 = 0x00a0;
const INVALLR: u64 = 0x00b0;
const SYNCR: u64 = 0x00c0;
const SGI_BASE: u64 = 0x1_0000;

const CTLR_ENABLE_LPIS: u32 = 1 << 0;
/// EnableLPIs can be cleared again.
const CTLR_CES: u32 = 1 << 1;
/// `INVLPIR`, `INVALLR` and `SYNCR` exist.
const CTLR_IR: u32 = 1 << 2;
const CTLR_RWP: u32 = 1 << 3;

const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;

/// Physical address, cacheability and shareability, `IDbits`.
const PROPBASER_MASK: u64 = 0x070f_ffff_ffff_ff9f;
/// Physical address, cacheability and shareability; PTZ (bit 62) reads as zero.
const PENDBASER_MASK: u64 = 0x070f_ffff_ffff_0f80;
const PENDBASER_PTZ: u64 = 1 << 62;

/// State of a redistributor that is not in its interrupts.
pub(crate) struct Redistributor {
    /// `GICR_CTLR.EnableLPIs`.
    ctlr: AtomicU32,
    waker: AtomicU32,
    /// `GICR_PENDBASER`, with PTZ as last written.
    pub(crate) pendbaser: AtomicU64,
    /// Next LPI of the pending table to look at, or [`NOT_SCANNING`].
    pub(crate) scan: AtomicU32,
}

impl Redistributor {
    pub(crate) fn new() -> Self {
        Self {
            ctlr: AtomicU32::new(0),
            waker: AtomicU32::new(WAKER_PROCESSOR_SLEEP),
            pendbaser: AtomicU64::new(0),
            scan: AtomicU32::new(NOT_SCANNING),
        }
    }

    /// `GICR_CTLR.EnableLPIs`.
    #[inline]
    pub(crate) fn lpis_enabled(&self) -> bool {
        // Acquire: pairs with `write_gicr_ctlr`.
        self.ctlr.load(Acquire) & CTLR_ENABLE_LPIS != 0
    }
}

impl<H: Host> Vgic<H> {
    fn gicr_typer(&self, pin: &CpuPin<'_>, owner: &Vcpu) -> u64 {
        let affinity = self.affinity(pin, owner.id).map_or(0, |a| a.packed());
        let index = owner.id.index();
        let next = index.saturating_add(1);
        let mut end = 0_usize;
        let region_end = self.config().redistributors.iter().any(|region| {
            end = end.saturating_add(region.count);
            next == end
        });
        let last = region_end || next == self.vcpu_count();
        u64::from(affinity) << 32
            | (index as u64) << 8
            | u64::from(last) << 4
            // PLPIS
            | u64::from(self.config().lpi_bits != 0)
    }

    /// Reads a register of `owner`'s redistributor; `None` asks for the access to be tried again.
    pub(crate) fn gicr_read<I: CpuInterface>(
        &self,
        access: &Access<'_, H, I>,
        owner: &Vcpu,
        at: u64,
        width: Width,
    ) -> Option<u64> {
        let redistributor = &owner.redistributor;
        if let Some(at) = at.checked_sub(SGI_BASE) {
            return self.gicr_read_sgi(access, owner, at, width);
        }
        Some(match (at, width) {
            (CTLR, Width::Word) => u64::from(self.gicr_ctlr(access.pin, owner)),
            (IIDR_OFFSET, Width::Word) => u64::from(IIDR),
            (TYPER | TYPER_HIGH, _) => read_half(self.gicr_typer(access.pin, owner), at, width),
            (WAKER, Width::Word) => {
                // Relaxed: stored for the guest only.
                let sleep = redistributor.waker.load(Relaxed);
                let asleep = sleep & WAKER_PROCESSOR_SLEEP != 0;
                u64::from(sleep | if asleep { WAKER_CHILDREN_ASLEEP } else { 0 })
            }
            (PROPBASER | PROPBASER_HIGH, _) => {
                // Relaxed: what the guest wrote, for the guest; so PENDBASER below.
                read_half(self.distributor().propbaser.load(Relaxed), at, width)
            }
            (PENDBASER | PENDBASER_HIGH, _) => read_half(
                redistributor.pendbaser.load(Relaxed) & !PENDBASER_PTZ,
                at,
                width,
            ),
            // Busy.
            (SYNCR, Width::Word) => u64::from(self.advance_sweep(access.pin)),
            (0xffd0..=0xfffc, Width::Word) => u64::from(identification(at)),
            _ => 0,
        })
    }

    fn gicr_ctlr(&self, pin: &CpuPin<'_>, owner: &Vcpu) -> u32 {
        let redistributor = &owner.redistributor;
        // Acquire: pairs with `advance_pending_table`.
        if redistributor.scan.load(Acquire) != NOT_SCANNING {
            self.advance_pending_table(pin, owner);
        }
        // Another CPU may still be at the last slice.
        let waiting = self.is_scanning(owner) || owner.awaits(AWAITED_BY_GICR);
        let lpis = if self.config().lpi_bits == 0 {
            0
        } else {
            // Acquire: pairs with `write_gicr_ctlr`.
            redistributor.ctlr.load(Acquire) | CTLR_CES | CTLR_IR
        };
        lpis | if waiting { CTLR_RWP } else { 0 }
    }

    fn gicr_read_sgi<I: CpuInterface>(
        &self,
        access: &Access<'_, H, I>,
        owner: &Vcpu,
        at: u64,
        width: Width,
    ) -> Option<u64> {
        let bank = private_bank(owner);
        if let 0x0400..0x0420 = at {
            return Some(match width {
                Width::Byte | Width::Word => bank.priorities(at as usize & 0x1f, width),
                _ => 0,
            });
        }
        if width != Width::Word {
            return Some(0);
        }
        Some(match at {
            offset::ICFGR => bank.triggers(),
            ICFGR1 => bank.half(true).triggers(),
            _ => return access.read_bits(bank, at),
        })
    }

    /// Writes a register of `owner`'s redistributor.
    pub(crate) fn gicr_write(
        &self,
        pin: &CpuPin<'_>,
        owner: &Vcpu,
        at: u64,
        width: Width,
        value: u64,
    ) {
        if let Some(at) = at.checked_sub(SGI_BASE) {
            self.gicr_write_sgi(pin, owner, at, width, value);
            return;
        }
        let redistributor = &owner.redistributor;
        match (at, width) {
            (CTLR, Width::Word) => self.write_gicr_ctlr(pin, owner, value as u32),
            (WAKER, Width::Word) => {
                // Relaxed: stored for the guest only.
                let sleep = value as u32 & WAKER_PROCESSOR_SLEEP;
                redistributor.waker.store(sleep, Relaxed);
            }
            (PROPBASER | PROPBASER_HIGH, _) if !redistributor.lpis_enabled() => {
                self.write_base(
                    &self.distributor().propbaser,
                    PROPBASER_MASK,
                    at,
                    width,
                    value,
                );
            }
            (PENDBASER | PENDBASER_HIGH, _) if !redistributor.lpis_enabled() => {
                let mask = PENDBASER_MASK | PENDBASER_PTZ;
                self.write_base(&redistributor.pendbaser, mask, at, width, value);
            }
            (INVLPIR, Width::Word | Width::Double) => {
                if let Some(intid) = IntId::lpi(value as u32)
                    && let Some(irq) = self.lpi(pin, intid)
                {
                    self.reload_lpi_config(pin, irq);
                }
            }
            (INVALLR, Width::Word | Width::Double) => self.start_sweep(pin),
            _ => {}
        }
    }

    fn write_base(&self, register: &AtomicU64, mask: u64, at: u64, width: Width, value: u64) {
        // Relaxed load: concurrent writers of one register are the guest's race.
        if let Some(new) = write_half(register.load(Relaxed), at, width, value) {
            // AcqRel: its Release pairs with the Acquire in `lpi_config`, `start_pending_table` and
            // `advance_pending_table`, which read the tables.
            register.swap(new & mask, AcqRel);
        }
    }

    fn write_gicr_ctlr(&self, pin: &CpuPin<'_>, owner: &Vcpu, value: u32) {
        if self.config().lpi_bits == 0 {
            return;
        }
        let redistributor = &owner.redistributor;
        let new = value & CTLR_ENABLE_LPIS;
        // AcqRel: pairs with `lpis_enabled`: a vCPU told after this sees the new value.
        let old = redistributor.ctlr.swap(new, AcqRel);
        if old == new {
            return;
        }
        if new == 0 {
            // LPIs are held back from now on; those in list registers must come out.
            self.stop_pending_table(owner);
        } else {
            // Only now is the configuration table where the guest says, for what was mapped before too.
            self.start_sweep(pin);
            self.start_pending_table(pin, owner);
        }
        if new != 0 || !mutant(Mutant::DisabledWithoutRecall) {
            self.notify(pin, owner.id, RECALL);
        }
        if new == 0 {
            self.await_recall(owner, AWAITED_BY_GICR);
        }
    }

    fn gicr_write_sgi(&self, pin: &CpuPin<'_>, owner: &Vcpu, at: u64, width: Width, value: u64) {
        let bank = private_bank(owner);
        match (at, width) {
            (0x0400..0x0420, Width::Byte | Width::Word) => {
                self.write_priorities(pin, bank, at as usize & 0x1f, width, value);
            }
            (ICFGR1, Width::Word) => self.write_triggers(pin, bank.half(true), value),
            (_, Width::Word) => self.write_bits(pin, bank, at, value),
            _ => {}
        }
    }
}

/// Configuration of the PPIs; that of the SGIs is read-only.
const ICFGR1: u64 = offset::ICFGR + 4;

fn private_bank(owner: &Vcpu) -> Bank<'_> {
    Bank {
        irqs: owner.privates(),
        owner: Some(VcpuId(owner.id.0)),
    }
}
