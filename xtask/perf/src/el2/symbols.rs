//! The owner of an instruction: of hyp by the source line that it came from, of Linux by its
//! function.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use addr2line::Loader;
use anyhow::{Context, Result, anyhow};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

use super::branch::Branch;
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

/// Bytes of a stack of hyp's (`STACK_SIZE` in `hyp/src/memory/stage1.rs`).
const STACK: u64 = 64 << 10;

/// hyp, by its debug information.
///
/// The library is inlined into hyp's exit path, so a symbol says little. An instruction belongs to
/// the innermost inlined function whose source is in the checkout; code inlined from elsewhere
/// (atomics, crossbeam) belongs to its caller.
///
/// An instruction is below an entry of the library if any function that it was inlined from is the
/// library's. A callback of hyp's that was inlined into the library is below.
pub(crate) struct Hypervisor {
    loader: Loader,
    file: Vec<u8>,
    /// The high half that debug information and symbols leave out.
    vectors: std::ops::Range<u64>,
    known: RefCell<HashMap<u64, &'static Place>>,
}

/// The owner of an instruction, by its debug information.
struct Place {
    vgic: bool,
    below: bool,
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
            file,
            vectors: vectors..vectors + VECTORS,
            known: RefCell::default(),
        })
    }

    /// Finds the owner of the instruction at an address.
    fn find(&self, address: u64) -> Place {
        let root = project::root();
        let mut outermost = None;
        let (mut librarys, mut below) = (false, false);
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
                let inside = Path::new(file).strip_prefix(root).ok();
                below |= inside.map_or_else(|| is_librarys(&name), |it| it.starts_with("src"));
                match (inside, &mut place) {
                    (Some(_), Some(place)) => {
                        let name = short(&name);
                        if name != place.function && !place.within.contains(&name) {
                            place.within.push(name);
                        }
                    }
                    (Some(inside), None) => {
                        place = Some(Place {
                            vgic: inside.starts_with("src"),
                            below: false,
                            function: short(&name),
                            within: Vec::new(),
                            line: format!("{}:{}", inside.display(), line.unwrap_or(0)),
                        });
                    }
                    (None, _) => outermost = Some(name.into_owned()),
                }
            }
        }
        let mut place = place.unwrap_or_else(|| {
            // Not inlined into anything of ours: assembly, memcpy, crossbeam's collection.
            let symbol = || self.loader.find_symbol(address).map(str::to_owned);
            let function = outermost.or_else(symbol).unwrap_or_else(|| "?".to_owned());
            Place {
                vgic: librarys || is_librarys(&function),
                below: false,
                function: short(&function),
                within: Vec::new(),
                line: String::new(),
            }
        });
        place.below = below || place.vgic;
        place
    }

    /// Formats the plugin's map of the code. Of the code below the library's entries, the map has
    /// the branches: the plugin asks for no other instructions.
    pub(crate) fn code_map(&self) -> Result<String> {
        let object = object::File::parse(self.file.as_slice())?;
        let mut text = format!("stack {STACK:x}\nvectors {:x}\n", self.vectors.start);
        let functions = object.symbols().filter(|it| it.kind() == SymbolKind::Text);
        for function in functions {
            let name = function.name()?;
            let _ = writeln!(text, "function {:x} {name}", function.address());
        }

        for section in object
            .sections()
            .filter(|it| it.kind() == SectionKind::Text)
        {
            let (words, _) = section.data()?.as_chunks();
            for (&word, address) in words.iter().zip((section.address()..).step_by(4)) {
                let branch = Branch::decode(u32::from_le_bytes(word), address);
                if branch.is_some() && self.owner(address).below {
                    let _ = writeln!(text, "vgic {address:x} {:x}", address + 4);
                }
            }
        }
        Ok(text)
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
            below: place.below,
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

/// A Linux kernel, by the names of its functions.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Sorted by address.
    functions: Vec<(u64, String)>,
}

impl Kernel {
    /// Reads the lines `function ADDRESS NAME` of the plugin's map.
    pub(crate) fn read(map: &str) -> Self {
        let parse = |line: &str| {
            let (address, name) = line.strip_prefix("function ")?.split_once(' ')?;
            Some((u64::from_str_radix(address, 16).ok()?, name.to_owned()))
        };
        let mut functions: Vec<_> = map.lines().filter_map(parse).collect();
        functions.sort();
        Self { functions }
    }

    /// Returns the name of the function at an address.
    fn name(&self, address: u64) -> &str {
        let after = (self.functions).partition_point(|function| function.0 <= address);
        let function = after.checked_sub(1).map(|before| &self.functions[before]);
        function.map_or("", |function| function.1.as_str())
    }
}

impl Attribute for Kernel {
    fn owner(&self, address: u64) -> Owner<'_> {
        let name = self.name(address);
        Owner {
            vgic: names::is_vgic(name),
            below: names::is_entry(name),
            function: name,
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
        let functions = [
            (0x1000, "vgic_put_irq"),
            (0x1010, "kfree"),
            (0x1020, "kvm_io_bus_read"),
            (0x2000, "__kvm_hyp_vector"),
            (0x3000, "vectors"),
        ];
        let map = names::code_map(&functions);
        let kernel = Kernel::read(&map);
        assert!(kernel.owner(0x100c).vgic && kernel.owner(0x100c).below);
        assert!(!kernel.owner(0x1010).vgic && !kernel.owner(0x1010).below);
        assert_eq!(kernel.owner(0x101c).function, "kfree");
        assert!(!kernel.owner(0x1020).vgic && kernel.owner(0x1020).below);
        assert!(!kernel.owner(0x10).vgic);
        assert!(kernel.is_exit(0x2400) && kernel.is_exit(0x2480));
        assert!(!kernel.is_exit(0x2404) && !kernel.is_exit(0x2000) && !kernel.is_exit(0x1400));
        assert!(
            map.contains("vgic 1000 1010\n") && map.contains("vgic 1020 2000\n"),
            "{map}"
        );
        assert!(map.contains("vectors 3000\n"), "{map}");
    }
}
