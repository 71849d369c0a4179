//! `GICR_VPENDBASER` and `GICR_VPROPBASER` (IHI 0069, 12.11), and registers of GICv4.1.

/// `GICR_VPENDBASER.Valid`: the virtual PE is resident.
pub(crate) const VALID: u64 = 1 << 63;
/// `GICR_VPENDBASER.IDAI` of GICv4.0: the implementation defined area of the table is not valid.
pub(crate) const IDAI: u64 = 1 << 62;
/// `GICR_VPENDBASER.Doorbell` of GICv4.1: the virtual PE that leaves asks for its default doorbell.
pub(crate) const DOORBELL: u64 = 1 << 62;
/// `GICR_VPENDBASER.PendingLast`: the virtual PE has pending and enabled virtual interrupts. Of a
/// virtual PE of GICv4.1 that leaves, the hypervisor may set the bit: the redistributor then does
/// not look into the table, and the bit says nothing.
pub(crate) const PENDING_LAST: u64 = 1 << 61;
/// `GICR_VPENDBASER.Dirty`: the virtual PE has not left yet, or its table is still being read.
pub(crate) const DIRTY: u64 = 1 << 60;
/// Lowest bit of `GICR_VPENDBASER.VGrp1En` and `VGrp0En` of GICv4.1: virtual interrupts of the
/// group are forwarded.
const GROUP1_SHIFT: u32 = 58;
const GROUP0_SHIFT: u32 = 59;

/// Inner shareable, inner write-back cacheable.
const SHARED_WRITE_BACK: u64 = 1 << 10 | 7 << 7;

/// Bits 51:16 of the address of a pending table.
const PENDING_TABLE: u64 = 0x000f_ffff_ffff_0000;
/// Bits 51:12 of the address of a configuration table.
const CONFIGURATION_TABLE: u64 = 0x000f_ffff_ffff_f000;

/// Returns the value of `GICR_VPENDBASER` that makes a virtual PE of GICv4.0 resident. `idai` is
/// the IDAI of its last residency.
pub(crate) const fn resident(table: u64, idai: bool) -> u64 {
    let idai = if idai { IDAI } else { 0 };
    // PendingLast as input: the redistributor has to look into the table.
    VALID | table & PENDING_TABLE | SHARED_WRITE_BACK | idai | PENDING_LAST
}

/// Returns the value of `GICR_VPENDBASER` that makes a virtual PE of GICv4.1 resident. `groups` has
/// bit 0 for Group 0, and bit 1 for Group 1.
pub(crate) const fn resident_of_v4_1(vpe: u16, groups: u32) -> u64 {
    let (group0, group1) = (groups as u64 & 1, groups as u64 >> 1 & 1);
    VALID | group0 << GROUP0_SHIFT | group1 << GROUP1_SHIFT | vpe as u64
}

/// Returns the value of `GICR_VPROPBASER` of GICv4.0, for INTIDs of `id_bits` bits.
pub(crate) const fn vpropbaser(table: u64, id_bits: u32) -> u64 {
    table & CONFIGURATION_TABLE | SHARED_WRITE_BACK | id_bits.saturating_sub(1) as u64
}

/// Returns the value of `GICR_INVALLR` for all virtual LPIs of a virtual PE.
pub(crate) const fn invallr(vpe: u16) -> u64 {
    const V: u64 = 1 << 63;
    V | (vpe as u64) << 32
}

/// Returns the value of `GITS_SGIR` that makes a virtual SGI pending.
pub(crate) const fn sgir(vpe: u16, sgi: u8) -> u64 {
    (vpe as u64) << 32 | sgi as u64 & 0xf
}
