//! The emulated machine and its VMs, as QEMU's command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::CloudOptions;
use super::refused::{self, Refused};
use crate::boot::guest::Guest;
use crate::boot::machine::{MODULE_ALIGNMENT, RAM, module_address};
use crate::provision::qemu::{Board, Qemu};

/// RAM of a VM with Linux, in MiB.
pub(super) const VM_MEMORY: u64 = 384;

/// The hypervisor's RAM for a VM, in MiB: 8 for its GIC, and its vCPUs and events.
const VM_HEAP: u64 = 10;

/// RAM for the hypervisor and for the attacker, in MiB, with room to align.
pub(super) const OTHER_MEMORY: u64 = 96 + VM_HEAP;

/// Patience of the kernels with vCPUs that make no progress. Many vCPUs share an emulated CPU, and
/// that has a share of a busy host's.
const PATIENCE: &str = "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120";

/// Share of the attacker in the CPUs' time; a VM with Linux has 100.
const ATTACKER_WEIGHT: u32 = 25;

/// Name of the VM that attacks.
pub(super) const ATTACKER: &str = "attacker";

/// Programs that the machine is started with.
pub(super) struct Programs<'a> {
    pub(super) hypervisor: &'a Path,
    /// The guest with Linux.
    pub(super) guest: &'a Guest,
    pub(super) attacker: &'a Path,
}

/// Returns the command that starts the machine. The kernels of VMs that are refused are written
/// into `scratch`.
pub(super) fn command(
    qemu: &Qemu,
    options: &CloudOptions,
    programs: &Programs<'_>,
    seed: u32,
    scratch: &Path,
) -> Result<Command> {
    let Programs {
        hypervisor,
        guest,
        attacker,
    } = programs;
    let size = |path: &Path| fs::metadata(path).map(|file| file.len());
    let initrd = guest.initrd.as_deref();
    let initrd_size = initrd.map_or(Ok(0), size)?;
    let mut modules = Modules::new(module_address(initrd_size));

    let mut command = qemu.board(&Board {
        gic: options.gic,
        options: "virtualization=on,iommu=smmuv3",
        cpu: "neoverse-n1",
        cpus: options.cpus,
    })?;
    command
        .args(["-accel", "tcg,thread=multi"])
        .args(["-serial", "stdio", "-monitor", "none"])
        .arg("-kernel")
        .arg(hypervisor);
    if let Some(initrd) = initrd {
        // For every VM that has none of its own. The attacker finds it, too, and does not look.
        command.arg("-initrd").arg(initrd);
    }

    let add_refused = |command: &mut Command, modules: &mut Modules, vms: Vec<Refused>| {
        vms.iter().try_for_each(|vm| {
            let kernel = vm.kernel(attacker, scratch)?;
            modules.add(command, &kernel, &vm.arguments)
        })
    };
    add_refused(&mut command, &mut modules, refused::before())?;
    for (number, name) in (0..).zip(options.names()) {
        let functions = add_devices(&mut command, &guest.disk, &name, number);
        // A VM that is killed works only once more when nobody kills it any longer.
        let seconds = match options.victim() {
            Some(victim) if victim == name => 0,
            _ => options.seconds,
        };
        let arguments = format!(
            "{} {PATIENCE} LEAST_SECONDS={seconds} hyp.name={name} hyp.memory={VM_MEMORY} \
             hyp.vcpus={} hyp.pci={functions} hyp.direct=on",
            guest.append, options.vcpus
        );
        // Each VM has a copy of the kernel for itself.
        modules.add(&mut command, &guest.kernel, &arguments)?;
    }
    // Its vCPUs never rest: most of the time is to be the others'.
    let arguments =
        format!("attacker seed={seed} hyp.name={ATTACKER} hyp.weight={ATTACKER_WEIGHT} hyp.daemon");
    modules.add(&mut command, attacker, &arguments)?;
    add_refused(&mut command, &mut modules, refused::after())?;

    let of_vms = u64::from(options.vms) * (VM_MEMORY + VM_HEAP);
    let memory = ((modules.next - RAM) >> 20) + of_vms + OTHER_MEMORY;
    command.args(["-m", &format!("{memory}M")]);
    Ok(command)
}

/// The boot loader's modules, one behind the other.
struct Modules {
    /// Address of the next one.
    next: u64,
}

impl Modules {
    /// Begins at an address.
    fn new(next: u64) -> Self {
        Self { next }
    }

    /// Adds a kernel with its command line.
    fn add(&mut self, command: &mut Command, kernel: &Path, arguments: &str) -> Result<()> {
        let size = fs::metadata(kernel)?.len();
        add_kernel(command, self.place(size), kernel, arguments);
        Ok(())
    }

    /// Returns the address of a module of so many bytes.
    fn place(&mut self, size: u64) -> u64 {
        let address = self.next;
        self.next = (address + size).next_multiple_of(MODULE_ALIGNMENT);
        address
    }
}

/// Adds a kernel with its command line.
fn add_kernel(command: &mut Command, address: u64, kernel: &Path, arguments: &str) {
    // A comma that is doubled does not end QEMU's property.
    let arguments = arguments.replace(',', ",,");
    command.arg("-device").arg(format!(
        "guest-loader,addr={address:#x},kernel={},bootargs={arguments}",
        kernel.display()
    ));
}

/// Adds the PCI functions of VM `number`: disk, network, entropy. Returns their addresses as the
/// hypervisor reads them.
fn add_devices(command: &mut Command, disk: &Path, name: &str, number: u16) -> String {
    let first = 1 + 3 * number;
    let disk = disk.display();
    command
        .arg("-drive")
        .arg(format!(
            "if=none,id=disk-{name},format=raw,readonly=on,file={disk}"
        ))
        .args(["-netdev", &format!("user,id=net-{name}")]);
    let devices = [
        format!("virtio-blk-pci,drive=disk-{name},serial=msi"),
        // No boot ROM: nothing boots from here.
        format!("virtio-net-pci,netdev=net-{name},romfile="),
        "virtio-rng-pci".to_owned(),
    ];
    let functions = (first..).zip(devices).map(|(slot, device)| {
        // Behind the SMMU, which a virtio device passes by unless it is told.
        command.arg("-device").arg(format!(
            "{device},addr={slot:#x},iommu_platform=on,disable-legacy=on"
        ));
        format!("00:{slot:02x}.0")
    });
    functions.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(command: &Command) -> Vec<String> {
        let arguments = command.get_args();
        arguments
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn every_vm_has_functions_of_its_own() {
        let mut command = Command::new("qemu");
        let of = |command: &mut Command, name, number| {
            add_devices(command, Path::new("disk.img"), name, number)
        };
        assert_eq!(of(&mut command, "a", 0), "00:01.0,00:02.0,00:03.0");
        assert_eq!(of(&mut command, "j", 9), "00:1c.0,00:1d.0,00:1e.0");
        let devices = arguments(&command);
        let devices = devices.iter().filter(|word| word.starts_with("virtio-"));
        let mut slots: Vec<_> = devices
            .map(|word| {
                word.split("addr=")
                    .nth(1)
                    .unwrap()
                    .split(',')
                    .next()
                    .unwrap()
            })
            .collect();
        assert_eq!(slots, ["0x1", "0x2", "0x3", "0x1c", "0x1d", "0x1e"]);
        slots.dedup();
        assert_eq!(slots.len(), 6);
    }

    #[test]
    fn commas_are_passed_on() {
        let mut command = Command::new("qemu");
        add_kernel(
            &mut command,
            0x5000_0000,
            Path::new("Image"),
            "hyp.pci=1,2 x",
        );
        assert_eq!(
            arguments(&command)[1],
            "guest-loader,addr=0x50000000,kernel=Image,bootargs=hyp.pci=1,,2 x"
        );
    }

    #[test]
    fn modules_do_not_overlap() {
        let mut modules = Modules::new(RAM);
        let sizes = [4096, 34_834_368, MODULE_ALIGNMENT, 1];
        let places = sizes.map(|size| (modules.place(size), size));
        for pair in places.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0);
            assert_eq!(pair[1].0 % MODULE_ALIGNMENT, 0);
        }
        assert_eq!(modules.next, RAM + 20 * MODULE_ALIGNMENT);
    }
}
