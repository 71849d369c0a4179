//! Stage 1 of EL2.
//!
//! The tables map the image and the heap at their link addresses, with the rights of each part; the
//! guest's memory by identity, never executable; the devices that the hypervisor drives by
//! identity; and the image's instructions once more by identity, for CPUs that turn their MMU on.
//! Memory by which the heap may grow is mapped once more as the heap is.

use alloc::boxed::Box;
use core::ops::Range;

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El23Attributes as Attributes, PhysicalAddress};
use aarch64_paging::linearmap::LinearTranslation;
use aarch64_paging::paging::{Constraints, El2, MemoryRegion};

use super::layout::{self, IMAGE_BASE, PAGE, STACKS_BASE};
use super::ranges::Pages;

/// Bytes of a CPU's stack.
pub(crate) const STACK_SIZE: usize = 64 << 10;

/// Bytes between the tops of two CPUs' stacks.
const STACK_STRIDE: usize = 2 * STACK_SIZE;

const NORMAL: Attributes = Attributes::ATTRIBUTE_INDEX_0
    .union(Attributes::INNER_SHAREABLE)
    .union(Attributes::ACCESSED)
    .union(Attributes::USER_RES1)
    .union(Attributes::VALID);
const CODE: Attributes = NORMAL.union(Attributes::READ_ONLY);
const CONSTANT: Attributes = CODE.union(Attributes::XN);
const VARIABLE: Attributes = NORMAL.union(Attributes::XN);
const DEVICE: Attributes = Attributes::ATTRIBUTE_INDEX_1
    .union(Attributes::ACCESSED)
    .union(Attributes::USER_RES1)
    .union(Attributes::XN)
    .union(Attributes::VALID);

/// Tables under construction.
pub(crate) struct Stage1 {
    mapping: Mapping<LinearTranslation<Attributes>, El2>,
}

impl Stage1 {
    /// Returns tables that map the home.
    pub(crate) fn new(home: &Range<usize>) -> Self {
        let tables = LinearTranslation::new(layout::physical_offset());
        let mut stage1 = Self {
            mapping: Mapping::new(tables, 0, El2),
        };
        let image = layout::image();
        let heap = IMAGE_BASE + layout::heap_offset()..IMAGE_BASE + home.len();

        stage1.map(&image.text, layout::physical(image.text.start), CODE);
        stage1.map(
            &image.rodata,
            layout::physical(image.rodata.start),
            CONSTANT,
        );
        stage1.map(&image.data, layout::physical(image.data.start), VARIABLE);
        stage1.map(&heap, layout::physical(heap.start), VARIABLE);

        let text = layout::physical(image.text.start)..layout::physical(image.text.end);
        stage1.map(&text, text.start, CODE);
        stage1
    }

    /// Maps the guest's memory.
    pub(crate) fn map_memory(&mut self, memory: &Pages) {
        for range in memory.iter() {
            self.map(range, range.start, VARIABLE);
        }
    }

    /// Maps memory by which the heap may grow as the heap is mapped.
    pub(crate) fn map_heap_room(&mut self, memory: &Pages) {
        for range in memory.iter() {
            let start = layout::virtual_address(range.start);
            self.map(&(start..start + range.len()), range.start, VARIABLE);
        }
    }

    /// Maps the registers of devices.
    pub(crate) fn map_devices(&mut self, devices: &Pages) {
        for range in devices.iter() {
            self.map(range, range.start, DEVICE);
        }
    }

    /// Allocates a stack for CPU number `cpu`, with an unmapped gap below, and returns its top.
    pub(crate) fn add_stack(&mut self, cpu: usize) -> usize {
        #[derive(Clone)]
        #[repr(align(4096))]
        struct Page(#[expect(dead_code, reason = "only its memory is used")] [u8; PAGE]);
        let memory = alloc::vec![Page([0; PAGE]); STACK_SIZE / PAGE].leak();
        let end = STACKS_BASE + (cpu + 1) * STACK_STRIDE;
        self.map(
            &(end - STACK_SIZE..end),
            layout::physical(memory.as_ptr().addr()),
            VARIABLE,
        );
        end
    }

    /// Completes the tables, which live for ever, and returns the physical address of their root.
    pub(crate) fn into_root(self) -> u64 {
        Box::leak(Box::new(self.mapping)).root_address().0 as u64
    }

    fn map(&mut self, range: &Range<usize>, to: usize, attributes: Attributes) {
        let region = MemoryRegion::new(range.start, range.end);
        self.mapping
            .map_range(
                &region,
                PhysicalAddress(to),
                attributes,
                Constraints::empty(),
            )
            .unwrap_or_else(|error| panic!("cannot map {range:#x?} at EL2: {error}"));
    }
}
