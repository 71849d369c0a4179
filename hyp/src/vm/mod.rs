//! A VM: memory by stage 2, an interrupt controller, devices, vCPUs, a reset and a death.
//!
//! A VM with the whole machine ([`Extent::Whole`]) has all memory but the hypervisor's, all
//! devices, and a vCPU on every CPU, which never leaves it. VMs with a part of the machine each
//! ([`Extent::Part`]) share the CPUs. They have RAM and a console of their own.
//!
//! The hypervisor does not trust VMs with a part of the machine, nor do they trust each other. The
//! registers that such a VM may use are switched, all others trap.
#![expect(unsafe_code)]
// UNSAFETY: the interrupt controller lives until no CPU uses it any more.

pub(crate) mod changes;
pub(crate) mod choice;
pub(crate) mod console;
pub(crate) mod controller;
pub(crate) mod counts;
pub(crate) mod devices;
mod direct;
pub(crate) mod hop;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod kvm;
pub(crate) mod lifetime;
pub(crate) mod memory;
pub(crate) mod options;
pub(crate) mod psci;
pub(crate) mod saved;
pub(crate) mod snapshot;
pub(crate) mod tree;
pub(crate) mod v2m;
pub(crate) mod virtio;

use alloc::boxed::Box;
use alloc::ffi::CString;
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTVOFF_EL2, Writeable};
use spin::Once;
use vgic::Config;
use vgic::cpu_interface::CpuInterface;
use vgic::cpu_interface::ich::Ich;
use vgic::epoch::Domain;
use vgic::intid::IntId;

use crate::cpu::control;
use crate::cpu::id_registers::Reader;
use crate::cpu::percpu;
use crate::cpu::registers::VMPIDR_EL2;
use crate::exception;
use crate::gic;
use crate::gic::lpi::MsiSource;
use crate::memory::stage2::Stage2;
use crate::memory::tlb;
use crate::vcpu::{Vcpu, interrupts};
use changes::Changes;
use console::Console;
use controller::Controller;
use counts::Counts;
use devices::Devices;
use hop::Hop;
use image::Load;
use lifetime::Lifetime;
use memory::GuestMemory;
use options::{Direct, ExtendedRange};
use saved::{Held, Moments};
use v2m::MsiFrame;
use virtio::EntropyDevice;

/// Part of the machine that a VM has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    /// The whole machine.
    Whole,
    /// RAM of its own, and a share of the CPUs' time.
    Part,
}

/// A VM. It lives for ever; its interrupt controller lives from a start to the next death.
pub(crate) struct Vm {
    /// Index among the VMs.
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) extent: Extent,
    pub(crate) stage2: Stage2,
    /// Console, unless the VM has the machine's own.
    pub(crate) console: Option<Console>,
    /// PCI functions of the machine, unless the VM has the whole machine.
    pub(crate) devices: Option<Devices>,
    /// GICv2m frame, if the VM has one and PCI functions use it.
    pub(crate) msi_frame: Option<MsiFrame>,
    /// Entropy device of the hypervisor's own, if the VM has one.
    pub(crate) entropy: Option<EntropyDevice>,
    /// True if the run ends without waiting for this VM.
    pub(crate) is_daemon: bool,
    pub(crate) lifetime: Lifetime,
    /// Moments at which the VM is saved in place, if it is.
    pub(crate) moments: Option<Moments>,
    /// Interrupts of the machine that arrive during a save in place.
    pub(crate) held: Held,
    /// Direct injection of MSIs, on a machine with a GICv4.
    pub(crate) direct: Direct,
    /// Changes of direct injection, if there are any.
    pub(crate) changes: Option<Changes>,
    /// True if each vCPU chooses between direct injection and list registers.
    pub(crate) is_choosing: bool,
    /// Device by which the guest moves to Linux KVM and back, if it does.
    pub(crate) hop: Option<Hop>,
    /// File of the host's for snapshots, if the VM has one.
    pub(crate) snapshot: Option<CString>,
    /// File of the host's that the VM comes from, if it comes from another machine.
    pub(crate) incoming: Option<CString>,
    pub(crate) counts: Counts,
    pub(crate) memory: GuestMemory,
    boot: Boot,
    /// Configuration of the interrupt controller.
    config: Config,
    /// The guest's interrupts of what the hypervisor gives it.
    pub(crate) wiring: Wiring,
    pub(crate) extended_range: ExtendedRange,
    vcpus: Once<Box<[Vcpu]>>,
    /// `CNTVOFF_EL2`: ticks that the guest's clock is behind the machine's.
    clock_offset: AtomicU64,
    /// Number of the vCPU that last ran on each CPU, plus 1.
    last_vcpus: Box<[AtomicU16]>,
}

/// Interrupts of a guest's devices that are the hypervisor's choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wiring {
    /// SPI of the hypervisor's console.
    pub(crate) console: IntId,
    /// PPI of the virtual timer.
    pub(crate) virtual_timer: IntId,
}

impl Wiring {
    /// Returns the interrupts of QEMU's `virt` board, or the first ones of the extended ranges.
    pub(crate) fn new(is_extended: bool) -> Self {
        let (spi, ppi) = match is_extended {
            false => (console::SPI, interrupts::VIRTUAL_TIMER),
            true => (IntId::FIRST_EXTENDED_SPI, IntId::FIRST_EXTENDED_PPI),
        };
        Self {
            console: IntId::spi(spi).expect("it is an SPI"),
            virtual_timer: IntId::ppi(ppi).expect("it is a PPI"),
        }
    }

    /// Returns the guest's PPI of a physical PPI.
    #[inline]
    pub(crate) fn ppi(&self, physical: u32) -> Option<IntId> {
        match physical {
            interrupts::VIRTUAL_TIMER => Some(self.virtual_timer),
            _ => IntId::ppi(physical),
        }
    }
}

/// Start of a VM.
pub(crate) enum Boot {
    /// The first vCPU starts at `entry` with `argument` in `x0`. The start uses the boot loader's
    /// modules up, so that only a reset of the machine starts the VM again.
    Once {
        /// Entry point.
        entry: u64,
        /// Value of `x0`.
        argument: u64,
    },
    /// Modules are copied into the RAM, at every start.
    Modules(Load),
}

/// Description of a VM.
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) extent: Extent,
    pub(crate) stage2: Stage2,
    pub(crate) memory: GuestMemory,
    pub(crate) devices: Option<Devices>,
    pub(crate) msi_frame: Option<MsiFrame>,
    pub(crate) entropy: Option<EntropyDevice>,
    pub(crate) boot: Boot,
    pub(crate) is_daemon: bool,
    pub(crate) moments: Option<Moments>,
    pub(crate) direct: Direct,
    pub(crate) changes: Option<Changes>,
    pub(crate) hop: Option<Hop>,
    pub(crate) snapshot: Option<CString>,
    pub(crate) incoming: Option<CString>,
    /// Configuration of the interrupt controller, and the vCPUs.
    pub(crate) config: Config,
    pub(crate) wiring: Wiring,
    pub(crate) extended_range: ExtendedRange,
    /// Share of the CPUs' time, relative to other VMs', [`scheduler::NORMAL_WEIGHT`] for a usual
    /// one.
    pub(crate) weight: u32,
}

/// `VMPIDR_EL2`, bit 31: RES1.
const MPIDR_RES1: u64 = 1 << 31;

/// Most VMs.
pub(crate) const MAX_VMS: usize = SLOTS - 1;

/// Slots of [`VGICS`], a power of two. The last one is of no VM, and always null.
const SLOTS: usize = 64;

/// Interrupt controller of each VM, or null while the VM is dead or being saved.
static VGICS: [AtomicPtr<Controller>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];

const _: () = assert!(MsiSource::NO_VM as usize % SLOTS == MAX_VMS);

static VMS: Once<Vec<&'static Vm>> = Once::new();

/// True if the vCPUs of a VM choose between direct injection and list registers.
static IS_ANY_CHOOSING: AtomicBool = AtomicBool::new(false);

static DOMAIN: Once<Domain> = Once::new();

/// Returns the epoch domain of the readers of unlinked objects, of all VMs.
pub(crate) fn domain() -> &'static Domain {
    DOMAIN.call_once(Domain::new)
}

/// Sets the VMs.
pub(crate) fn init(vms: Vec<&'static Vm>) {
    VMS.call_once(|| vms);
}

/// Returns all VMs, or none before [`init`].
pub(crate) fn all() -> &'static [&'static Vm] {
    VMS.get().map_or(&[], Vec::as_slice)
}

/// Returns true if the vCPUs of a VM choose between direct injection and list registers.
#[inline]
pub(crate) fn is_any_choosing() -> bool {
    // Relaxed: set before the first vCPU runs.
    IS_ANY_CHOOSING.load(Ordering::Relaxed)
}

/// Makes an interface hold extended interrupts if a VM says so, and checks that it holds those of
/// every VM. Returns the VM that cannot run otherwise.
pub(crate) fn extend(interface: Ich) -> Result<Ich, &'static Vm> {
    let known = all().iter().map(|vm| vm.extended_range).max();
    let interface = match known.unwrap_or(ExtendedRange::AsSaid) {
        ExtendedRange::AsSaid => interface,
        known => interface.assume_extended_range(known == ExtendedRange::Shown),
    };
    let mut extended = all().iter().filter(|vm| vm.config.has_extended_range());
    match extended.next() {
        Some(vm) if !interface.vtr().extended_range => Err(*vm),
        _ => Ok(interface),
    }
}

/// Returns the VM with the whole machine, if there is one.
pub(crate) fn of_machine() -> Option<&'static Vm> {
    (all().first().copied()).filter(|vm| vm.extent == Extent::Whole)
}

/// Returns the interrupt controller of a VM, unless the VM is dead or being saved. The reference
/// may be used until the calling CPU answers a [`rendezvous`](crate::cpu::rendezvous).
#[inline]
pub(crate) fn vgic_of(vm: usize) -> Option<&'static Controller> {
    // Acquire: pairs with the Release in `set_vgic`.
    let vgic = VGICS[vm % SLOTS].load(Ordering::Acquire);
    // SAFETY: the pointer is null or a controller's, which `lifetime` frees after every CPU has
    // answered a rendezvous since the pointer was cleared.
    unsafe { vgic.as_ref() }
}

impl Vm {
    /// Returns a VM without an interrupt controller, whose vCPUs are off.
    pub(crate) fn new(index: usize, description: Description) -> &'static Self {
        let Description {
            name,
            extent,
            stage2,
            memory,
            devices,
            msi_frame,
            entropy,
            boot,
            is_daemon,
            moments,
            direct,
            changes,
            hop,
            snapshot,
            incoming,
            config,
            wiring,
            extended_range,
            weight,
        } = description;

        let is_choosing =
            direct == Direct::Auto && devices.is_some() && gic::get().has_virtual_lpis();
        IS_ANY_CHOOSING.fetch_or(is_choosing, Ordering::Relaxed);
        let vm: &Self = Box::leak(Box::new(Self {
            index,
            extent,
            stage2,
            console: (extent == Extent::Part).then(|| Console::new(index, &name)),
            name,
            devices,
            msi_frame,
            entropy,
            is_daemon,
            lifetime: Lifetime::default(),
            moments,
            held: Held::default(),
            direct,
            changes,
            is_choosing,
            hop,
            snapshot,
            incoming,
            counts: Counts::default(),
            memory,
            boot,
            config,
            wiring,
            extended_range,
            vcpus: Once::new(),
            clock_offset: AtomicU64::new(0),
            last_vcpus: (percpu::all().iter()).map(|_| AtomicU16::new(0)).collect(),
        }));

        vm.vcpus.call_once(|| {
            let vcpus = vm.config.vcpus.iter().enumerate();
            let vcpus = vcpus.map(|(number, affinity)| {
                let id = controller::vcpu_id(number);
                Vcpu::new(vm, id, affinity.mpidr(), weight)
            });
            vcpus.collect()
        });
        vm
    }

    /// Returns the vCPUs.
    pub(crate) fn vcpus(&self) -> &[Vcpu] {
        self.vcpus.get().map_or(&[], |vcpus| vcpus)
    }

    /// Returns the vCPU with these affinity fields.
    pub(crate) fn find_vcpu(&self, affinity: u64) -> Option<&Vcpu> {
        // The first guess is right for a VM with a part of the machine.
        let guess = self.vcpus().get(controller::number_of_part(affinity));
        let guess = guess.filter(|vcpu| vcpu.affinity == affinity);
        guess.or_else(|| (self.vcpus().iter()).find(|vcpu| vcpu.affinity == affinity))
    }

    /// Returns the number of vCPUs whose events are to be direct, on a machine with a GICv4.
    pub(crate) fn direct_vcpus(&self) -> usize {
        let is_direct = |vcpu: &&Vcpu| self.direct != Direct::Off && vcpu.wants_direct();
        self.vcpus().iter().filter(is_direct).count()
    }

    /// Returns the interrupt controller, unless the VM is dead or being saved. The reference may be
    /// used until the calling CPU answers a [`rendezvous`](crate::cpu::rendezvous).
    pub(crate) fn vgic(&self) -> Option<&'static Controller> {
        vgic_of(self.index)
    }

    /// Gives the VM an interrupt controller.
    fn set_vgic(&self, vgic: Box<Controller>) {
        // Release: pairs with the Acquire in `vgic_of`.
        VGICS[self.index].store(Box::into_raw(vgic), Ordering::Release);
    }

    /// Takes the interrupt controller. Other CPUs may use it until a rendezvous.
    fn take_vgic(&self) -> Option<ptr::NonNull<Controller>> {
        ptr::NonNull::new(VGICS[self.index].swap(ptr::null_mut(), Ordering::AcqRel))
    }

    /// Makes the calling CPU, whose number is `cpu`, translate by the VM's tables, for `vcpu`.
    pub(crate) fn activate(&self, cpu: usize, vcpu: &Vcpu) {
        self.stage2.activate();
        exception::use_vectors(self.has_gicv2());
        if self.extent == Extent::Whole {
            return;
        }

        VMPIDR_EL2.set(MPIDR_RES1 | vcpu.affinity);
        CNTVOFF_EL2.set(self.clock_offset());
        control::clear_unswitched();
        // A vCPU may use an address space identifier for itself, and the VM's other vCPUs for
        // another address space. Their translations have one VMID.
        let new = vcpu.id.index() as u16 + 1;
        // Relaxed: only this CPU uses its entry.
        let old = self.last_vcpus[cpu].swap(new, Ordering::Relaxed);
        if old != new {
            tlb::invalidate_vmid();
        }
    }

    /// Returns the ticks that the guest's clock is behind the machine's.
    pub(crate) fn clock_offset(&self) -> u64 {
        // Relaxed: set before the VM's first vCPU is woken.
        self.clock_offset.load(Ordering::Relaxed)
    }

    /// Loads a part of the kernel. Returns true if it is loaded.
    ///
    /// # Safety
    /// No vCPU of the VM runs, unless the kernel is loaded.
    pub(crate) unsafe fn load_slice(&self) -> bool {
        match &self.boot {
            Boot::Once { .. } => true,
            Boot::Modules(load) if load.is_carried_out() => true,
            Boot::Modules(load) => {
                // SAFETY: by the caller's promise.
                let is_loaded = unsafe { load.advance() };
                self.memory.note_all();
                is_loaded
            }
        }
    }

    /// Returns the kind of reader of identification registers.
    pub(crate) fn reader(&self) -> Reader {
        Reader {
            has_part: self.extent == Extent::Part,
            has_gicv2: self.has_gicv2(),
        }
    }

    /// Returns true if the guest's interrupt controller is a GICv2.
    pub(crate) fn has_gicv2(&self) -> bool {
        self.config.gicv2.is_some()
    }
}
