//! VMs whose configuration cannot be met. The boot loader passes their kernels beside the others',
//! and the hypervisor refuses each of them by one line.
//!
//! Most kernels lie before those of the VMs that work, so that a VM that was refused and kept
//! something would have taken it from those. A VM that wants what another has comes after it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::machine::VM_MEMORY;
use crate::boot::checks::Check;

/// The beginning of every line that refuses a VM.
const REFUSAL: &str = "hyp: no VM for ";

/// Bytes of a kernel that is made here.
const KERNEL_SIZE: usize = 4096;

/// RAM of a VM with the most vCPUs, in MiB. There is so much in one piece beside the others' RAM,
/// below all modules. Neither what is left of that piece nor the RAM above the modules
/// ([`super::machine::OTHER_MEMORY`]) has 72 MiB in one piece then, as 4,095 vCPUs and their GIC
/// need.
const CROWD_MEMORY: u64 = 80;

/// Size of a kernel for which the least RAM is too small, in bytes.
const LARGE: u64 = 64 << 20;

/// The kernel of a VM that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// The attacker's, which has nothing wrong.
    Good,
    /// Bytes that are no arm64 Linux `Image`.
    Zeros,
    /// An `Image` of so many bytes of memory, by its header.
    Sized(u64),
}

/// A VM that is refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// The kernel's command line.
    pub(super) arguments: String,
    kernel: Kernel,
    /// The hypervisor's reason.
    reason: &'static str,
}

impl Refused {
    fn new(kernel: Kernel, arguments: impl Into<String>, reason: &'static str) -> Self {
        Self {
            arguments: arguments.into(),
            kernel,
            reason,
        }
    }

    /// Returns the file with the VM's kernel, written into `scratch` if need be.
    pub(super) fn kernel(&self, attacker: &Path, scratch: &Path) -> Result<PathBuf> {
        let (name, bytes) = match self.kernel {
            Kernel::Good => return Ok(attacker.to_owned()),
            Kernel::Zeros => ("zeros".to_owned(), vec![0; KERNEL_SIZE]),
            Kernel::Sized(size) => (format!("image-{size:x}"), image(size)),
        };
        let path = scratch.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Returns the line that refuses the VM.
    pub(super) fn line(&self) -> String {
        format!("{REFUSAL}\"{}\": {}", self.arguments, self.reason)
    }
}

/// Returns the VMs whose kernels lie before all others.
pub(super) fn before() -> Vec<Refused> {
    use Kernel::{Good, Sized, Zeros};
    let taken = format!("hyp.vcpus=100 hyp.memory={VM_MEMORY} hyp.pci=00:01.0");
    vec![
        Refused::new(
            Good,
            "hyp.name=unknown hyp.colour=red",
            "cannot understand hyp.colour=red",
        ),
        Refused::new(
            Good,
            "hyp.name=comma,separated",
            "cannot understand hyp.name=comma,separated",
        ),
        Refused::new(
            Good,
            "hyp.name=address hyp.pci=01.0",
            "cannot understand hyp.pci=01.0",
        ),
        Refused::new(
            Good,
            "hyp.name=number hyp.memory=much",
            "hyp.memory=much: give a number from 1 to 1048576",
        ),
        Refused::new(
            Good,
            "hyp.name=events hyp.events=65537",
            "hyp.events=65537: give a number from 1 to 65536",
        ),
        Refused::new(
            Good,
            "hyp.name=vcpus hyp.vcpus=4096",
            "hyp.vcpus=4096: give a number from 1 to 4095",
        ),
        Refused::new(
            Good,
            "hyp.name=memory hyp.memory=1048576",
            "there are not 1048576 MiB of RAM left in one piece",
        ),
        Refused::new(
            Good,
            "hyp.name=absent hyp.pci=00:01.0,00:1f.7",
            "there is no PCI function 00:1f.7",
        ),
        Refused::new(
            Good,
            "hyp.name=twice hyp.pci=00:01.0,00:01.0",
            "PCI function 00:01.0 is named twice",
        ),
        Refused::new(
            Good,
            "hyp.name=bridges hyp.rng hyp.pci=00:01.0",
            "hyp.rng and hyp.pci are of two host bridges, and a VM has one",
        ),
        Refused::new(
            Good,
            "hyp.name=gicv2 hyp.gic=2",
            "hyp.gic=2 is for a guest with the whole machine",
        ),
        Refused::new(
            Good,
            "hyp.name=lpis hyp.events=65536 hyp.pci=00:01.0",
            "there are 57344 LPIs left, and 65536 events want one each",
        ),
        Refused::new(
            Zeros,
            format!("hyp.name=zeros {taken}"),
            "the kernel is no arm64 Image",
        ),
        Refused::new(
            Sized(LARGE),
            "hyp.name=large",
            "16 MiB of RAM do not hold the kernel, of 64 MiB, and what belongs to it",
        ),
        Refused::new(
            Good,
            "hyp.name=disk hyp.memory=2",
            "2 MiB of RAM do not hold the kernel, of 1 MiB, and what belongs to it",
        ),
        Refused::new(
            Sized(u64::MAX),
            format!("hyp.name=endless {taken}"),
            "384 MiB of RAM do not hold the kernel, of 17592186044416 MiB, and what belongs to it",
        ),
    ]
}

/// Returns the VMs whose kernels lie after all others. They want what the others have.
pub(super) fn after() -> Vec<Refused> {
    vec![
        Refused::new(Kernel::Good, "hyp.name=a", "another VM has the name a"),
        Refused::new(
            Kernel::Good,
            "hyp.name=thief hyp.pci=00:02.0",
            "PCI function 00:02.0 belongs to a",
        ),
        Refused::new(
            Kernel::Good,
            format!("hyp.name=crowd hyp.vcpus=4095 hyp.memory={CROWD_MEMORY}"),
            "there is no RAM left for what 4095 vCPUs and their GIC take",
        ),
    ]
}

/// Checks that each VM is refused by one line of the console, for its reason, and no other is.
pub(super) fn check<'a>(console: impl Iterator<Item = &'a str>) -> Vec<Check> {
    let lines: Vec<&str> = console.filter(|line| line.starts_with(REFUSAL)).collect();
    let refused: Vec<Refused> = before().into_iter().chain(after()).collect();
    let mut checks: Vec<Check> = refused
        .iter()
        .map(|vm| {
            let line = vm.line();
            let lines = lines.iter().filter(|other| **other == line);
            Check::equal(
                format!("lines that refuse \"{}\"", vm.arguments),
                lines.count() as u64,
                1,
                "a VM that cannot be was not refused for its reason, or not by one line",
            )
        })
        .collect();
    checks.push(Check::equal(
        "lines that refuse a VM",
        lines.len() as u64,
        refused.len() as u64,
        "a VM that can be was refused, or one twice",
    ));
    checks
}

/// Returns the beginning of an arm64 Linux `Image` that claims so many bytes of memory.
fn image(size: u64) -> Vec<u8> {
    const SIZE: usize = 16;
    const MAGIC: usize = 56;
    let mut image = vec![0; KERNEL_SIZE];
    image[SIZE..SIZE + 8].copy_from_slice(&size.to_le_bytes());
    image[MAGIC..MAGIC + 4].copy_from_slice(b"ARM\x64");
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the names of the checks that fail on a console with these lines.
    fn failed(lines: &[String]) -> Vec<String> {
        let checks = check(lines.iter().map(String::as_str));
        let failed = checks.into_iter().filter(|check| !check.passed);
        failed.map(|check| check.name).collect()
    }

    fn good() -> Vec<String> {
        let all = before().into_iter().chain(after());
        all.map(|vm| vm.line()).collect()
    }

    #[test]
    fn every_line_counts_once_and_for_its_reason() {
        let good = good();
        assert_eq!(failed(&good), [""; 0]);
        for place in 0..good.len() {
            let mut missing = good.clone();
            missing.remove(place);
            assert_eq!(failed(&missing).len(), 2, "{}", good[place]);
            let mut doubled = good.clone();
            doubled.push(good[place].clone());
            assert_eq!(failed(&doubled).len(), 2, "{}", good[place]);
            let mut other = good.clone();
            other[place].push_str(" today");
            assert_eq!(failed(&other).len(), 1, "{}", good[place]);
        }
    }

    #[test]
    fn a_vm_that_can_be_is_not_refused() {
        let mut lines = good();
        lines.push(format!("{REFUSAL}\"hyp.name=b\": there is no RAM"));
        assert_eq!(failed(&lines), ["lines that refuse a VM"]);
    }
}
