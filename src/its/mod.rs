//! Interrupt translation services.

use crossbeam_epoch::Guard;

use crate::Vgic;
use crate::config::ItsConfig;
use crate::epoch::Pin;
use crate::host::Host;
use crate::intid::{DeviceId, EventId, ItsId};
use crate::irq::Irq;
use crate::vgic::InjectError;

/// One ITS.
pub(crate) struct Its {}

impl Its {
    pub(crate) fn new(config: &ItsConfig) -> Self {
        let _ = config;
        Self {}
    }

    /// The interrupt that (device, event) is mapped to.
    #[inline]
    pub(crate) fn translate<'g>(
        &'g self,
        device: DeviceId,
        event: EventId,
        guard: &'g Guard,
    ) -> Result<&'g Irq, InjectError> {
        let _ = (device, event, guard);
        Err(InjectError::UnmappedDevice)
    }

    /// Ends every mapping.
    pub(crate) fn dismantle<H: Host>(&self, vgic: &Vgic<H>, pin: &Pin<'_>) {
        let _ = (vgic, pin);
    }
}

impl<H: Host> Vgic<H> {
    /// Executes one slice of an ITS's commands.
    pub(crate) fn advance_its(&self, pin: &Pin<'_>, its: ItsId) {
        let _ = (pin, its);
    }
}
