//! Kernel modules: a driver with all that it depends on, in the order in which to load them.
//!
//! Debian's kernel packages come without `modules.dep` (it is made at installation), so the
//! dependencies are read from the modules themselves, from the `depends=` entry of their
//! `.modinfo` section.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use super::files_below;

/// A module ready to be loaded.
#[derive(Debug)]
pub(crate) struct Module {
    /// The name by which the kernel knows it.
    pub(crate) name: String,
    /// The ELF file, decompressed.
    pub(crate) image: Vec<u8>,
}

/// The modules of an unpacked kernel package.
#[derive(Debug)]
pub(crate) struct Modules {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Modules {
    /// Indexes everything below `root` that is a module.
    pub(crate) fn below(root: &Path) -> Result<Self> {
        let mut modules = Self {
            files: BTreeMap::new(),
            built_in: BTreeSet::new(),
        };
        for path in files_below(root)? {
            if path.ends_with("modules.builtin") {
                let listed = fs::read_to_string(&path)?;
                modules.built_in = listed.lines().filter_map(module_name).collect();
            } else if let Some(name) = module_name(&path.to_string_lossy()) {
                modules.files.insert(name, path);
            }
        }
        Ok(modules)
    }

    /// Reads the wanted modules and all that they depend on, each after those. Modules that are
    /// built into the kernel are left out.
    pub(crate) fn load_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        for name in wanted {
            self.add(name, &mut order, &mut Vec::new())?;
        }
        Ok(order)
    }

    /// Adds a module to the order, after its dependencies; `path` is the chain that led to it.
    fn add(&self, name: &str, order: &mut Vec<Module>, path: &mut Vec<String>) -> Result<()> {
        if self.built_in.contains(name) || order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        if path.iter().any(|above| above == name) {
            bail!(
                "modules depend on each other in a circle: {}",
                path.join(" -> ")
            );
        }
        let Some(file) = self.files.get(name) else {
            bail!("the kernel package has no module {name}");
        };
        let image = read(file)?;
        path.push(name.to_owned());
        for dependency in dependencies(&image).with_context(|| file.display().to_string())? {
            self.add(&dependency, order, path)?;
        }
        path.pop();
        order.push(Module {
            name: name.to_owned(),
            image,
        });
        Ok(())
    }
}

/// Returns the name by which the kernel knows the module in this file, if it is one.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = [".ko", ".ko.xz", ".ko.gz"]
        .iter()
        .find_map(|end| file.strip_suffix(end))?;
    Some(stem.replace('-', "_"))
}

/// Reads a module, decompressed as its name says.
fn read(path: &Path) -> Result<Vec<u8>> {
    let raw = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut image = Vec::new();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => lzma_rs::xz_decompress(&mut raw.as_slice(), &mut image)
            .with_context(|| format!("cannot decompress {}", path.display()))?,
        Some("gz") => image = super::kernel::gunzip(&raw)?,
        _ => image = raw,
    }
    Ok(image)
}

/// Lists the modules that this one names in its `.modinfo` section.
fn dependencies(image: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(image).context("not an ELF file")?;
    let section = file
        .section_by_name(".modinfo")
        .context("no .modinfo section")?;
    Ok(depends_entry(section.data()?))
}

/// Finds `depends=a,b` among NUL-separated entries.
fn depends_entry(modinfo: &[u8]) -> Vec<String> {
    let entries = modinfo
        .split(|&byte| byte == 0)
        .map(String::from_utf8_lossy);
    let list = entries
        .filter_map(|e| e.strip_prefix("depends=").map(str::to_owned))
        .next();
    let names = list.unwrap_or_default();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(
            module_name("a/b/virtio-rng.ko.xz").as_deref(),
            Some("virtio_rng")
        );
        assert_eq!(
            module_name("kernel/drivers/net/virtio_net.ko").as_deref(),
            Some("virtio_net")
        );
        assert_eq!(module_name("modules.dep"), None);
    }

    #[test]
    fn dependencies_come_from_modinfo() {
        let modinfo = b"license=GPL\0depends=net-failover,virtio\0\0vermagic=6.12\0";
        assert_eq!(depends_entry(modinfo), ["net_failover", "virtio"]);
        assert!(depends_entry(b"depends=\0name=x\0").is_empty());
        assert!(depends_entry(b"name=x\0").is_empty());
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        let nothing = Modules {
            files: BTreeMap::new(),
            built_in: ["virtio".into()].into(),
        };
        assert!(nothing.load_order(&["virtio"]).unwrap().is_empty());
        let error = nothing.load_order(&["virtio_net"]).unwrap_err();
        assert!(error.to_string().contains("virtio_net"), "{error}");
    }
}
