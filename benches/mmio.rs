//! Trapped accesses of the registers that guests use while they run.

mod common;

use common::{Bed, GICD, GITS, Spread, vcpu};
use criterion::Criterion;
use vgic::mmio::Width;

fn mmio(c: &mut Criterion) {
    let bed = Bed::new(4, 1, 1, Spread::One);
    let cpu = bed.cpu(0);
    let mut group = c.benchmark_group("mmio");
    let reads = [
        ("GICD_CTLR", GICD, Width::Word),
        ("GICD_TYPER", GICD + 0x004, Width::Word),
        ("GICD_ISENABLER1", GICD + 0x104, Width::Word),
        ("GICD_ISPENDR1", GICD + 0x204, Width::Word),
        ("GICD_IPRIORITYR32", GICD + 0x420, Width::Byte),
        ("GICD_IROUTER40", GICD + 0x6140, Width::Double),
        ("GICR_TYPER", bed.gicr(3) + 0x008, Width::Double),
        ("GICR_ISENABLER0", bed.gicr(3) + 0x1_0100, Width::Word),
        ("GITS_CREADR", GITS + 0x090, Width::Double),
    ];
    for (name, gpa, width) in reads {
        group.bench_function(format!("read/{name}"), |b| {
            let pin = cpu.pin();
            b.iter(|| bed.vm.mmio_read(&cpu, &pin, vcpu(0), gpa, width));
        });
    }
    let writes = [
        ("GICD_ISENABLER1", GICD + 0x104, Width::Word, 1 << 8),
        ("GICD_ICENABLER1", GICD + 0x184, Width::Word, 1 << 9),
        ("GICD_ICPENDR1", GICD + 0x284, Width::Word, 1 << 8),
        ("GICD_ICACTIVER1", GICD + 0x384, Width::Word, 1 << 8),
        ("GICD_IPRIORITYR40", GICD + 0x428, Width::Byte, 0xa0),
        ("GICD_IROUTER40", GICD + 0x6140, Width::Double, 1),
        (
            "GICR_ISENABLER0",
            bed.gicr(3) + 0x1_0100,
            Width::Word,
            1 << 20,
        ),
        ("GITS_CWRITER", GITS + 0x088, Width::Double, 0),
    ];
    // As far as the queue is filled already: nothing to do.
    let end = bed.queue([0x05, 0, 0, 0]);
    bed.go(&cpu.pin(), end);
    for (name, gpa, width, value) in writes {
        let value = if name == "GITS_CWRITER" { end } else { value };
        group.bench_function(format!("write/{name}"), |b| {
            let pin = cpu.pin();
            b.iter(|| bed.vm.mmio_write(&pin, gpa, width, value));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    mmio(&mut criterion);
    criterion.final_summary();
}
