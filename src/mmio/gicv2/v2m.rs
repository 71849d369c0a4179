//! A GICv2m frame: a write of `MSI_SETSPI_NS` makes an SPI pending (Arm DEN 0029, SBSA, appendix on
//! GICv2m). Devices write it by their MSIs, through [`Vgic::bus_write`](crate::Vgic::bus_write) or
//! [`Vgic::inject_spi`](crate::Vgic::inject_spi).

use crate::config::{V2M_SETSPI, V2mConfig};
use crate::delivery::inject;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::IntId;
use crate::vm::Vm;

use super::Width;

/// First SPI in bits 25:16, number of SPIs in bits 9:0.
const MSI_TYPER: u64 = 0x008;
const MSI_IIDR: u64 = 0xfcc;

/// `MSI_IIDR`: no JEP106 code, product 0x76, architecture revision 0.
const IIDR: u32 = 0x0760_0000;

/// Reads the register at an offset.
pub(super) fn read(v2m: &V2mConfig, at: u64, width: Width) -> u32 {
    match (at, width) {
        (MSI_TYPER, Width::Word) => v2m.first_spi << 16 | v2m.spis,
        (MSI_IIDR, Width::Word) => IIDR,
        _ => 0,
    }
}

/// Writes the register at an offset. An INTID that is not one of the frame's SPIs is ignored.
pub(super) fn write<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    v2m: &V2mConfig,
    at: u64,
    width: Width,
    value: u64,
) {
    let intid = value as u32;
    if at == V2M_SETSPI
        && matches!(width, Width::Word | Width::Half)
        && v2m.intids().contains(&intid)
        && let Some(irq) = IntId::spi(intid).and_then(|intid| vm.distributor.spi(intid))
    {
        let _ = inject::raised(vm, pin, irq, irq.raise());
    }
}
