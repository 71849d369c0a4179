//! The files beside the application, on the file system that it was loaded from.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use uefi::CString16;
use uefi::boot::{self, image_handle};
use uefi::fs::{Error, FileSystem, PathBuf};
use uefi::println;
use uefi::proto::device_path::text::{AllowShortcuts, DisplayOnly};
use uefi::proto::loaded_image::LoadedImage;

/// The file system, and the directory of the application on it.
pub(crate) struct Files {
    system: FileSystem,
    directory: String,
}

impl Files {
    /// Opens the file system that the application was loaded from.
    ///
    /// # Errors
    /// Why there is none: an application that comes over the network has no files beside it.
    pub(crate) fn beside_application() -> Result<Self, String> {
        let system = boot::get_image_file_system(image_handle())
            .map_err(|error| format!("there is no file system with hyp.conf: {error}"))?;
        Ok(Self {
            system: FileSystem::new(system),
            directory: directory()?,
        })
    }

    /// Returns a file's contents. Its name begins in the directory of the application, or at the
    /// root if it begins with a slash.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub(crate) fn bytes(&mut self, name: &str) -> Result<Vec<u8>, String> {
        let name = name.replace('/', "\\");
        let path = match name.starts_with('\\') {
            true => name,
            false => format!("{}\\{name}", self.directory),
        };
        println!("hyp.efi: reads {path}");
        let wide = CString16::try_from(path.as_str());
        let wide = wide.map_err(|_| format!("{path} is no name of a file"))?;
        let bytes = self.system.read(PathBuf::from(wide));
        bytes.map_err(|error| match error {
            Error::Io(error) => format!("cannot read {path}: {}", error.uefi_error.status()),
            error => format!("cannot read {path}: {error}"),
        })
    }

    /// Returns a file's text.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub(crate) fn text(&mut self, name: &str) -> Result<String, String> {
        let bytes = self.bytes(name)?;
        String::from_utf8(bytes).map_err(|_| format!("{name} is no UTF-8"))
    }
}

/// Returns the directory of the application.
fn directory() -> Result<String, String> {
    let image = boot::open_protocol_exclusive::<LoadedImage>(image_handle());
    let image = image.map_err(|error| format!("cannot tell where hyp.efi is: {error}"))?;
    let path = image.file_path().ok_or("hyp.efi is no file")?;
    let text = path.to_string16(DisplayOnly(true), AllowShortcuts(false));
    let text = text.map_err(|error| format!("cannot tell where hyp.efi is: {error:?}"))?;
    let text = text.to_string();
    let (directory, _) = text.rsplit_once('\\').unwrap_or(("", ""));
    Ok(directory.to_string())
}
