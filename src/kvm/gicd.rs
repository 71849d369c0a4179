//! `DIST_REGS`: registers of the distributor (IHI 0069, 12.9), 32 bits at a time.

use super::interrupts::Fields;
use super::{Devices, Errno, read_half, write_half};
use crate::intid::{Affinity, IntId};
use crate::mmio::gicd::{
    CTLR, IIDR_OFFSET, IROUTER, IROUTER_END, TYPER, TYPER2, control_of, ctlr_of, typer2,
};
use crate::mmio::identification;
use crate::state::SpiState;
use crate::vm::distributor::typer;

const STATUSR: u64 = 0x0010;

/// `GICD_ITARGETSR<n>`, without effect under affinity routing.
const ITARGETSR: u64 = 0x0800;

const IGRPMODR: u64 = 0x0d00;

const IGRPMODR_END: u64 = 0x0d80;

/// `GICD_IIDR` of KVM: Arm, product `K`, revision 3. A guest sees the library's own.
const KVM_IIDR: u32 = 0x4b00_343b;

/// `GICD_IIDR.Revision`.
const REVISION: u32 = 0xf000;

impl Devices {
    /// Reads the register at an offset.
    pub(super) fn gicd(&self, offset: u64) -> Result<u32, Errno> {
        if offset & 3 != 0 {
            return Err(Errno::Nxio);
        }

        if let Some(fields) = Fields::decode(offset) {
            // SGIs and PPIs are the redistributors'.
            return Ok(match fields.bank() {
                0 => 0,
                bank => fields.read(&self.spi_bank(bank)),
            });
        }

        Ok(match offset {
            CTLR => ctlr_of(self.state.group_enables),
            TYPER => typer(&self.config) as u32,
            IIDR_OFFSET => KVM_IIDR,
            TYPER2 => typer2(&self.config),
            STATUSR | ITARGETSR..0xc00 | IGRPMODR..IGRPMODR_END => 0,
            IROUTER..IROUTER_END => {
                let spi = router(offset).and_then(|index| self.state.spis.get(index));
                spi.map_or(0, |spi| read_half(spi.router, offset))
            }
            0xffd0..=0xfffc => identification(offset),
            _ => return Err(Errno::Nxio),
        })
    }

    /// Writes the register at an offset.
    pub(super) fn set_gicd(&mut self, offset: u64, value: u32) -> Result<(), Errno> {
        if let Some(fields) = Fields::decode(offset).filter(|_| offset & 3 == 0) {
            if fields.bank() != 0 {
                let mut bank = self.spi_bank(fields.bank());
                fields.write(&mut bank, value);
                self.set_spi_bank(fields.bank(), &bank);
            }
            return Ok(());
        }

        // Identification registers are read-only. As for KVM, a write of GICD_TYPER2 or GICD_IIDR
        // checks that both sides are alike.
        let Ok(found) = self.gicd(offset) else {
            return Ok(());
        };
        match offset {
            CTLR => self.state.group_enables = control_of(&self.config, value, 0),
            TYPER2 if value != found => return Err(Errno::Inval),
            IIDR_OFFSET => {
                let is_known = matches!((value & REVISION) >> 12, 2 | 3);
                if (value ^ found) & !REVISION != 0 || !is_known {
                    return Err(Errno::Inval);
                }
            }
            IROUTER..IROUTER_END => {
                let spi = router(offset).and_then(|index| self.state.spis.get_mut(index));
                if let Some(spi) = spi {
                    set_router(spi, offset, value);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Writes a half of `GICD_IROUTER<n>`.
fn set_router(spi: &mut SpiState, offset: u64, value: u32) {
    let router = write_half(spi.router, offset, value);
    spi.router = Affinity::from_mpidr(router).mpidr();
}

/// Returns the index of the SPI of a `GICD_IROUTER<n>`; `None` for SGIs and PPIs.
fn router(offset: u64) -> Option<usize> {
    let intid = offset.checked_sub(IROUTER)? as usize / 8;
    intid.checked_sub(IntId::FIRST_SPI as usize)
}
