//! The application's own sections, and the files beside it, on the file system that it was loaded
//! from.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};

use machine_tree::config::{self, Config};
use uefi::CString16;
use uefi::boot::{self, ScopedProtocol, image_handle};
use uefi::fs::{Error, FileSystem, PathBuf};
use uefi::println;
use uefi::proto::device_path::text::{AllowShortcuts, DisplayOnly};
use uefi::proto::loaded_image::LoadedImage;

use crate::sections::Sections;

/// The configuration file.
const CONFIG: &str = "hyp.conf";

/// Beginning of the name of a section.
const SECTION: char = '.';

/// The application's sections, and the file system beside it.
pub(crate) struct Files {
    sections: Sections,
    /// Where files are. An application that comes over the network has none beside it.
    beside: Option<Beside>,
}

/// The file system, and the directory of the application on it.
struct Beside {
    system: FileSystem,
    directory: String,
}

impl Files {
    /// Finds the application's sections. The file system is opened for the first file.
    ///
    /// # Errors
    /// Why the firmware does not tell where they are.
    pub(crate) fn new() -> Result<Self, String> {
        Ok(Self {
            sections: Sections::of_application()?,
            beside: None,
        })
    }

    /// Returns the configuration: that in the application's sections, or else that of the file
    /// beside it.
    ///
    /// # Errors
    /// Why there is none, or what is wrong in it.
    pub(crate) fn configuration(&mut self) -> Result<Config, String> {
        let of_sections = config::of_sections(|name| self.sections.find(name));
        if let Some(config) = of_sections.map_err(|why| format!("{}: {why}", config::DIRECTIVES))? {
            return Ok(config);
        }
        let bytes = self.bytes(CONFIG)?;
        let text = str::from_utf8(&bytes).map_err(|_| format!("{CONFIG} is no UTF-8"))?;
        config::parse(text).map_err(|why| format!("{CONFIG}: {why}"))
    }

    /// Returns a file's contents. Its name begins in the directory of the application, or at the
    /// root if it begins with a slash. A name that begins with a dot is that of a section.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub(crate) fn bytes(&mut self, name: &str) -> Result<Cow<'static, [u8]>, String> {
        if name.starts_with(SECTION) {
            println!("hyp.efi: reads its own section {name}");
            let section = self.sections.find(name).map(Cow::Borrowed);
            return section.ok_or_else(|| format!("hyp.efi has no section {name}"));
        }

        let beside = match &mut self.beside {
            Some(beside) => beside,
            none => none.insert(Beside::open()?),
        };
        let name = name.replace('/', "\\");
        let path = match name.starts_with('\\') {
            true => name,
            false => format!("{}\\{name}", beside.directory),
        };
        println!("hyp.efi: reads {path}");
        let wide = CString16::try_from(path.as_str());
        let wide = wide.map_err(|_| format!("{path} is no name of a file"))?;
        match beside.system.read(PathBuf::from(wide)) {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(Error::Io(error)) => {
                Err(format!("cannot read {path}: {}", error.uefi_error.status()))
            }
            Err(error) => Err(format!("cannot read {path}: {error}")),
        }
    }
}

impl Beside {
    /// Opens the file system that the application was loaded from.
    ///
    /// # Errors
    /// Why there is none.
    fn open() -> Result<Self, String> {
        let system = boot::get_image_file_system(image_handle())
            .map_err(|error| format!("there is no file system with {CONFIG}: {error}"))?;
        Ok(Self {
            system: FileSystem::new(system),
            directory: directory()?,
        })
    }
}

/// Returns the firmware's account of the application.
pub(crate) fn loaded_image() -> Result<ScopedProtocol<LoadedImage>, String> {
    boot::open_protocol_exclusive::<LoadedImage>(image_handle())
        .map_err(|error| format!("cannot tell where hyp.efi is: {error}"))
}

/// Returns the directory of the application.
fn directory() -> Result<String, String> {
    let image = loaded_image()?;
    let path = image.file_path().ok_or("hyp.efi is no file")?;
    let text = path.to_string16(DisplayOnly(true), AllowShortcuts(false));
    let text = text.map_err(|error| format!("cannot tell where hyp.efi is: {error:?}"))?;
    let text = text.to_string();
    let (directory, _) = text.rsplit_once('\\').unwrap_or(("", ""));
    Ok(directory.to_string())
}
