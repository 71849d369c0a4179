//! The guest's parts: its kernel, its initial RAM disk, its command line, its disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::initramfs::Initramfs;
use super::{BootOptions, Kernel, checks, part, peer};

use crate::image::{self, Image};
use crate::provision::apt::{self, For};
use crate::provision::kernel::{self, Drivers};
use crate::provision::{busybox, cached, firmware};

/// The kernel of a guest without devices.
const DEFAULT_KERNEL: &str = "6.12";

/// The size of the disk that the workload reads.
const DISK_MIB: usize = 64;

/// Bytes that the workload gets over the network and sends back.
const NET_BYTES: usize = 16 << 20;

/// A guest, ready to be started.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The kernel's name in the report.
    pub(crate) kernel_name: String,
    /// An arm64 Image or a raw flat binary.
    pub(crate) kernel: PathBuf,
    /// The initial RAM disk, if there is one.
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub(crate) append: String,
    /// The disk that the workload reads.
    pub(crate) disk: PathBuf,
    /// Firmware and its boot disk, if firmware starts the kernel.
    pub(crate) firmware: Option<BootDisk>,
}

/// UEFI firmware, and the directory that it sees as a disk with a boot loader.
#[derive(Debug)]
pub(crate) struct BootDisk {
    /// The contents of flash memory.
    pub(crate) flash: PathBuf,
    /// The directory.
    pub(crate) directory: PathBuf,
}

/// Puts the guest of these options together. Files for this boot only go to `scratch`.
pub(crate) fn prepare(options: &BootOptions, scratch: &Path) -> Result<Guest> {
    let apt = apt::Lazy::new(For::Guest);
    let (disk, disk_sum) = disk()?;
    let (kernel_name, kernel, modules) = match &options.kernel {
        Kernel::Debian(release) => {
            let debian = kernel::provide(release, Drivers::Workload, &apt)?;
            (debian.version, debian.image, debian.modules)
        }
        Kernel::Image(path) => (
            path.display().to_string(),
            unwrapped(path, scratch, options.has_part())?,
            Vec::new(),
        ),
    };
    let initrd = if options.built_in_guest() {
        let path = scratch.join("initramfs");
        let busybox = busybox::provide(&apt)?;
        let configuration = configuration(options, &disk_sum)?;
        fs::write(&path, initramfs(&busybox, &modules, &configuration)?)?;
        Some(path)
    } else {
        options.initrd.clone()
    };
    let kernel_name = match &options.boot_disk {
        Some(directory) => directory.display().to_string(),
        None => kernel_name,
    };
    let append = command_line(options);
    let boot_disk = match &options.boot_disk {
        Some(directory) => Some(directory.clone()),
        None if options.efi.is_some() => Some(scratch.join("boot-disk")),
        None if options.firmware => {
            let loader = firmware::provide(&apt)?.grub;
            let initrd = initrd.as_deref();
            Some(boot_disk(scratch, &loader, &kernel, initrd, &append)?)
        }
        None => None,
    };
    let firmware = match boot_disk {
        Some(directory) => Some(BootDisk {
            flash: firmware::provide(&apt)?.flash,
            directory,
        }),
        None => None,
    };
    Ok(Guest {
        kernel_name,
        kernel,
        initrd,
        append,
        disk,
        firmware,
    })
}

/// Returns a kernel of Debian's, and an initial RAM disk with the part of the workload that needs
/// no disk, no network and nobody who types. The latter lies in `scratch`.
pub(crate) fn without_devices(
    vcpus: u16,
    apt: &apt::Lazy,
    scratch: &Path,
) -> Result<(PathBuf, PathBuf)> {
    let kernel = kernel::provide(DEFAULT_KERNEL, Drivers::Workload, apt)?;
    let left_out = checks::LONG_STEPS.join(" ");
    let rounds = rounds(vcpus);
    let configuration = format!("MODE=workload\nROUNDS={rounds}\nLEFT_OUT=\"uart {left_out}\"\n");
    let path = scratch.join("initramfs");
    let busybox = busybox::provide(apt)?;
    fs::write(&path, initramfs(&busybox, &kernel.modules, &configuration)?)?;
    Ok((kernel.image, path))
}

impl Guest {
    /// Fills the directory of the boot disk: the hypervisor, `application`, and this guest.
    pub(crate) fn write_image(&self, options: &BootOptions, application: &Path) -> Result<()> {
        let boot_disk = self.firmware.as_ref();
        let boot_disk = boot_disk.context("hyp.efi is started by firmware")?;
        let words = match options.has_part() {
            true => format!("{} {}", self.append, part::of(options)),
            false => String::new(),
        };
        let image = Image {
            arguments: &self.append,
            initrd: self.initrd.as_deref(),
            kernels: vec![image::Kernel {
                file: &self.kernel,
                name: "Image",
                words,
            }],
            seed: None,
        };
        match options.one_file {
            true => image.write_one_file(&boot_disk.directory, application),
            false => image.write(&boot_disk.directory, application),
        }
    }
}

/// Makes the directory of a disk from which firmware boots the kernel by GRUB, `loader`.
fn boot_disk(
    scratch: &Path,
    loader: &Path,
    kernel: &Path,
    initrd: Option<&Path>,
    append: &str,
) -> Result<PathBuf> {
    let directory = scratch.join("boot-disk");
    fs::create_dir_all(directory.join("EFI/BOOT"))?;
    fs::create_dir_all(directory.join("EFI/debian"))?;
    fs::copy(loader, directory.join("EFI/BOOT/BOOTAA64.EFI"))?;
    fs::copy(kernel, directory.join("Image"))?;

    let mut menu = format!("linux /Image {append}\n");
    if let Some(initrd) = initrd {
        fs::copy(initrd, directory.join("initrd"))?;
        menu.push_str("initrd /initrd\n");
    }
    menu.push_str("boot\n");
    fs::write(directory.join("EFI/debian/grub.cfg"), menu)?;
    Ok(directory)
}

/// Returns a kernel file as the boot protocol wants it: a compressed Image unpacked, another file
/// as it is.
fn unwrapped(path: &Path, scratch: &Path, has_part: bool) -> Result<PathBuf> {
    let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match kernel::raw_image(file) {
        Ok(image) => {
            let unwrapped = scratch.join("Image");
            fs::write(&unwrapped, image)?;
            Ok(unwrapped)
        }
        Err(_) if has_part => bail!(
            "{} is no arm64 Image, as a VM with a part of the machine (--cpus) wants it",
            path.display()
        ),
        // A raw flat binary: it has no header to check.
        Err(_) => Ok(path.to_owned()),
    }
}

/// Returns the kernel's command line. A Debian kernel gets a console from its first line on, a
/// panic at its first warning or oops, and a panic that ends the machine at once (QEMU runs with
/// -no-reboot). The hypervisor reads its words among the guest's.
fn command_line(options: &BootOptions) -> String {
    let built_in = match options.kernel {
        Kernel::Debian(_) => "console=ttyAMA0 earlycon panic=-1 panic_on_warn=1 oops=panic",
        Kernel::Image(_) => "",
    };
    let direct = options
        .direct
        .map(|direct| format!("hyp.direct={}", direct.word()));
    let gic = match options.has_virtual_gicv2() {
        true => "hyp.gic=2",
        false => "",
    };
    let parts = [
        built_in,
        gic,
        direct.as_deref().unwrap_or_default(),
        options.append.as_deref().unwrap_or_default(),
    ];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Provides the disk, and returns its path and its MD5.
fn disk() -> Result<(PathBuf, String)> {
    let place = cached("disk", "the workload's disk", |into| {
        let content = peer::pattern(DISK_MIB << 20, 1);
        fs::write(into.join("md5"), peer::md5_hex(&content))?;
        fs::write(into.join("disk.img"), content)?;
        Ok(())
    })?;
    Ok((
        place.join("disk.img"),
        fs::read_to_string(place.join("md5"))?,
    ))
}

/// Returns the configuration that `/init` reads at its start.
fn configuration(options: &BootOptions, disk_sum: &str) -> Result<String> {
    let payload = peer::text_pattern(NET_BYTES, 2);
    let net_sum = peer::md5_hex(&payload);
    let net_port = peer::serve(payload)?;
    let mode = if options.interactive {
        "shell"
    } else {
        "workload"
    };
    Ok(format!(
        "MODE={mode}\n\
         BLK_MIB={DISK_MIB}\n\
         BLK_SUM={disk_sum}\n\
         NET_PORT={net_port}\n\
         NET_BYTES={NET_BYTES}\n\
         NET_SUM={net_sum}\n\
         FIRMWARE={}\n\
         ROUNDS={}\n\
         LEFT_OUT=\"{}\"\n",
        u8::from(options.firmware),
        match options.brief {
            true => 1,
            false => rounds(options.vcpus),
        },
        match options.brief {
            true => checks::LONG_STEPS.join(" "),
            false => String::new(),
        },
    ))
}

/// Returns the number of rounds of the workload's repeated steps: fewer where all vCPUs share one
/// host thread.
fn rounds(vcpus: u16) -> u16 {
    match vcpus {
        0..=8 => 6,
        9..=16 => 4,
        _ => 1,
    }
}

/// Packs the initial RAM disk.
fn initramfs(busybox: &Path, modules: &[PathBuf], configuration: &str) -> Result<Vec<u8>> {
    let mut initramfs = Initramfs::default();
    initramfs.file("init", include_bytes!("../../../hyp/guests/workload/init"))?;
    initramfs.file(
        "workload.sh",
        include_bytes!("../../../hyp/guests/workload/workload.sh"),
    )?;
    initramfs.file("busybox", &fs::read(busybox)?)?;
    initramfs.directory("etc")?;
    initramfs.file("etc/workload.conf", configuration.as_bytes())?;
    initramfs.directory("modules")?;
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        initramfs.file(&format!("modules/{name}"), &fs::read(module)?)?;
    }
    initramfs.finish()
}
