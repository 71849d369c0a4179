//! Registers of the SMMU (IHI 0070, chapter 6).

use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

register_bitfields! {u32,
    /// `SMMU_IDR0`.
    pub(super) Features0 [
        /// Stream table formats: 1 if a table may have two levels.
        ST_LEVEL OFFSET(27) NUMBITS(2) [],
        /// Set if devices may ask for translations (ATS).
        ATS OFFSET(10) NUMBITS(1) [],
        /// Set if the SMMU's own accesses snoop the CPUs' caches.
        COHACC OFFSET(4) NUMBITS(1) [],
        /// Table formats: bit 1 is AArch64's.
        TTF OFFSET(2) NUMBITS(2) [],
        /// Set if the SMMU has stage 2.
        S2P OFFSET(0) NUMBITS(1) [],
    ],
    /// `SMMU_IDR1`.
    pub(super) Features1 [
        /// Set if the places of tables and queues are fixed.
        PRESET OFFSET(29) NUMBITS(2) [],
        /// Largest size of the command queue, as a power of two.
        CMDQS OFFSET(21) NUMBITS(5) [],
        /// Largest size of the event queue, as a power of two.
        EVENTQS OFFSET(16) NUMBITS(5) [],
        /// Bits of StreamID.
        SIDSIZE OFFSET(0) NUMBITS(6) [],
    ],
    /// `SMMU_IDR5`.
    pub(super) Features5 [
        /// Set if tables may have pages of 4 KiB.
        GRAN4K OFFSET(4) NUMBITS(1) [],
        /// Size of output addresses, encoded as in `ID_AA64MMFR0_EL1.PARange`.
        OAS OFFSET(0) NUMBITS(3) [],
    ],
    /// `SMMU_CR0` and `SMMU_CR0ACK`.
    pub(super) Control0 [
        /// Set to check requests that say they are translated.
        ATSCHK OFFSET(4) NUMBITS(1) [],
        CMDQEN OFFSET(3) NUMBITS(1) [],
        EVENTQEN OFFSET(2) NUMBITS(1) [],
        SMMUEN OFFSET(0) NUMBITS(1) [],
    ],
    /// `SMMU_CR1`: attributes of the SMMU's own accesses.
    pub(super) Control1 [
        TABLE_SH OFFSET(10) NUMBITS(2) [Inner = 3],
        TABLE_OC OFFSET(8) NUMBITS(2) [WriteBack = 1],
        TABLE_IC OFFSET(6) NUMBITS(2) [WriteBack = 1],
        QUEUE_SH OFFSET(4) NUMBITS(2) [Inner = 3],
        QUEUE_OC OFFSET(2) NUMBITS(2) [WriteBack = 1],
        QUEUE_IC OFFSET(0) NUMBITS(2) [WriteBack = 1],
    ],
    /// `SMMU_CR2`.
    pub(super) Control2 [
        /// Set to ignore the CPUs' broadcast TLB maintenance.
        PTM OFFSET(2) NUMBITS(1) [],
        /// Set to record transactions of streams beyond the table.
        RECINVSID OFFSET(1) NUMBITS(1) [],
    ],
    /// `SMMU_GBPA`: the treatment of transactions while the SMMU is disabled.
    pub(super) GlobalBypass [
        UPDATE OFFSET(31) NUMBITS(1) [],
        ABORT OFFSET(20) NUMBITS(1) [],
    ],
    /// `SMMU_GERROR` and `SMMU_GERRORN`: an error is active while its bits differ.
    pub(super) GlobalError [
        CMDQ_ERR OFFSET(0) NUMBITS(1) [],
    ],
    /// `SMMU_CMDQ_CONS`.
    pub(super) CommandConsumer [
        /// Reason why the queue has stopped.
        ERR OFFSET(24) NUMBITS(7) [],
        /// Index of the next command to execute, and the wrap bit above it.
        RD OFFSET(0) NUMBITS(20) [],
    ],
    /// `SMMU_EVENTQ_PROD` and `SMMU_EVENTQ_CONS`.
    pub(super) EventPointer [
        /// Toggled, in the producer's register, when the queue overflows. The consumer's register
        /// holds the value that has been seen.
        OVERFLOW OFFSET(31) NUMBITS(1) [],
        /// Index of an event, and the wrap bit above it.
        INDEX OFFSET(0) NUMBITS(20) [],
    ],
    /// `SMMU_STRTAB_BASE_CFG`.
    pub(super) TableFormat [
        FMT OFFSET(16) NUMBITS(2) [Linear = 0, TwoLevel = 1],
        /// StreamID bits that the second level resolves.
        SPLIT OFFSET(6) NUMBITS(5) [],
        /// StreamID bits of the table.
        LOG2SIZE OFFSET(0) NUMBITS(6) [],
    ],
}

register_structs! {
    pub(super) Registers {
        (0x0_0000 => pub(super) idr0: ReadOnly<u32, Features0::Register>),
        (0x0_0004 => pub(super) idr1: ReadOnly<u32, Features1::Register>),
        (0x0_0008 => _reserved0),
        (0x0_0014 => pub(super) idr5: ReadOnly<u32, Features5::Register>),
        (0x0_0018 => _reserved1),
        (0x0_0020 => pub(super) cr0: ReadWrite<u32, Control0::Register>),
        (0x0_0024 => pub(super) cr0ack: ReadOnly<u32, Control0::Register>),
        (0x0_0028 => pub(super) cr1: ReadWrite<u32, Control1::Register>),
        (0x0_002c => pub(super) cr2: ReadWrite<u32, Control2::Register>),
        (0x0_0030 => _reserved2),
        (0x0_0044 => pub(super) gbpa: ReadWrite<u32, GlobalBypass::Register>),
        (0x0_0048 => _reserved3),
        (0x0_0050 => pub(super) irq_ctrl: ReadWrite<u32>),
        (0x0_0054 => pub(super) irq_ctrlack: ReadOnly<u32>),
        (0x0_0058 => _reserved4),
        (0x0_0060 => pub(super) gerror: ReadOnly<u32, GlobalError::Register>),
        (0x0_0064 => pub(super) gerrorn: ReadWrite<u32, GlobalError::Register>),
        (0x0_0068 => _reserved5),
        (0x0_0080 => pub(super) strtab_base: ReadWrite<u64>),
        (0x0_0088 => pub(super) strtab_base_cfg: ReadWrite<u32, TableFormat::Register>),
        (0x0_008c => _reserved6),
        (0x0_0090 => pub(super) cmdq_base: ReadWrite<u64>),
        (0x0_0098 => pub(super) cmdq_prod: ReadWrite<u32>),
        (0x0_009c => pub(super) cmdq_cons: ReadWrite<u32, CommandConsumer::Register>),
        (0x0_00a0 => pub(super) eventq_base: ReadWrite<u64>),
        (0x0_00a8 => _reserved7),
        (0x1_00a8 => pub(super) eventq_prod: ReadWrite<u32, EventPointer::Register>),
        (0x1_00ac => pub(super) eventq_cons: ReadWrite<u32, EventPointer::Register>),
        (0x1_00b0 => _reserved8),
        (0x2_0000 => @END),
    }
}
