//! A PCI function of the machine that is passed through by VFIO: QEMU's `edu`, which sends an MSI
//! when a register is written.
//!
//! Its interrupt is an eventfd, which both VFIO and the VM have. With virtual PEs KVM then has the
//! physical ITS send the MSI to the vCPU itself, and nobody signals the eventfd.
#![expect(unsafe_code)]
// UNSAFETY: system calls, and a register of the function.

use std::ffi::{CString, c_ulong};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr;

use anyhow::{Context, Result, ensure};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID, KvmIrqRouting, kvm_irq_routing_entry, kvm_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

/// Directory of the drivers, in the order in which to load them.
const MODULES: &str = "/modules";
const FUNCTIONS: &str = "/sys/bus/pci/devices";

/// Vendor and device of `edu`, as files of a function have them.
const EDU: [(&str, &str); 2] = [("vendor", "0x1234"), ("device", "0x11e8")];

/// Register that makes the function send its MSI, and the one that acknowledges it.
const RAISE: usize = 0x60;
const ACKNOWLEDGE: usize = 0x64;
/// Bytes of its registers that are used.
const REGISTERS: usize = 0x1000;

/// PCI configuration: the command register, and its bits for memory and bus mastering.
const COMMAND: u64 = 0x04;
const MEMORY_AND_MASTER: u16 = 6;

/// Numbers of VFIO's calls (`linux/vfio.h`): all are `_IO(';', 100 + n)`.
const GROUP_SET_CONTAINER: c_ulong = 0x3b68;
const SET_IOMMU: c_ulong = 0x3b66;
const GROUP_GET_DEVICE: c_ulong = 0x3b6a;
const DEVICE_GET_REGION: c_ulong = 0x3b6c;
const DEVICE_SET_IRQS: c_ulong = 0x3b6e;
/// Kind of IOMMU: page tables of the host's.
const TYPE1: c_ulong = 1;
/// Regions: the first BAR, and the configuration.
const BAR_0: u32 = 0;
const CONFIGURATION: u32 = 7;
/// Index of the MSIs, and the flags of a call that has each trigger an eventfd.
const MSI: u32 = 1;
const EVENTFD_TRIGGER: u32 = 1 << 2 | 1 << 5;

/// `struct vfio_region_info`.
#[repr(C)]
#[derive(Default)]
struct Region {
    size_of_this: u32,
    flags: u32,
    index: u32,
    capabilities: u32,
    size: u64,
    offset: u64,
}

/// `struct vfio_irq_set` with one eventfd.
#[repr(C)]
struct Trigger {
    size_of_this: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    eventfd: RawFd,
}

/// A function that is passed through.
pub(crate) struct PassedThrough {
    /// VFIO's files: a function is given back when they are closed.
    _files: [File; 3],
    registers: *mut u32,
    interrupt: EventFd,
}

// SAFETY: the registers stay mapped, and each access is volatile.
unsafe impl Send for PassedThrough {}
// SAFETY: the registers stay mapped, and each access is volatile.
unsafe impl Sync for PassedThrough {}

impl PassedThrough {
    /// Loads VFIO, and takes the function.
    pub(crate) fn find() -> Result<Self> {
        load_modules()?;
        let function = find_edu()?.context("the machine has no edu")?;
        let group = take(&function)?;
        let name = function.file_name().unwrap_or_default();
        let name = CString::new(name.as_encoded_bytes())?;

        let container = open("/dev/vfio/vfio")?;
        let group = open(&format!("/dev/vfio/{group}"))?;
        let fd = container.as_raw_fd();
        call(&group, GROUP_SET_CONTAINER, ptr::from_ref(&fd) as c_ulong).context("container")?;
        call(&container, SET_IOMMU, TYPE1).context("no IOMMU")?;
        let fd = call(&group, GROUP_GET_DEVICE, name.as_ptr() as c_ulong).context("no device")?;
        // SAFETY: the call has returned a new file.
        let device = unsafe { File::from_raw_fd(fd) };

        let command = region(&device, CONFIGURATION)?.offset + COMMAND;
        device.write_all_at(&MEMORY_AND_MASTER.to_le_bytes(), command)?;
        let registers = map(&device, region(&device, BAR_0)?.offset)?;

        let interrupt = EventFd::new(0)?;
        let trigger = Trigger {
            size_of_this: size_of::<Trigger>() as u32,
            flags: EVENTFD_TRIGGER,
            index: MSI,
            start: 0,
            count: 1,
            eventfd: interrupt.as_raw_fd(),
        };
        call(&device, DEVICE_SET_IRQS, ptr::from_ref(&trigger) as c_ulong).context("no MSI")?;
        Ok(Self {
            _files: [container, group, device],
            registers,
            interrupt,
        })
    }

    /// Has the function's interrupt raise the MSI in the VM from now on. The guest has mapped its
    /// event: KVM looks now for a vCPU to send it to directly.
    pub(crate) fn route(&self, vm: &VmFd, msi: &kvm_msi) -> Result<()> {
        const GSI: u32 = 0;
        // Nothing is there before the first call.
        let _ = vm.unregister_irqfd(&self.interrupt, GSI);
        let mut entry = kvm_irq_routing_entry {
            gsi: GSI,
            type_: KVM_IRQ_ROUTING_MSI,
            flags: KVM_MSI_VALID_DEVID,
            ..kvm_irq_routing_entry::default()
        };
        entry.u.msi.address_lo = msi.address_lo;
        entry.u.msi.address_hi = msi.address_hi;
        entry.u.msi.data = msi.data;
        entry.u.msi.__bindgen_anon_1.devid = msi.devid;
        let table = KvmIrqRouting::from_entries(&[entry]);
        let table = table.ok().context("a table of one route")?;
        vm.set_gsi_routing(&table).context("no route")?;
        vm.register_irqfd(&self.interrupt, GSI).context("no irqfd")
    }

    /// Makes the function send its MSI.
    #[inline(always)]
    pub(crate) fn raise(&self) {
        self.write(RAISE);
    }

    /// Acknowledges the MSI, for the next one.
    pub(crate) fn acknowledge(&self) {
        self.write(ACKNOWLEDGE);
    }

    #[inline(always)]
    fn write(&self, register: usize) {
        // SAFETY: the register is inside the mapping.
        unsafe { self.registers.byte_add(register).write_volatile(1) };
    }
}

/// Loads the drivers.
fn load_modules() -> Result<()> {
    let files = fs::read_dir(MODULES).context("the machine has no drivers")?;
    let mut paths: Vec<PathBuf> = files.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    paths.sort();
    for path in paths {
        let file = File::open(&path)?;
        // SAFETY: the file is open, and there are no parameters.
        let failed =
            unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        let error = io::Error::last_os_error();
        ensure!(failed == 0, "{} is not loaded: {error}", path.display());
    }
    Ok(())
}

/// Returns the directory of the first `edu`.
fn find_edu() -> Result<Option<PathBuf>> {
    for function in fs::read_dir(FUNCTIONS)? {
        let function = function?.path();
        let is = |(name, value): (&str, &str)| {
            fs::read_to_string(function.join(name)).is_ok_and(|text| text.trim() == value)
        };
        if EDU.into_iter().all(is) {
            return Ok(Some(function));
        }
    }
    Ok(None)
}

/// Gives a function to VFIO, and returns the number of its group.
fn take(function: &Path) -> Result<String> {
    let name = function.file_name().unwrap_or_default();
    fs::write(function.join("driver_override"), "vfio-pci")?;
    fs::write("/sys/bus/pci/drivers_probe", name.as_encoded_bytes())?;
    let group = fs::read_link(function.join("iommu_group")).context("no IOMMU confines it")?;
    let number = group.file_name().context("a group without a number")?;
    Ok(number.to_string_lossy().into_owned())
}

fn open(path: &str) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.with_context(|| format!("no {path}"))
}

/// Makes a call of VFIO's.
fn call(file: &File, number: c_ulong, argument: c_ulong) -> io::Result<RawFd> {
    // SAFETY: each caller passes what the call takes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), number as _, argument) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Returns the place of a region of a function in its file.
fn region(device: &File, index: u32) -> Result<Region> {
    let mut region = Region {
        size_of_this: size_of::<Region>() as u32,
        index,
        ..Region::default()
    };
    let argument = ptr::from_mut(&mut region) as c_ulong;
    call(device, DEVICE_GET_REGION, argument).with_context(|| format!("no region {index}"))?;
    Ok(region)
}

/// Maps registers at `offset` of the function's file, for ever.
fn map(device: &File, offset: u64) -> Result<*mut u32> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (file, offset) = (device.as_raw_fd(), libc::off_t::try_from(offset)?);
    // SAFETY: a new mapping replaces none.
    let start = unsafe {
        let null = ptr::null_mut();
        libc::mmap(null, REGISTERS, protection, libc::MAP_SHARED, file, offset)
    };
    ensure!(start != libc::MAP_FAILED, "the registers are not mapped");
    Ok(start.cast())
}
