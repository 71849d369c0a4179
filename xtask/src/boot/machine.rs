//! The emulated machine, as QEMU's command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::guest::{BootDisk, Guest};
use super::{BootOptions, Efi, lpis_on, part};
use crate::parallel;
use crate::provision::qemu::{Board, Qemu};

/// The address of the RAM of QEMU's `virt` machine.
pub(crate) const RAM: u64 = 0x4000_0000;

/// The distance from the beginning of RAM at which QEMU puts the initial RAM disk and, after it,
/// the device tree, if there is at least twice as much RAM.
const INITRD_OFFSET: u64 = 128 << 20;

/// Room for the device tree, and the alignment of what follows.
pub(crate) const MODULE_ALIGNMENT: u64 = 2 << 20;

/// Emulated CPUs per host CPU up to which a thread for each is faster than one thread for all.
const CPUS_PER_HOST_CPU: usize = 8;

/// vCPUs per emulated CPU up to which the guest's time is the host's.
const VCPUS_PER_CPU: u16 = 8;

/// The wiring of the console.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Console {
    /// The console is QEMU's standard output; nothing is typed.
    Output,
    /// The console is the terminal, which also controls QEMU: Ctrl-A x ends it, Ctrl-A h lists the
    /// keys.
    Terminal,
}

/// Puts QEMU's command line together. Without a hypervisor's image the guest's kernel is
/// entered directly.
pub(crate) fn command(
    qemu: &Qemu,
    options: &BootOptions,
    guest: &Guest,
    hypervisor: Option<&Path>,
    console: Console,
) -> Result<Command> {
    let mut command = board(qemu, options, &guest.disk, hypervisor.is_some())?;
    match console {
        Console::Output => command.args(["-serial", "stdio", "-monitor", "none"]),
        Console::Terminal => command
            .args(["-chardev", "stdio,id=console,mux=on,signal=off"])
            .args(["-serial", "chardev:console", "-mon", "chardev=console"]),
    };

    if let Some(boot_disk) = &guest.firmware {
        // The application `hyp.efi` is on the disk.
        let hypervisor = hypervisor.filter(|_| options.efi.is_none());
        firmware(&mut command, boot_disk, hypervisor);
        if options.lpis_on {
            command.args(lpis_on::arguments(options.cpus()));
        }
        command.args(&options.qemu);
        return Ok(command);
    }

    let initrd_size = match &guest.initrd {
        Some(initrd) => {
            let found = fs::metadata(initrd);
            command.arg("-initrd").arg(initrd);
            found
                .with_context(|| format!("cannot read {}", initrd.display()))?
                .len()
        }
        None => 0,
    };

    match hypervisor {
        Some(image) => {
            let address = module_address(initrd_size);
            let end = address + fs::metadata(&guest.kernel)?.len();
            let all = machine_memory(options);
            ensure!(
                end <= RAM + (u64::from(all) << 20),
                "{all} MiB of RAM do not hold this guest; use --memory"
            );
            command.arg("-kernel").arg(image);
            let kernel = guest.kernel.display();
            let mut module = format!("guest-loader,addr={address:#x},kernel={kernel}");
            if options.has_part() {
                let arguments =
                    format!("{} {}", guest.append, part::of(options)).replace(',', ",,");
                module.push_str(&format!(",bootargs={arguments}"));
            }
            command.arg("-device").arg(module);
        }
        None => {
            command.arg("-kernel").arg(&guest.kernel);
        }
    }
    if !guest.append.is_empty() && !options.has_part() {
        command.args(["-append", &guest.append]);
    }

    command.args(&options.qemu);
    Ok(command)
}

/// Adds firmware in flash memory, and the disk from which it boots. QEMU starts firmware that it is
/// told of, and not the hypervisor: the firmware is loaded as data.
pub(crate) fn firmware(command: &mut Command, boot_disk: &BootDisk, hypervisor: Option<&Path>) {
    let flash = boot_disk.flash.display();
    match hypervisor {
        Some(image) => command
            .arg("-kernel")
            .arg(image)
            .arg("-device")
            .arg(format!("loader,file={flash},addr=0,force-raw=on")),
        None => command.arg("-bios").arg(&boot_disk.flash),
    };
    let directory = boot_disk.directory.display();
    command
        .arg("-drive")
        // A file system of the host's directory, in place of an image.
        .arg(format!(
            "if=none,id=boot,format=raw,readonly=on,file=fat:{directory}"
        ))
        .args(["-device", "virtio-blk-pci,drive=boot,bootindex=0"]);
}

/// Puts together the part of QEMU's command line that needs nothing of the guest but its disk: the
/// board and its devices.
pub(crate) fn board(
    qemu: &Qemu,
    options: &BootOptions,
    disk: &Path,
    hypervisor: bool,
) -> Result<Command> {
    let virtualization = if hypervisor { "on" } else { "off" };
    // A virtio device passes the SMMU by unless it is told that its driver uses DMA addresses.
    let (iommu, virtio) = match options.has_smmu() {
        true => (",iommu=smmuv3", ",iommu_platform=on,disable-legacy=on"),
        false => ("", ""),
    };
    let acpi = match options.efi {
        Some(Efi::Acpi) => ",acpi=on",
        Some(Efi::Tree) => ",acpi=off",
        None => "",
    };
    let mut command = qemu.board(&Board {
        gic: options.machine_gic(),
        options: &format!("virtualization={virtualization}{iommu}{acpi}"),
        cpu: &options.cpu,
        cpus: options.cpus(),
    })?;
    command
        .args(accelerator(options))
        .args(["-m", &format!("{}M", machine_memory(options))]);

    // One disk twice: behind MSI-X, and behind an interrupt line of the PCI host bridge.
    let disk = disk.display();
    for (serial, slot, wiring) in [("msi", 1, ""), ("intx", 2, ",vectors=0")] {
        command
            .arg("-drive")
            .arg(format!(
                "if=none,id={serial},format=raw,readonly=on,file={disk}"
            ))
            .arg("-device")
            .arg(format!(
                "virtio-blk-pci,addr={slot},drive={serial},serial={serial}{wiring}{virtio}"
            ));
    }

    command
        // No boot ROM: it comes in a package of its own, and nothing boots from here.
        .args(["-netdev", "user,id=net", "-device"])
        .arg(format!("virtio-net-pci,addr=3,netdev=net,romfile={virtio}"))
        .args(["-device", &format!("virtio-rng-pci,addr=4{virtio}")]);
    if options.has_smmu() {
        // A device that the guest can tell where to read and write.
        command.args(["-device", "edu,dma_mask=0xffffffffffffffff"]);
    }
    Ok(command)
}

/// Returns the machine's RAM, in MiB.
fn machine_memory(options: &BootOptions) -> u32 {
    match options.has_part() {
        true => memory(options) + part::BESIDE,
        false => memory(options),
    }
}

/// Returns the guest's RAM, in MiB.
pub(super) fn memory(options: &BootOptions) -> u32 {
    options.memory.unwrap_or_else(|| ample(options))
}

/// Returns an amount of RAM, in MiB, that is ample for the built-in guest. The hypervisor clears
/// the RAM of a guest with a part of the machine, which costs the host as much.
fn ample(options: &BootOptions) -> u32 {
    let vcpus = u32::from(options.vcpus);
    match options.has_part() {
        true => 512 + 4 * vcpus,
        false => 1024 + 16 * vcpus,
    }
}

/// Returns the address at which the hypervisor finds the guest's kernel: past everything that QEMU
/// itself places.
pub(crate) fn module_address(initrd_size: u64) -> u64 {
    let end = RAM + INITRD_OFFSET + initrd_size + MODULE_ALIGNMENT;
    end.next_multiple_of(MODULE_ALIGNMENT)
}

/// Returns QEMU's arguments for how it runs the CPUs: with a thread for each, unless the host has
/// far too few CPUs. The threads would mostly wait for each other's locks then.
///
/// A crowd of vCPUs, whose ticks alone may take more than the host has, would look locked up to the
/// guest: there, time is what the CPUs execute.
fn accelerator(options: &BootOptions) -> Vec<&'static str> {
    let is_crowded = options.vcpus > VCPUS_PER_CPU * options.cpus();
    let threads = CPUS_PER_HOST_CPU * parallel::cpus();
    if is_crowded {
        vec!["-accel", "tcg,thread=single", "-icount", "shift=0"]
    } else if options.one_thread || usize::from(options.cpus()) > threads {
        vec!["-accel", "tcg,thread=single"]
    } else {
        vec!["-accel", "tcg,thread=multi"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_kernel_lies_past_the_initrd_and_the_device_tree() {
        for size in [0, 1, MODULE_ALIGNMENT - 1, MODULE_ALIGNMENT, 300 << 20] {
            let address = module_address(size);
            assert_eq!(address % MODULE_ALIGNMENT, 0);
            assert!(
                address - (RAM + INITRD_OFFSET + size) >= MODULE_ALIGNMENT,
                "{size:#x}"
            );
        }
    }
}
