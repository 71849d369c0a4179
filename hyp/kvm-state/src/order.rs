//! Which attributes a state has, and in which order they are set.
//!
//! The numbers are those of the kernel's `arm-vgic-v3` and `arm-vgic-its` devices.

use alloc::vec::Vec;

use crate::{Attribute, Device, Shape};

/// Groups of attributes: `KVM_DEV_ARM_VGIC_GRP_*`.
pub mod group {
    /// Registers of the distributor.
    pub const DIST_REGS: u32 = 1;
    /// Actions.
    pub const CTRL: u32 = 4;
    /// Registers of a redistributor.
    pub const REDIST_REGS: u32 = 5;
    /// Registers of a CPU interface.
    pub const CPU_SYSREGS: u32 = 6;
    /// Lines of 32 interrupts.
    pub const LEVEL_INFO: u32 = 7;
    /// Registers of an ITS.
    pub const ITS_REGS: u32 = 8;
}

/// `KVM_DEV_ARM_ITS_RESTORE_TABLES`, of [`group::CTRL`].
pub const RESTORE_TABLES: u64 = 2;

/// INTIDs that a word of one bit each has, and INTIDs in a redistributor.
const WORD: u32 = 32;

/// Offset of `SGI_base` in a redistributor.
const SGI_BASE: u64 = 0x1_0000;

/// Offsets that `GICD` and `SGI_base` share.
const IGROUPR: u64 = 0x80;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const ISACTIVER: u64 = 0x300;
const IPRIORITYR: u64 = 0x400;
const ICFGR: u64 = 0xc00;

/// Offsets in `GICD`.
const GICD_CTLR: u64 = 0x0;
const GICD_IIDR: u64 = 0x8;
const GICD_IROUTER: u64 = 0x6000;

/// Offsets in a redistributor: the tables of LPIs by halves, `GICR_CTLR`, `GICR_WAKER`.
const GICR: [u64; 6] = [0x70, 0x74, 0x78, 0x7c, 0x0, 0x14];

/// Registers of an ITS before its tables are restored: `GITS_IIDR`, `GITS_CBASER`, `GITS_CREADR`,
/// `GITS_CWRITER`, and the first `GITS_BASER<n>`, of which there are eight.
const GITS: [u64; 4] = [0x4, 0x80, 0x90, 0x88];
const GITS_BASER: u64 = 0x100;
const GITS_CTLR: u64 = 0x0;

/// Returns the number of a system register in a CPU interface.
const fn icc(crn: u64, crm: u64, op2: u64) -> u64 {
    3 << 14 | crn << 7 | crm << 3 | op2
}

const ICC_CTLR: u64 = icc(12, 12, 4);

/// `ICC_*_EL1`: SRE, CTLR, IGRPEN0, IGRPEN1, PMR, BPR0, BPR1.
const ICC: [u64; 7] = [
    icc(12, 12, 5),
    ICC_CTLR,
    icc(12, 12, 6),
    icc(12, 12, 7),
    icc(4, 6, 0),
    icc(12, 8, 3),
    icc(12, 12, 3),
];

/// `ICC_AP0R0_EL1` and `ICC_AP1R0_EL1`; higher registers follow.
const ICC_AP: [u64; 2] = [icc(12, 8, 4), icc(12, 9, 0)];

/// Returns the attributes of a VM with these parts, in the order in which they are set. `read`
/// reads the present value of an attribute.
///
/// # Errors
/// The first of `read`.
pub fn attributes<E>(
    shape: &Shape,
    read: impl FnMut(Device, u32, u64) -> Result<u64, E>,
) -> Result<Vec<Attribute>, E> {
    let mut list = List {
        attributes: Vec::new(),
        read,
    };
    let (gic, distributor) = (Device::Gic, group::DIST_REGS);
    list.read(gic, distributor, GICD_IIDR)?;
    list.read(gic, distributor, GICD_CTLR)?;

    let vcpus: Vec<u64> = shape.affinities.iter().map(|it| name(*it)).collect();
    for vcpu in &vcpus {
        for offset in GICR {
            list.read(gic, group::REDIST_REGS, vcpu | offset)?;
        }
        list.interrupts(group::REDIST_REGS, *vcpu, SGI_BASE, 0, WORD)?;
    }

    for intid in WORD..shape.interrupts {
        let register = GICD_IROUTER + u64::from(intid) * 8;
        list.read(gic, distributor, register)?;
        list.read(gic, distributor, register + 4)?;
    }
    list.interrupts(distributor, 0, 0, WORD, shape.interrupts)?;

    for vcpu in &vcpus {
        let mut bits = 0;
        for register in ICC {
            let value = list.read(gic, group::CPU_SYSREGS, vcpu | register)?;
            if register == ICC_CTLR {
                bits = (value >> 8 & 7) + 1;
            }
        }
        // One register of active priorities for 32 levels of preemption.
        for place in 0..1 << bits.saturating_sub(5) {
            for first in ICC_AP {
                list.read(gic, group::CPU_SYSREGS, vcpu | (first + place))?;
            }
        }
    }

    for (number, _) in (0..).zip(&shape.itses) {
        let its = Device::Its(number);
        let basers = (0..8).map(|place| GITS_BASER + 8 * place);
        for register in GITS.into_iter().chain(basers) {
            list.read(its, group::ITS_REGS, register)?;
        }
        list.put(its, group::CTRL, RESTORE_TABLES, 0);
        list.read(its, group::ITS_REGS, GITS_CTLR)?;
    }
    Ok(list.attributes)
}

/// Returns a vCPU's name in attributes: its affinity fields side by side in the upper half.
fn name(affinity: u64) -> u64 {
    (affinity & 0xff_ffff | affinity >> 8 & 0xff00_0000) << 32
}

/// Attributes in the making.
struct List<F> {
    attributes: Vec<Attribute>,
    read: F,
}

impl<F> List<F> {
    /// Adds an attribute with its present value.
    fn read<E>(&mut self, device: Device, group: u32, attribute: u64) -> Result<u64, E>
    where
        F: FnMut(Device, u32, u64) -> Result<u64, E>,
    {
        let value = (self.read)(device, group, attribute)?;
        self.put(device, group, attribute, value);
        Ok(value)
    }

    /// Adds an attribute with a value.
    fn put(&mut self, device: Device, group: u32, attribute: u64, value: u64) {
        self.attributes.push(Attribute {
            device,
            group,
            attribute,
            value,
        });
    }

    /// Adds the registers of the interrupts from `first` to before `end`, in a frame at the offset
    /// `base`. `vcpu` names the vCPU of private ones.
    fn interrupts<E>(
        &mut self,
        group: u32,
        vcpu: u64,
        base: u64,
        first: u32,
        end: u32,
    ) -> Result<(), E>
    where
        F: FnMut(Device, u32, u64) -> Result<u64, E>,
    {
        let gic = Device::Gic;
        let at = |offset: u64, byte: u32| vcpu | (base + offset + u64::from(byte));
        for intid in (first..end).step_by(16) {
            self.read(gic, group, at(ICFGR, intid / 4))?;
        }
        for intid in (first..end).step_by(WORD as usize) {
            let byte = intid / 8;
            self.read(gic, group, at(IGROUPR, byte))?;
            // A write of enables sets bits only, and KVM's SGIs are enabled at first.
            self.put(gic, group, at(ICENABLER, byte), u32::MAX.into());
            self.read(gic, group, at(ISENABLER, byte))?;
            self.read(gic, group::LEVEL_INFO, vcpu | u64::from(intid))?;
            self.read(gic, group, at(ISPENDR, byte))?;
            self.read(gic, group, at(ISACTIVER, byte))?;
        }
        for intid in (first..end).step_by(4) {
            self.read(gic, group, at(IPRIORITYR, intid))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use core::convert::Infallible;

    use super::*;

    fn all() -> Vec<Attribute> {
        let shape = Shape {
            affinities: vec![0, 0x1_0000_0203],
            interrupts: 96,
            itses: vec![0x808_0000],
            ram: (0, 0),
        };
        let read = |_, group, attribute| Ok::<u64, Infallible>(u64::from(group) << 56 | attribute);
        attributes(&shape, read).unwrap()
    }

    #[test]
    fn the_revision_is_set_first_and_an_its_is_enabled_last() {
        let all = all();
        let (first, last) = (all.first().unwrap(), all.last().unwrap());
        assert_eq!((first.group, first.attribute), (group::DIST_REGS, 8));
        assert_eq!((last.device, last.attribute), (Device::Its(0), 0));
        let tables = &all[all.len() - 2];
        assert_eq!((tables.group, tables.attribute), (group::CTRL, 2));
    }

    #[test]
    fn every_interrupt_has_its_line_before_its_latch() {
        let all = all();
        let place = |group, attribute| {
            let mut places = all.iter();
            places.position(|it| (it.group, it.attribute) == (group, attribute))
        };
        for (group, vcpu, base, intid) in [
            (group::REDIST_REGS, 0, SGI_BASE, 0),
            (group::REDIST_REGS, 0x0100_0203 << 32, SGI_BASE, 0),
            (group::DIST_REGS, 0, 0, 32),
            (group::DIST_REGS, 0, 0, 64),
        ] {
            let line = place(group::LEVEL_INFO, vcpu | intid).unwrap();
            let latch = place(group, vcpu | (base + ISPENDR + intid / 8)).unwrap();
            assert!(line < latch, "{intid}");
        }
        let route = place(group::DIST_REGS, GICD_IROUTER + 95 * 8 + 4).unwrap();
        assert!(route < place(group::DIST_REGS, ISPENDR + 4).unwrap());
    }

    #[test]
    fn no_attribute_is_set_twice() {
        let all = all();
        for (at, one) in all.iter().enumerate() {
            let same = |other: &&Attribute| {
                (one.device, one.group, one.attribute)
                    == (other.device, other.group, other.attribute)
            };
            assert_eq!(all[at..].iter().filter(same).count(), 1, "{one:?}");
        }
    }
}
