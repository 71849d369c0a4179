//! `hyp.efi`: the hypervisor as a UEFI application.
//!
//! `hyp` is entered as a boot loader enters a Linux kernel: at EL2, MMU and caches off, with a device
//! tree. This application is the boot loader. It contains the hypervisor's image, reads the
//! configuration and the guests, has [`machine_tree`] describe the machine, leaves the firmware and
//! jumps.
//!
//! In the order in which to read them:
//! * [`sections`]: the application's own sections.
//! * [`files`]: the configuration and the guests, in sections or in files beside the application.
//! * [`memory`]: memory for what is loaded, and RAM as the hypervisor will find it.
//! * [`machine`]: the machine's description, by ACPI or by the firmware's device tree.
//! * [`jump`]: from the firmware's world into the hypervisor's.
#![no_std]
#![no_main]

extern crate alloc;

mod files;
mod jump;
mod machine;
mod memory;
mod sections;

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use machine_tree::boot::{self, Boot, Kernel};
use machine_tree::config::Config;
use uefi::{Status, entry, println};

use files::Files;
use memory::Pages;

/// The hypervisor's flat image.
static HYPERVISOR: &[u8] = include_bytes!(env!("HYP_IMAGE"));

/// Runs the application. Returns to the firmware only if the hypervisor cannot be started.
#[entry]
fn main() -> Status {
    let Err(why) = start();
    // A watcher knows by the word that the machine cannot run the hypervisor.
    println!("@hyp-stop {why}");
    Status::LOAD_ERROR
}

/// Starts the hypervisor.
///
/// # Errors
/// Why the hypervisor cannot be started.
fn start() -> Result<core::convert::Infallible, String> {
    jump::check()?;
    let mut files = Files::new()?;
    let config = files.configuration()?;
    let guests = Guests::load(&mut files, &config)?;
    drop(files);

    let hypervisor = memory::load_hypervisor(HYPERVISOR)?;
    let tree = machine::describe(config.uart.is_some())?;
    let boot = Boot {
        memory: memory::ram()?,
        arguments: &config.arguments,
        initrd: guests.initrd.clone(),
        kernels: guests.kernels(&config),
        seed: machine::seed(config.seed),
        console: config.uart,
    };
    let tree = memory::load(&[&boot::complete(tree, &boot)])?;
    println!("hyp.efi: leaves the firmware");
    jump::into(hypervisor, tree, guests.all)
}

/// The guests' images in memory.
struct Guests {
    /// Initial RAM disk of every guest that has none of its own.
    initrd: Option<Range<u64>>,
    /// Kernels, each with its own initial RAM disk, in the order of the configuration.
    images: Vec<(Range<u64>, Option<Range<u64>>)>,
    /// The memory of all of them.
    all: Pages,
}

impl Guests {
    /// Loads what the configuration names: kernels in their order, each before its initial RAM
    /// disk, by which the hypervisor tells whose that is.
    fn load(files: &mut Files, config: &Config) -> Result<Self, String> {
        let names: Vec<&String> = (config.initrd.iter())
            .chain(
                (config.kernels.iter())
                    .flat_map(|kernel| core::iter::once(&kernel.file).chain(&kernel.initrd)),
            )
            .collect();
        let mut contents = Vec::new();
        for name in names {
            contents.push(files.bytes(name)?);
        }

        let slices: Vec<&[u8]> = contents.iter().map(AsRef::as_ref).collect();
        let all = memory::load(&slices)?;
        let mut places = all.pieces.iter().cloned();
        let mut next = || places.next().expect("each file has a place");
        Ok(Self {
            initrd: config.initrd.as_ref().map(|_| next()),
            images: (config.kernels.iter())
                .map(|kernel| (next(), kernel.initrd.as_ref().map(|_| next())))
                .collect(),
            all,
        })
    }

    /// Returns the kernels with their command lines.
    fn kernels<'c>(&self, config: &'c Config) -> Vec<Kernel<'c>> {
        let described = config.kernels.iter().zip(&self.images);
        described
            .map(|(kernel, (image, initrd))| Kernel {
                image: image.clone(),
                arguments: &kernel.arguments,
                initrd: initrd.clone(),
            })
            .collect()
    }
}
