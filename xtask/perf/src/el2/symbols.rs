//! The owner of an instruction: of hyp by the source line that it came from, of Linux by its
//! function.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use addr2line::Loader;
use anyhow::{Context, Result, anyhow};
use object::{Object, ObjectSymbol};

use super::counts::{Attribute, Owner};
use super::names;
use xtask::project;

/// The vectors for exceptions from a lower level in a table of vectors (2 KiB), and the size of
/// one.
const FROM_LOWER: std::ops::Range<u64> = 0x400..0x800;
const VECTOR: u64 = 0x80;
const VECTORS: u64 = 0x800;

/// Tells whether `address` is the first of a vector for an exit, in tables that lie at a multiple
/// of their size.
fn is_exit_vector(address: u64) -> bool {
    FROM_LOWER.contains(&(address % VECTORS)) && address.is_multiple_of(VECTOR)
}

/// hyp, by its debug information.
///
/// The library is inlined into hyp's exit path, so a symbol says little. An instruction belongs to
/// the innermost inlined function whose source is in the checkout; code inlined from elsewhere
/// (atomics, crossbeam) belongs to its caller.
pub(crate) struct Hypervisor {
    loader: Loader,
    /// The high half that debug information and symbols leave out.
    vectors: std::ops::Range<u64>,
    known: RefCell<HashMap<u64, &'static Place>>,
}

/// The owner of an instruction, by its debug information.
struct Place {
    vgic: bool,
    function: String,
    within: Vec<String>,
    line: String,
}

impl Hypervisor {
    /// Reads the ELF file.
    pub(crate) fn load(elf: &Path) -> Result<Self> {
        let file = fs::read(elf)?;
        let object = object::File::parse(file.as_slice())?;
        let vectors = object
            .symbol_by_name("exception_vectors")
            .context("hyp has no symbol exception_vectors")?
            .address();
        let loader = Loader::new(elf).map_err(|error| anyhow!("{}: {error}", elf.display()))?;
        Ok(Self {
            loader,
            vectors: vectors..vectors + VECTORS,
            known: RefCell::default(),
        })
    }

    /// Finds the owner of the instruction at an address.
    fn find(&self, address: u64) -> Place {
        let root = project::root();
        let mut outermost = None;
        let mut librarys = false;
        let mut place: Option<Place> = None;
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref();
                let Some(name) = name.and_then(|name| name.demangle().ok()) else {
                    continue;
                };
                librarys |= is_librarys(&name);
                let location = frame.location.as_ref();
                let (file, line) =
                    location.map_or(("", None), |place| (place.file.unwrap_or(""), place.line));
                match (Path::new(file).strip_prefix(root), &mut place) {
                    (Ok(_), Some(place)) => {
                        let name = short(&name);
                        if name != place.function && !place.within.contains(&name) {
                            place.within.push(name);
                        }
                    }
                    (Ok(inside), None) => {
                        place = Some(Place {
                            vgic: inside.starts_with("src"),
                            function: short(&name),
                            within: Vec::new(),
                            line: format!("{}:{}", inside.display(), line.unwrap_or(0)),
                        });
                    }
                    (Err(_), _) => outermost = Some(name.into_owned()),
                }
            }
        }
        place.unwrap_or_else(|| {
            // Not inlined into anything of ours: assembly, memcpy, crossbeam's collection.
            let symbol = || self.loader.find_symbol(address).map(str::to_owned);
            let function = outermost.or_else(symbol).unwrap_or_else(|| "?".to_owned());
            Place {
                vgic: librarys || is_librarys(&function),
                function: short(&function),
                within: Vec::new(),
                line: String::new(),
            }
        })
    }
}

impl Attribute for Hypervisor {
    fn owner(&self, address: u64) -> Owner<'_> {
        let mut known = self.known.borrow_mut();
        let place = *known
            .entry(address)
            .or_insert_with(|| Box::leak(Box::new(self.find(address))));
        Owner {
            vgic: place.vgic,
            function: &place.function,
            within: &place.within,
            line: &place.line,
        }
    }

    fn is_exit(&self, address: u64) -> bool {
        self.vectors.contains(&address) && is_exit_vector(address)
    }
}

/// Tells whether a function from elsewhere is used by the library alone: crossbeam's, or one of
/// core's for a type of the library's, such as the drop of a pin.
fn is_librarys(name: &str) -> bool {
    name.contains("crossbeam") || name.contains("<vgic::")
}

/// Shortens a demangled name: no hash, no generic arguments, three parts at most.
fn short(name: &str) -> String {
    let mut depth = 0_u32;
    let mut text: String = name
        .chars()
        .filter(|&character| {
            depth += u32::from(character == '<');
            let keep = depth == 0;
            depth -= u32::from(character == '>' && depth > 0);
            keep
        })
        .collect();
    if let Some(at) = text.rfind("::h")
        && text.len() - at == 19
    {
        text.truncate(at);
    }
    let parts: Vec<&str> = text.split("::").filter(|part| !part.is_empty()).collect();
    parts[parts.len().saturating_sub(3)..].join("::")
}

/// A Linux kernel, by the symbols that the client of /dev/kvm printed: `sym ADDRESS NAME`, those of
/// the virtual interrupt controller and the vectors and the symbol that follows each.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Sorted by address.
    symbols: Vec<(u64, String)>,
}

impl Kernel {
    /// Reads the console's lines.
    pub(crate) fn read(lines: &[String]) -> Self {
        let parse = |line: &String| {
            let (address, name) = line.strip_prefix("sym ")?.split_once(' ')?;
            Some((u64::from_str_radix(address, 16).ok()?, name.to_owned()))
        };
        let mut symbols: Vec<_> = lines.iter().filter_map(parse).collect();
        symbols.sort();
        Self { symbols }
    }

    /// Returns the name of the function at an address.
    fn name(&self, address: u64) -> &str {
        let after = self.symbols.partition_point(|symbol| symbol.0 <= address);
        let symbol = after.checked_sub(1).map(|before| &self.symbols[before]);
        symbol.map_or("", |symbol| symbol.1.as_str())
    }
}

/// The name of the rest of Linux in a profile: the symbols do not tell more.
const OTHERS: &str = "(other functions of the kernel)";

impl Attribute for Kernel {
    fn owner(&self, address: u64) -> Owner<'_> {
        let name = self.name(address);
        let vgic = names::VGIC.iter().any(|prefix| name.starts_with(prefix));
        Owner {
            vgic,
            function: if vgic || names::VECTORS.contains(&name) {
                name
            } else {
                OTHERS
            },
            within: &[],
            line: "",
        }
    }

    fn is_exit(&self, address: u64) -> bool {
        names::VECTORS.contains(&self.name(address)) && is_exit_vector(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened() {
        assert_eq!(
            short("vgic::vcpu::entry::<impl vgic::vgic::Vgic<H>>::exit::h0123456789abcdef"),
            "vcpu::entry::exit"
        );
        assert_eq!(short("memcpy"), "memcpy");
    }

    #[test]
    fn functions_from_elsewhere_belong_to_the_library_that_alone_uses_them() {
        assert!(is_librarys("core::ptr::drop_in_place<vgic::epoch::CpuPin>"));
        assert!(is_librarys("crossbeam_epoch::internal::Global::collect"));
        assert!(!is_librarys("core::ptr::drop_in_place<hyp::guest::Guest>"));
        assert!(!is_librarys("memcpy"));
    }

    #[test]
    fn functions_of_linux_end_where_the_next_begins() {
        let lines = [
            "x",
            "sym 1000 vgic_put_irq",
            "sym 1010 kfree",
            "sym 2000 __kvm_hyp_vector",
        ];
        let kernel = Kernel::read(&lines.map(str::to_owned));
        assert!(kernel.owner(0x100c).vgic);
        assert!(!kernel.owner(0x1010).vgic);
        assert_eq!(kernel.owner(0x1010).function, OTHERS);
        assert!(!kernel.owner(0x10).vgic);
        assert!(kernel.is_exit(0x2400) && kernel.is_exit(0x2480));
        assert!(!kernel.is_exit(0x2404) && !kernel.is_exit(0x2000) && !kernel.is_exit(0x1400));
    }
}
