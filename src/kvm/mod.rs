//! KVM's device attributes, and its tables in guest memory: a VMM that saves and restores a VM by
//! the attributes of `arm-vgic-v3` and `arm-vgic-its` keeps its form with this library, and a VM
//! moves between KVM and this library.
//!
//! [`Devices`] are the two devices as KVM has them: `KVM_SET_DEVICE_ATTR` is [`Devices::set`],
//! `KVM_GET_DEVICE_ATTR` is [`Devices::get`], `KVM_HAS_DEVICE_ATTR` is [`Devices::has`]. They are
//! plain data over a [`VmState`], and touch no VM: a VM is frozen before [`Devices::of`], or made
//! after [`Devices::finish`].
//!
//! | file | content |
//! |---|---|
//! | this file | the devices, groups of attributes, `CTRL` |
//! | `errno` | error numbers |
//! | `layout` | `ADDR`, `NR_IRQS`: the configuration |
//! | `interrupts` | registers with fields of 32 interrupts, `LEVEL_INFO` |
//! | `gicd`, `gicr` | `DIST_REGS`, `REDIST_REGS` |
//! | `interface` | `CPU_SYSREGS` |
//! | `gits` | `ITS_REGS`, reset of an ITS |
//! | `tables` | ITS tables in guest memory, revision 0 |
//! | `pending` | LPIs' tables in guest memory |
//!
//! # A save
//! [`Vgic::freeze`](crate::Vgic::freeze), [`Devices::of`], [`control::SAVE_PENDING_TABLES`], for
//! each ITS [`control::SAVE_TABLES`], then guest memory and every attribute are sent.
//! `Devices::of` consumes the state: [`Vgic::thaw`](crate::Vgic::thaw) and
//! [`Vgic::take_late`](crate::Vgic::take_late) need a copy. A target that is KVM takes no
//! [`LateInterrupt`](crate::state::LateInterrupt): devices are stopped before the freeze, or the
//! DeviceID and EventID of a late LPI are looked up in the state, for `KVM_SIGNAL_MSI`.
//!
//! A complete list of attributes (`hyp/kvm-state` in the repository has one as code), to which
//! identification registers may be added: a write of the value that was read has no effect.
//!
//! * [`group::NR_IRQS`]; [`group::ADDR`] of each frame.
//! * [`group::DIST_REGS`]: `GICD_CTLR`. Of all SPIs `GICD_IGROUPR<n>`, `GICD_ISENABLER<n>`,
//!   `GICD_ISPENDR<n>`, `GICD_ISACTIVER<n>`, `GICD_IPRIORITYR<n>`, `GICD_ICFGR<n>`, and both halves
//!   of `GICD_IROUTER<n>`.
//! * [`group::REDIST_REGS`], of each vCPU: `GICR_WAKER`, both halves of `GICR_PROPBASER` and of
//!   `GICR_PENDBASER`, `GICR_CTLR`, `GICR_IGROUPR0`, `GICR_ISENABLER0`, `GICR_ISPENDR0`,
//!   `GICR_ISACTIVER0`, `GICR_IPRIORITYR<n>`, `GICR_ICFGR0`, `GICR_ICFGR1`.
//! * [`group::CPU_SYSREGS`], of each vCPU: `ICC_CTLR_EL1`, `ICC_PMR_EL1`, `ICC_BPR0_EL1`,
//!   `ICC_BPR1_EL1`, `ICC_IGRPEN0_EL1`, `ICC_IGRPEN1_EL1`, `ICC_AP0R<n>_EL1`, `ICC_AP1R<n>_EL1`.
//!   With 5 bits of preemption n is 0, with 6 it is 0-1, with 7 it is 0-3.
//! * [`group::LEVEL_INFO`], of each vCPU: INTID 0. Of any vCPU: INTIDs 32, 64, up to the last SPI.
//! * [`group::ITS_REGS`], of each ITS: `GITS_CBASER`, `GITS_CWRITER`, `GITS_CREADR`, `GITS_BASER0`,
//!   `GITS_BASER1`, `GITS_CTLR`.
//!
//! # A restore
//! Guest memory is in place, and no page of it is received after [`control::RESTORE_TABLES`], which
//! clears the pending bits that it takes. `config.vcpus[n]` is KVM's vCPU n. The order matters only
//! so far:
//! * [`group::NR_IRQS`] comes before [`control::INIT`] of the GIC, `INIT` before all registers;
//! * [`address::ITS`] comes before the registers of the ITS;
//! * `GICR_PROPBASER` and `GICR_PENDBASER` come before `GICR_CTLR`, `ICC_CTLR_EL1` before
//!   `ICC_BPR1_EL1`;
//! * a register of clear bits, such as `GICD_ICENABLER<n>`, comes before the register of set bits:
//!   the two read alike, and a VMM may have saved both;
//! * all redistributors come before [`control::RESTORE_TABLES`], and so do `GITS_BASER<n>`;
//! * `GITS_CBASER` comes before `GITS_CREADR` and `GITS_CWRITER`, `GITS_CTLR` last.
//!
//! Power states are no attributes: [`Devices::set_power`] for each vCPU, at any time.
//! Then [`Devices::finish`], [`Vgic::new`](crate::Vgic::new), and
//! [`Vgic::restore`](crate::Vgic::restore). A mistake in the order is not always an error: LPIs are
//! missing with `GICR_CTLR` before `GICR_PROPBASER`, or with guest memory that is not in place.
//!
//! KVM signals Group 0 under `EnableGrp1`, and its `EnableGrp0` reads as 0. For a VM that comes
//! from KVM, the embedder sets `EnableGrp0` in the value of `GICD_CTLR` if `EnableGrp1` is set.
//! KVM's [`group::LEVEL_INFO`] has the lines of the timers: the embedder clears those that it
//! forwards, for the timer raises its line itself.
//!
//! # Differences to the library's own state
//! The format has no place for:
//! * power states, which are `KVM_SET_MP_STATE`: [`Devices::set_power`];
//! * added and removed vCPUs. `config.vcpus` of [`Devices::new`] has the added vCPUs too. A removed
//!   vCPU has no attributes ([`Errno::Inval`]). With a vCPU that is off at the index, later vCPUs
//!   keep their processor numbers;
//! * the vCPU that an SPI is active on, if the SPI has been routed elsewhere since;
//! * the target of an LPI that `MOVALL` has moved away from its collection;
//! * a message that asserts a level (`GICD_SETSPI_NSR`), which is saved as a latch;
//! * `ICC_BPR1_EL1` while `ICC_CTLR_EL1.CBPR` hides it;
//! * `GICR_PENDBASER.PTZ`.
//!
//! KVM has no extended SPIs or PPIs, and no attributes for them. Devices of a VM with such
//! interrupts ([`Config::extended_spis`](crate::Config::extended_spis),
//! [`Config::extended_ppis`](crate::Config::extended_ppis)) refuse every attribute, and
//! [`Devices::finish`], with [`Errno::Nxio`]: no state is lost on the way.
//!
//! KVM has no Group 0 enable, no `GICR_WAKER`, edge-triggered PPIs or tables of 4 KiB pages: a VM
//! that goes to KVM loses them. A VM without SPIs cannot go to KVM, where [`group::NR_IRQS`] is at
//! least 64. Identification registers are each side's own. A VM with a GICv2 has no attributes
//! here: those of KVM are of another device, `arm-vgic-v2`.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod errno;
mod gicd;
mod gicr;
mod gits;
mod interface;
mod interrupts;
mod layout;
mod pending;
mod tables;

use alloc::vec::Vec;

use layout::Layout;

use crate::config::Config;
use crate::cpu_interface::Vtr;
use crate::host::Host;
use crate::intid::{Affinity, ItsId, VcpuId};
use crate::mmio::{self, Width};
use crate::state::{VcpuState, VmState};

pub use errno::Errno;

/// Groups of attributes: `KVM_DEV_ARM_VGIC_GRP_*`.
pub mod group {
    /// Addresses of the frames: [`address`](super::address).
    pub const ADDR: u32 = 0;
    /// Registers of the distributor, 32 bits each: the offset.
    pub const DIST_REGS: u32 = 1;
    /// Number of SGIs, PPIs and SPIs together: a multiple of 32 from 64 to 1024, where 1024 stands
    /// for 988 SPIs; 256 if not set. KVM takes no more than 992, for
    /// [`Config::spis`](crate::Config::spis) of 32 to 960.
    pub const NR_IRQS: u32 = 3;
    /// Commands: [`control`](super::control).
    pub const CTRL: u32 = 4;
    /// Registers of a redistributor, 32 bits each: packed affinity
    /// ([`Affinity::packed`](crate::intid::Affinity::packed)) in bits 63:32, offset from `RD_base`
    /// below; `SGI_base` is at 0x10000.
    pub const REDIST_REGS: u32 = 5;
    /// Registers of a CPU interface, 64 bits each: packed affinity in bits 63:32, Op0 in 15:14, Op1
    /// in 13:11, CRn in 10:7, CRm in 6:3, Op2 in 2:0.
    pub const CPU_SYSREGS: u32 = 6;
    /// Lines of 32 interrupts: packed affinity in bits 63:32, 0 in 31:10, the first INTID below.
    /// Lines of SPIs are read and written with the affinity of any vCPU.
    pub const LEVEL_INFO: u32 = 7;
    /// Registers of an ITS, 64 bits each: the offset.
    pub const ITS_REGS: u32 = 8;
}

/// Attributes of [`group::ADDR`].
pub mod address {
    /// The distributor, 64 KiB.
    pub const DIST: u64 = 2;
    /// The redistributors of all vCPUs, 128 KiB each, one after the other.
    pub const REDIST: u64 = 3;
    /// An ITS, 128 KiB.
    pub const ITS: u64 = 4;
    /// One of several regions of redistributors: count in bits 63:52, base in 51:16, index in 11:0.
    pub const REDIST_REGION: u64 = 5;
}

/// Attributes of [`group::CTRL`]. The value is ignored.
pub mod control {
    /// The device is complete: registers have their reset values. An ITS starts with
    /// reset values, without the command.
    pub const INIT: u64 = 0;
    /// The mappings of an ITS are written to the guest's tables.
    pub const SAVE_TABLES: u64 = 1;
    /// The mappings of an ITS are read from the guest's tables.
    pub const RESTORE_TABLES: u64 = 2;
    /// The pending states of LPIs are written to the redistributors' pending tables.
    pub const SAVE_PENDING_TABLES: u64 = 3;
    /// An ITS is reset.
    pub const RESET: u64 = 4;
}

/// A device of KVM's API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// `arm-vgic-v3`: distributor, redistributors and CPU interfaces.
    Gic,
    /// `arm-vgic-its`: one of the VM's ITSes.
    Its(ItsId),
}

/// An attribute of a device: `struct kvm_device_attr` without its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attribute {
    /// The device.
    pub device: Device,
    /// The group, one of [`group`].
    pub group: u32,
    /// The attribute in the group.
    pub attr: u64,
}

/// A VM's devices `arm-vgic-v3` and `arm-vgic-its`.
///
/// # Examples
/// A VMM reads an attribute of a VM that it saves, and sets it to restore the VM.
///
/// ```
/// # use vgic::cpu_interface::software::NEOVERSE;
/// # use vgic::intid::{Affinity, CpuId, VcpuId};
/// # use vgic::{BadAddress, Config, Host, PhysicalInterrupt};
/// # struct Memory;
/// # impl Host for Memory {
/// #     fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
/// #     fn wake(&self, _vcpu: VcpuId) {}
/// #     fn read_memory(&self, _: u64, _: &mut [u8]) -> Result<(), BadAddress> { Err(BadAddress) }
/// #     fn write_memory(&self, _: u64, _: &[u8]) -> Result<(), BadAddress> { Err(BadAddress) }
/// #     fn deactivate(&self, _physical: PhysicalInterrupt) {}
/// #     fn is_pending(&self, _physical: PhysicalInterrupt) -> bool { false }
/// # }
/// # let (host, vtr) = (Memory, NEOVERSE);
/// # let config = Config::new(vec![Affinity::new(0, 0, 0, 0)]);
/// # let mut state = vgic::state::VmState::after_reset(&config);
/// # state.group_enables = 2;
/// use vgic::kvm::{Attribute, Device, Devices, address, control, group};
///
/// let gic = |group, attr| Attribute { device: Device::Gic, group, attr };
///
/// // The source: `state` is what `Vgic::freeze` has returned.
/// let source = Devices::of(config.clone(), vtr, state);
/// let enables = gic(group::DIST_REGS, 0); // GICD_CTLR
/// let mut value = 0;
/// source.get(enables, &mut value)?;
///
/// // The target, with a `Host` for the guest's memory.
/// let mut target = Devices::new(config, vtr);
/// target.set(gic(group::NR_IRQS, 0), 256, &host)?;
/// target.set(gic(group::ADDR, address::DIST), 0x0800_0000, &host)?;
/// target.set(gic(group::ADDR, address::REDIST), 0x080a_0000, &host)?;
/// target.set(gic(group::CTRL, control::INIT), 0, &host)?;
/// target.set(enables, value, &host)?;
///
/// // For `Vgic::new` and `Vgic::restore`.
/// let (config, state) = target.finish()?;
/// # assert_eq!((config.spis, state.group_enables), (224, 2));
/// # Ok::<(), vgic::kvm::Errno>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Devices {
    config: Config,
    vtr: Vtr,
    layout: Layout,
    state: VmState,
    /// Affinity and index of each vCPU, by rising affinity.
    places: Vec<(u64, usize)>,
}

/// An attribute, decoded as far as its group.
enum Place {
    Address(u64),
    IrqCount,
    Control(u64),
    Gicd(u64),
    /// Redistributor of the vCPU at the index.
    Gicr(usize, u64),
    /// Register of the vCPU's CPU interface.
    Interface(usize, u64),
    /// Lines of the 32 interrupts of the bank, those of the vCPU in bank 0.
    Lines(usize, usize),
    Gits(usize, u64),
}

impl Devices {
    /// Returns devices that have just been created, for the vCPUs, ITSes, LPIs and quotas of
    /// `config`. The attributes give the addresses and the number of SPIs. `vtr` is of the CPUs
    /// that the vCPUs will run on ([`Cpu::vtr`](crate::Cpu::vtr)).
    #[must_use]
    pub fn new(config: Config, vtr: Vtr) -> Self {
        let layout = Layout::new(config.its.len());
        let state = VmState::after_reset(&config);
        Self::with(config, vtr, layout, state)
    }

    /// Returns the devices of a VM with a configuration and a state
    /// ([`Vgic::save`](crate::Vgic::save)). `vtr` is of the CPUs that the vCPUs have run on
    /// ([`Cpu::vtr`](crate::Cpu::vtr)).
    #[must_use]
    pub fn of(config: Config, vtr: Vtr, state: VmState) -> Self {
        let layout = Layout::of(&config);
        Self::with(config, vtr, layout, state)
    }

    fn with(config: Config, vtr: Vtr, layout: Layout, state: VmState) -> Self {
        let affinities = (state.vcpus.iter().enumerate())
            .filter_map(|(index, vcpu)| vcpu.affinity.map(|affinity| (affinity, index)));
        let mut places: Vec<_> = affinities.collect();
        places.sort_unstable();
        Self {
            config,
            vtr,
            layout,
            state,
            places,
        }
    }

    /// Returns the configuration for [`Vgic::new`](crate::Vgic::new) and the state for
    /// [`Vgic::restore`](crate::Vgic::restore).
    ///
    /// # Errors
    /// [`Errno::Nxio`] if the GIC has not been initialised, or a device lacks an address;
    /// [`Errno::Inval`] if frames overlap, or the configuration is not valid.
    pub fn finish(self) -> Result<(Config, VmState), Errno> {
        self.refuse_extended()?;
        let config = self.layout.configure(self.config)?;
        Ok((config, self.state))
    }

    /// Powers a vCPU on or off, as `KVM_SET_MP_STATE` does. Without a call after
    /// [`control::INIT`] of the GIC, vCPU 0 alone is on.
    ///
    /// # Errors
    /// [`Errno::Inval`] without the vCPU.
    pub fn set_power(&mut self, vcpu: VcpuId, on: bool) -> Result<(), Errno> {
        let vcpu = self.vcpu_mut(vcpu.index())?;
        if vcpu.affinity.is_none() {
            return Err(Errno::Inval);
        }
        vcpu.is_on = on;
        Ok(())
    }

    /// Returns whether a vCPU is powered on, as `KVM_GET_MP_STATE` does. One that has been removed
    /// is off.
    ///
    /// # Errors
    /// [`Errno::Inval`] without the vCPU.
    pub fn power(&self, vcpu: VcpuId) -> Result<bool, Errno> {
        Ok(self.vcpu(vcpu.index())?.is_on)
    }

    /// Checks that there is an attribute: `KVM_HAS_DEVICE_ATTR`.
    ///
    /// # Errors
    /// [`Errno::Nxio`] without the attribute, or for an offset in the distributor or a
    /// redistributor that is not aligned; [`Errno::Inval`] without the vCPU, or for an offset in an
    /// ITS that is not aligned.
    pub fn has(&self, attribute: Attribute) -> Result<(), Errno> {
        match self.place(attribute)? {
            Place::Address(_) | Place::IrqCount | Place::Control(_) | Place::Lines(..) => Ok(()),
            Place::Gicd(offset) => self.gicd(offset).map(|_| ()),
            Place::Gicr(vcpu, offset) => self.gicr(vcpu, offset).map(|_| ()),
            Place::Interface(vcpu, register) => self.interface(vcpu, register).map(|_| ()),
            Place::Gits(its, offset) => self.gits(its, offset).map(|_| ()),
        }
    }

    /// Reads an attribute: `KVM_GET_DEVICE_ATTR`. A value of 32 bits is zero above. `value` is an
    /// input too for [`address::REDIST_REGION`]: the index. In [`group::DIST_REGS`] and
    /// [`group::REDIST_REGS`], a register that there is not is RAZ/WI: [`Devices::has`] tells.
    ///
    /// # Errors
    /// Those of KVM: [`Errno::Nxio`] for what there is not, [`Errno::Inval`] for a vCPU that there
    /// is not and an attribute that cannot be, [`Errno::Busy`] before [`control::INIT`],
    /// [`Errno::Noent`] for a region that there is not.
    pub fn get(&self, attribute: Attribute, value: &mut u64) -> Result<(), Errno> {
        let place = self.place(attribute)?;
        self.is_ready_for(&place)?;

        *value = match place {
            Place::Address(attr) => self.layout.address(attribute.device, attr, *value)?,
            Place::IrqCount => self.layout.irq_count(),
            Place::Control(_) => return Err(Errno::Nxio),
            // A VMM may read all of the frame.
            Place::Gicd(offset) => self.gicd(offset).unwrap_or(0).into(),
            Place::Gicr(vcpu, offset) => self.gicr(vcpu, offset).unwrap_or(0).into(),
            Place::Interface(vcpu, register) => self.interface(vcpu, register)?,
            Place::Lines(vcpu, bank) => self.lines(vcpu, bank).into(),
            Place::Gits(its, offset) => self.gits(its, offset)?,
        };
        Ok(())
    }

    /// Writes an attribute, or does a command: `KVM_SET_DEVICE_ATTR`. `host` is for the commands,
    /// which read and write guest memory.
    ///
    /// # Errors
    /// Those of KVM, as for [`Devices::get`]; [`Errno::Exist`] for an address that is set, or a
    /// collection that is mapped; [`Errno::TooBig`] for an address beyond 2^52; [`Errno::Busy`] for
    /// a number of interrupts that is set, and for `GITS_CREADR` of an ITS that is enabled;
    /// [`Errno::Fault`] for a table that is not in guest memory; [`Errno::NoMem`] beyond a quota.
    /// The devices are as before; a save may have written a part of the tables.
    pub fn set(&mut self, attribute: Attribute, value: u64, host: &impl Host) -> Result<(), Errno> {
        let place = self.place(attribute)?;
        self.is_ready_for(&place)?;

        match place {
            Place::Address(attr) => self.layout.set_address(attribute.device, attr, value),
            Place::IrqCount => self.layout.set_irq_count(value),
            Place::Control(attr) => self.control(attribute.device, attr, host),
            Place::Gicd(offset) => self.set_gicd(offset, value as u32),
            Place::Gicr(vcpu, offset) => self.set_gicr(vcpu, offset, value as u32),
            Place::Interface(vcpu, register) => self.set_interface(vcpu, register, value),
            Place::Lines(vcpu, bank) => {
                self.set_lines(vcpu, bank, value as u32);
                Ok(())
            }
            Place::Gits(its, offset) => self.set_gits(its, offset, value),
        }
    }

    /// Returns an error for a VM with extended interrupts, which KVM's devices do not have.
    fn refuse_extended(&self) -> Result<(), Errno> {
        if self.config.has_extended_range() {
            Err(Errno::Nxio)
        } else {
            Ok(())
        }
    }

    /// Decodes an attribute.
    fn place(&self, attribute: Attribute) -> Result<Place, Errno> {
        self.refuse_extended()?;
        let Attribute {
            device,
            group,
            attr,
        } = attribute;
        let of_gic = device == Device::Gic;

        Ok(match group {
            group::ADDR => match (of_gic, attr) {
                (true, address::DIST | address::REDIST | address::REDIST_REGION)
                | (false, address::ITS) => Place::Address(attr),
                _ => return Err(Errno::Nxio),
            },
            group::CTRL => match (of_gic, attr) {
                (_, control::INIT)
                | (true, control::SAVE_PENDING_TABLES)
                | (false, control::SAVE_TABLES | control::RESTORE_TABLES | control::RESET) => {
                    Place::Control(attr)
                }
                _ => return Err(Errno::Nxio),
            },
            group::NR_IRQS if of_gic => Place::IrqCount,
            group::DIST_REGS if of_gic => Place::Gicd(attr & 0xffff_ffff),
            group::REDIST_REGS if of_gic => Place::Gicr(self.index(attr)?, attr & 0xffff_ffff),
            group::CPU_SYSREGS if of_gic => Place::Interface(self.index(attr)?, attr & 0xffff),
            group::LEVEL_INFO if of_gic => {
                // The kind of information, 0 for lines, and the first INTID of 32.
                if attr & 0xffff_fc1f != 0 {
                    return Err(Errno::Inval);
                }
                Place::Lines(self.index(attr)?, (attr & 0x3ff) as usize / 32)
            }
            group::ITS_REGS => match device {
                Device::Gic => return Err(Errno::Nxio),
                Device::Its(its) => Place::Gits(usize::from(its.0), attr),
            },
            _ => return Err(Errno::Nxio),
        })
    }

    /// Checks that registers are there.
    fn is_ready_for(&self, place: &Place) -> Result<(), Errno> {
        match *place {
            Place::Gits(its, _) if !self.layout.has_its(its) => Err(Errno::Nxio),
            Place::Gicd(_) | Place::Gicr(..) | Place::Interface(..) | Place::Lines(..)
                if !self.layout.is_initialised() =>
            {
                Err(Errno::Busy)
            }
            _ => Ok(()),
        }
    }

    /// Returns the index of the vCPU whose packed affinity is in bits 63:32 of an attribute.
    fn index(&self, attr: u64) -> Result<usize, Errno> {
        let affinity = Affinity::from_packed((attr >> 32) as u32).mpidr();
        let place = (self.places).binary_search_by_key(&affinity, |&(affinity, _)| affinity);
        let place = place.ok().and_then(|place| self.places.get(place));
        place.map(|&(_, index)| index).ok_or(Errno::Inval)
    }

    /// Returns the state of the vCPU at an index.
    fn vcpu(&self, index: usize) -> Result<&VcpuState, Errno> {
        self.state.vcpus.get(index).ok_or(Errno::Inval)
    }

    /// Returns the state of the vCPU at an index, to be changed.
    fn vcpu_mut(&mut self, index: usize) -> Result<&mut VcpuState, Errno> {
        self.state.vcpus.get_mut(index).ok_or(Errno::Inval)
    }

    /// Does a command.
    fn control(&mut self, device: Device, attr: u64, host: &impl Host) -> Result<(), Errno> {
        match (device, attr) {
            (Device::Gic, control::INIT) => {
                if self.layout.initialise() {
                    self.config.spis = self.layout.spis();
                    let made = core::mem::take(&mut self.state.vcpus);
                    self.state = VmState::after_reset(&self.config);
                    // Power is no register of the device.
                    for (vcpu, made) in self.state.vcpus.iter_mut().zip(made) {
                        vcpu.is_on = made.is_on;
                    }
                }
                Ok(())
            }
            (Device::Gic, _) => self.save_pending(host),
            (Device::Its(_), control::INIT) => Ok(()),
            (Device::Its(its), attr) => {
                let its = usize::from(its.0);
                if !self.layout.has_its(its) {
                    return Err(Errno::Nxio);
                }
                match attr {
                    control::SAVE_TABLES => self.save_tables(its, host),
                    control::RESTORE_TABLES => self.restore_tables(its, host),
                    _ => self.reset_its(its),
                }
            }
        }
    }
}

/// Replaces the half of a 64-bit register that an access of 32 bits writes.
fn write_half(register: u64, offset: u64, value: u32) -> u64 {
    mmio::write_half(register, offset, Width::Word, value.into()).unwrap_or(register)
}

/// Returns the half of a 64-bit register that an access of 32 bits reads.
fn read_half(register: u64, offset: u64) -> u32 {
    mmio::read_half(register, offset, Width::Word) as u32
}
