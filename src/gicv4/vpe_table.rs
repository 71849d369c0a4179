//! The table of virtual PEs of GICv4.1 (IHI 0069, chapter 6): one for all redistributors and ITSes
//! of a *common affinity*, by `GICR_VPROPBASER` and `GITS_BASER2`.
//!
//! An embedder sets its ITSes up first. Each redistributor then gets the value that [`inherited`]
//! returns, and a table of its own only without one: then the redistributors of the common affinity
//! that follow inherit from it.

/// `GICR_TYPER.RVPEID`: the redistributor is of GICv4.1, and `GICR_VPROPBASER` has the table.
const RVPEID: u64 = 1 << 7;
/// `GICR_VPROPBASER.Valid` and `GITS_BASER<n>.Valid`.
const VALID: u64 = 1 << 63;

/// An ITS, as its registers describe it.
#[derive(Clone, Copy, Debug)]
pub struct ItsTable {
    /// `GITS_TYPER`.
    pub typer: u64,
    /// `GITS_MPIDR`.
    pub mpidr: u32,
    /// `GITS_BASER2`, which has the table of virtual PEs with GICv4.1.
    pub baser2: u64,
}

/// A redistributor, as its registers describe it.
#[derive(Clone, Copy, Debug)]
pub struct RedistributorTable {
    /// `GICR_TYPER`.
    pub typer: u64,
    /// `GICR_VPROPBASER`, 0 before it is set up.
    pub vpropbaser: u64,
}

/// Returns the affinity bits, Aff3 in bits 31:24 down to Aff0 in 7:0, that are common to all
/// sharers of a table. `levels` is `GICR_TYPER.CommonLPIAff` or `GITS_TYPER.SVPET`.
const fn common_affinity(affinity: u32, levels: u64) -> u32 {
    match levels & 3 {
        0 => 0,
        1 => affinity & 0xff00_0000,
        2 => affinity & 0xffff_0000,
        _ => affinity & 0xffff_ff00,
    }
}

/// Returns `GICR_TYPER.CommonLPIAff` with the affinity that it selects.
const fn of_redistributor(typer: u64) -> (u64, u32) {
    let levels = typer >> 24 & 3;
    (levels, common_affinity((typer >> 32) as u32, levels))
}

/// Returns the value of `GICR_VPROPBASER` for a redistributor with this `GICR_TYPER`, by one of the
/// `others` of its common affinity, or by one of the `itses`. Returns `None` if none of them shares
/// a table with the redistributor, which then needs a table of its own, or is not of GICv4.1.
#[must_use]
pub fn inherited(typer: u64, others: &[RedistributorTable], itses: &[ItsTable]) -> Option<u64> {
    if typer & RVPEID == 0 {
        return None;
    }

    let wanted = of_redistributor(typer);
    let sharer = others
        .iter()
        .find(|other| other.vpropbaser & VALID != 0 && of_redistributor(other.typer) == wanted);
    if let Some(sharer) = sharer {
        return Some(sharer.vpropbaser);
    }

    let its = itses.iter().find(|its| {
        // SVPET: 0 for a table that the ITS shares with no redistributor; otherwise the levels.
        let levels = its.typer >> 41 & 3;
        let shares = levels != 0 && its.baser2 & VALID != 0;
        shares && common_affinity(its.mpidr, levels) == wanted.1
    });
    its.map(|its| of_baser(its.baser2))
}

/// Returns the value of `GICR_VPROPBASER` for the table that a `GITS_BASER2` has.
const fn of_baser(baser: u64) -> u64 {
    /// `GITS_BASER<n>.Indirect`.
    const INDIRECT: u64 = 1 << 62;
    const PAGES_OF_64K: u64 = 2;

    let page_size = baser >> 8 & 3;
    // With pages of 64 KiB, bits 15:12 of the register are bits 51:48 of the address.
    let address = if page_size == PAGES_OF_64K {
        baser & 0x0000_ffff_ffff_0000 | (baser >> 12 & 0xf) << 48
    } else {
        baser & 0x0000_ffff_ffff_f000
    };
    let indirect = (baser & INDIRECT != 0) as u64;
    let (inner, outer) = (baser >> 59 & 7, baser >> 53 & 7);
    let shareability = baser >> 10 & 3;
    // Size: pages less one, in both registers.
    let size = baser & 0x7f;

    let attributes = outer << 56 | shareability << 10 | inner << 7;
    VALID | indirect << 55 | page_size << 53 | address | attributes | size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `GICR_TYPER` of a redistributor of GICv4.1, with its affinity and CommonLPIAff.
    const fn typer(affinity: u32, levels: u64) -> u64 {
        (affinity as u64) << 32 | levels << 24 | RVPEID
    }

    #[test]
    fn a_common_affinity_has_one_table() {
        let first = RedistributorTable {
            typer: typer(0x0102_0300, 2),
            vpropbaser: VALID | 0x8000_0000,
        };
        let unset = RedistributorTable {
            typer: typer(0x0103_0000, 2),
            vpropbaser: 0,
        };
        let others = [unset, first];
        let of = |typer| inherited(typer, &others, &[]);
        assert_eq!(of(typer(0x0102_0405, 2)), Some(first.vpropbaser));
        assert_eq!(of(typer(0x0103_0001, 2)), None);
        assert_eq!(of(typer(0x0102_0405, 2) & !RVPEID), None);
    }

    #[test]
    fn a_redistributor_inherits_the_table_of_an_its() {
        // SVPET = 1: Aff3. Two levels of 64 KiB pages, 3 pages, above 48 bits of address.
        let its = ItsTable {
            typer: 1 << 41,
            mpidr: 0x0500_0000,
            baser2: VALID | 1 << 62 | 7 << 59 | 1 << 10 | 2 << 8 | 0x8765_0000 | 0xa << 12 | 2,
        };
        let wanted = VALID | 1 << 55 | 2 << 53 | 0x000a_0000_8765_0000 | 1 << 10 | 7 << 7 | 2;
        assert_eq!(inherited(typer(0x0501_0203, 1), &[], &[its]), Some(wanted));
        assert_eq!(inherited(typer(0x0401_0203, 1), &[], &[its]), None);

        // Pages of 4 KiB, where bits 15:12 are part of the address. A private table.
        let small = ItsTable {
            baser2: VALID | 0x1234_5000,
            ..its
        };
        let of_small = inherited(typer(0x0501_0203, 1), &[], &[small]);
        assert_eq!(of_small, Some(VALID | 0x1234_5000));
        let private = ItsTable { typer: 0, ..its };
        assert_eq!(inherited(typer(0, 0), &[], &[private]), None);
    }
}
