//! The sections of a UEFI application that the firmware has loaded.

use core::ops::Range;

use object::LittleEndian as LE;
use object::pe::{ImageDosHeader, ImageNtHeaders64};
use object::read::pe::ImageNtHeaders as _;

/// Returns the place of the section of this name in the loaded image, if the image has the section.
/// `headers` is the beginning of the image, with all its headers.
pub fn find(headers: &[u8], name: &str) -> Option<Range<usize>> {
    let dos = ImageDosHeader::parse(headers).ok()?;
    let mut offset = dos.nt_headers_offset().into();
    let (nt, _) = ImageNtHeaders64::parse(headers, &mut offset).ok()?;
    let sections = nt.sections(headers, offset).ok()?;
    let section = (sections.iter()).find(|section| section.raw_name() == name.as_bytes())?;
    let start = section.virtual_address.get(LE) as usize;
    let size = section.virtual_size.get(LE) as usize;
    Some(start..start.checked_add(size)?)
}
