//! `GICR_VPENDBASER` and `GICR_VPROPBASER` of GICv4.0 (IHI 0069, 12.11).

/// `GICR_VPENDBASER.Valid`: the virtual PE is resident.
pub(crate) const VALID: u64 = 1 << 63;
/// `GICR_VPENDBASER.IDAI`: the implementation defined area of the table is not valid.
pub(crate) const IDAI: u64 = 1 << 62;
/// `GICR_VPENDBASER.PendingLast`: the virtual PE has pending and enabled virtual LPIs.
pub(crate) const PENDING_LAST: u64 = 1 << 61;
/// `GICR_VPENDBASER.Dirty`: the virtual PE has not left yet.
pub(crate) const DIRTY: u64 = 1 << 60;

/// Inner shareable, inner write-back cacheable.
const SHARED_WRITE_BACK: u64 = 1 << 10 | 7 << 7;

/// Bits 51:16 of the address of a pending table.
const PENDING_TABLE: u64 = 0x000f_ffff_ffff_0000;
/// Bits 51:12 of the address of a configuration table.
const CONFIGURATION_TABLE: u64 = 0x000f_ffff_ffff_f000;

/// Returns the value of `GICR_VPENDBASER` that makes a virtual PE resident, without the input bits
/// IDAI and PendingLast.
pub(crate) const fn resident(table: u64) -> u64 {
    VALID | table & PENDING_TABLE | SHARED_WRITE_BACK
}

/// Returns the value of `GICR_VPROPBASER`, for INTIDs of `id_bits` bits.
pub(crate) const fn vpropbaser(table: u64, id_bits: u32) -> u64 {
    table & CONFIGURATION_TABLE | SHARED_WRITE_BACK | id_bits.saturating_sub(1) as u64
}
