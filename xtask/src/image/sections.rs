//! Files as sections of a UEFI application, as in a unified kernel image.
//!
//! The firmware loads the sections with the application, which finds them in memory. The headers
//! that the linker writes have room for some more section headers.

use anyhow::{Context, Result, ensure};
use object::pe::{
    self, IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_READ, ImageDosHeader, ImageNtHeaders64,
    ImageSectionHeader,
};
use object::pod::bytes_of;
use object::read::pe::ImageNtHeaders as _;
use object::{LittleEndian as LE, U16, U32};

/// A section to append.
#[derive(Clone, Debug)]
pub(super) struct Section {
    /// The name, of eight bytes at most.
    pub(super) name: &'static str,
    pub(super) contents: Vec<u8>,
}

/// Appends the sections to an application.
///
/// # Errors
/// That it is no application, or has no room for the headers.
pub(super) fn append(application: &[u8], sections: &[Section]) -> Result<Vec<u8>> {
    let dos = ImageDosHeader::parse(application)?;
    let headers_at = u64::from(dos.nt_headers_offset());
    let mut table_end = headers_at;
    let (headers, _) = ImageNtHeaders64::parse(application, &mut table_end)?;
    let old = headers.sections(application, table_end)?;
    let mut place = usize::try_from(table_end)? + old.len() * size_of::<ImageSectionHeader>();

    let mut headers = *headers;
    let optional = &mut headers.optional_header;
    let room = optional.size_of_headers.get(LE) as usize;
    ensure!(
        place + sections.len() * size_of::<ImageSectionHeader>() <= room,
        "the application's headers have no room for {} more",
        sections.len()
    );
    let file_alignment = optional.file_alignment.get(LE) as usize;
    let alignment = optional.section_alignment.get(LE);

    let mut image = application.to_vec();
    for section in sections {
        image.resize(image.len().next_multiple_of(file_alignment), 0);
        let header = ImageSectionHeader {
            name: name(section.name)?,
            virtual_size: size(section.contents.len())?,
            virtual_address: U32::new(
                LE,
                optional.size_of_image.get(LE).next_multiple_of(alignment),
            ),
            size_of_raw_data: size(section.contents.len().next_multiple_of(file_alignment))?,
            pointer_to_raw_data: size(image.len())?,
            pointer_to_relocations: U32::default(),
            pointer_to_linenumbers: U32::default(),
            number_of_relocations: U16::default(),
            number_of_linenumbers: U16::default(),
            characteristics: U32::new(LE, IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ),
        };
        image.extend(&section.contents);
        overwrite(&mut image, place, bytes_of(&header));
        place += size_of::<ImageSectionHeader>();

        let end = u64::from(header.virtual_address.get(LE)) + section.contents.len() as u64;
        let end = end.next_multiple_of(alignment.into());
        optional.size_of_image = U32::new(LE, u32::try_from(end).context("4 GiB are too many")?);
    }
    image.resize(image.len().next_multiple_of(file_alignment), 0);

    // UEFI ignores the checksum, which is no more that of the file.
    optional.check_sum = U32::default();
    let number = old.len() + sections.len();
    headers.file_header.number_of_sections = U16::new(LE, u16::try_from(number)?);
    overwrite(&mut image, usize::try_from(headers_at)?, bytes_of(&headers));
    Ok(image)
}

/// Returns a section's name as its header has it.
fn name(text: &str) -> Result<[u8; pe::IMAGE_SIZEOF_SHORT_NAME]> {
    let mut name = [0; pe::IMAGE_SIZEOF_SHORT_NAME];
    let place = name.get_mut(..text.len());
    place
        .with_context(|| format!("{text} is too long for a section"))?
        .copy_from_slice(text.as_bytes());
    Ok(name)
}

/// Returns a size as a header has it.
fn size(bytes: usize) -> Result<U32<LE>> {
    Ok(U32::new(
        LE,
        u32::try_from(bytes).context("4 GiB are too many")?,
    ))
}

/// Replaces the bytes at `place`, of which there are as many.
fn overwrite(image: &mut [u8], place: usize, bytes: &[u8]) {
    image[place..place + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use machine_tree::sections::find;

    use super::*;

    /// Bytes of a file of which the tests' application is a multiple, and of the loaded image.
    const IN_FILE: u32 = 512;
    const LOADED: u32 = 4096;

    /// Returns an application with one section, and the rest of `room` bytes of headers.
    fn application(room: u32) -> Vec<u8> {
        let mut dos = [0; 64];
        dos[..2].copy_from_slice(b"MZ");
        dos[0x3c] = 64;
        let mut headers = [0; size_of::<ImageNtHeaders64>()];
        headers[..4].copy_from_slice(b"PE\0\0");
        let mut write = |place: usize, bytes: &[u8]| overwrite(&mut headers, place, bytes);
        write(6, &1u16.to_le_bytes());
        let optional = size_of::<pe::ImageOptionalHeader64>();
        write(20, &u16::try_from(optional).unwrap().to_le_bytes());
        write(24, &pe::IMAGE_NT_OPTIONAL_HDR64_MAGIC.to_le_bytes());
        for (place, value) in [(32, LOADED), (36, IN_FILE), (56, 2 * LOADED), (60, room)] {
            write(24 + place, &value.to_le_bytes());
        }

        let code = ImageSectionHeader {
            name: name(".text").unwrap(),
            virtual_size: size(4).unwrap(),
            virtual_address: U32::new(LE, LOADED),
            size_of_raw_data: U32::new(LE, IN_FILE),
            pointer_to_raw_data: U32::new(LE, room),
            pointer_to_relocations: U32::default(),
            pointer_to_linenumbers: U32::default(),
            number_of_relocations: U16::default(),
            number_of_linenumbers: U16::default(),
            characteristics: U32::default(),
        };
        let mut file = [&dos[..], &headers, bytes_of(&code)].concat();
        file.resize(room as usize, 0);
        file.extend(b"code");
        file
    }

    /// Loads a file as firmware does.
    fn load(file: &[u8]) -> Vec<u8> {
        let dos = ImageDosHeader::parse(file).unwrap();
        let mut offset = dos.nt_headers_offset().into();
        let (headers, _) = ImageNtHeaders64::parse(file, &mut offset).unwrap();
        let optional = &headers.optional_header;
        let mut image = vec![0; optional.size_of_image.get(LE) as usize];
        let head = optional.size_of_headers.get(LE) as usize;
        image[..head].copy_from_slice(&file[..head]);
        for section in headers.sections(file, offset).unwrap().iter() {
            let start = section.pointer_to_raw_data.get(LE) as usize;
            let sizes = [&section.virtual_size, &section.size_of_raw_data];
            let size = sizes.map(|size| size.get(LE) as usize).into_iter().min();
            let contents = &file[start..start + size.unwrap()];
            overwrite(
                &mut image,
                section.virtual_address.get(LE) as usize,
                contents,
            );
        }
        image
    }

    #[test]
    fn sections_are_found_where_the_firmware_loads_them() {
        let section = |name, contents: &[u8]| Section {
            name,
            contents: contents.to_vec(),
        };
        let kernel = [7; 5000];
        let sections = [section(".linux", &kernel), section(".cmdline", b"quiet")];
        let file = append(&application(1024), &sections).unwrap();
        assert!(file.len().is_multiple_of(IN_FILE as usize));
        let image = load(&file);
        assert!(image.len().is_multiple_of(LOADED as usize));
        let contents = |name| find(&image[..1024], name).map(|place| &image[place]);
        assert_eq!(contents(".text"), Some(&b"code"[..]));
        assert_eq!(contents(".linux"), Some(&kernel[..]));
        assert_eq!(contents(".cmdline"), Some(&b"quiet"[..]));
        assert_eq!(contents(".initrd"), None);
    }

    #[test]
    fn headers_without_room_are_refused() {
        let one = [Section {
            name: ".linux",
            contents: Vec::new(),
        }];
        let end = 64 + size_of::<ImageNtHeaders64>() + 2 * size_of::<ImageSectionHeader>();
        let end = u32::try_from(end).unwrap();
        assert!(append(&application(end), &one).is_ok());
        assert!(append(&application(end - 1), &one).is_err());
        assert!(append(b"#!/bin/sh", &one).is_err());
    }
}
