//! The application's own sections, in which a guest may be.

#![expect(unsafe_code)]
// UNSAFETY: reads the application's own image.

use alloc::string::String;

use machine_tree::sections;

use crate::files::loaded_image;

/// Bytes of the image's headers at most: the first section is loaded behind them.
const HEADERS: usize = 4096;

/// The application's image, as the firmware has loaded it.
pub(crate) struct Sections {
    start: *const u8,
    size: usize,
}

impl Sections {
    /// Finds the image.
    ///
    /// # Errors
    /// Why the firmware does not tell where it is.
    pub(crate) fn of_application() -> Result<Self, String> {
        let (start, size) = loaded_image()?.info();
        Ok(Self {
            start: start.cast(),
            size: size as usize,
        })
    }

    /// Returns the contents of a section that the linker has not made, if there is one of this
    /// name.
    pub(crate) fn find(&self, name: &str) -> Option<&'static [u8]> {
        // SAFETY: the headers are loaded with the image, and stay as they are.
        let headers = unsafe { self.bytes(0, HEADERS.min(self.size)) };
        let place = sections::find(headers, name)?;
        let is_there = place.end <= self.size;
        // SAFETY: the firmware has loaded the section there, and the program does not know of it.
        is_there.then(|| unsafe { self.bytes(place.start, place.len()) })
    }

    /// Returns a part of the image, until the firmware is left.
    ///
    /// # Safety
    /// The part is in the image, and nobody writes it.
    unsafe fn bytes(&self, start: usize, size: usize) -> &'static [u8] {
        // SAFETY: by the caller's promise.
        unsafe { core::slice::from_raw_parts(self.start.add(start), size) }
    }
}
