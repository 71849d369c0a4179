//! The archive that the guest's kernel unpacks as its first file system.

use std::io::Write;

use anyhow::Result;
use cpio::newc;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// A newc archive in the making.
#[derive(Debug, Default)]
pub struct Initramfs {
    archive: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    /// Adds a directory, whose parent has to be there already.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, DIRECTORY, &[])
    }

    /// Adds a file that may be executed.
    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.entry(path, PROGRAM, content)
    }

    /// Ends the archive, and returns it.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(newc::trailer(self.archive)?)
    }

    /// Adds an entry.
    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let entry = newc::Builder::new(path)
            .mode(mode)
            .ino(self.entries)
            .nlink(1);
        let mut writer = entry.write(&mut self.archive, u32::try_from(content.len())?);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_goes_in_comes_out() {
        let mut initramfs = Initramfs::default();
        initramfs.directory("etc").unwrap();
        initramfs.file("etc/conf", b"MODE=shell\n").unwrap();
        let archive = initramfs.finish().unwrap();

        let etc = newc::Reader::new(archive.as_slice()).unwrap();
        assert_eq!((etc.entry().name(), etc.entry().mode()), ("etc", DIRECTORY));
        let mut conf = newc::Reader::new(etc.finish().unwrap()).unwrap();
        assert_eq!(
            (conf.entry().name(), conf.entry().mode()),
            ("etc/conf", PROGRAM)
        );
        let mut content = String::new();
        conf.read_to_string(&mut content).unwrap();
        assert_eq!(content, "MODE=shell\n");
        assert!(
            newc::Reader::new(conf.finish().unwrap())
                .unwrap()
                .entry()
                .is_trailer()
        );
    }
}
