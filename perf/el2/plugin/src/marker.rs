//! Markers: instructions without an effect, in a guest, that a plugin looks for.

/// Returns the number in the low byte of the immediate of the marker `word`, below `end`, or `None`
/// if the instruction is no marker of the kind whose high byte is that of `begin`.
pub(crate) const fn number(word: u32, begin: u16, end: usize) -> Option<usize> {
    const MOVZ_XZR: u32 = 0xd280_001f;
    const IMMEDIATE: u32 = 0xffff << 5;
    let immediate = (word & IMMEDIATE) >> 5;
    let number = (immediate & 0xff) as usize;
    if word & !IMMEDIATE == MOVZ_XZR && immediate & 0xff00 == begin as u32 && number < end {
        Some(number)
    } else {
        None
    }
}
