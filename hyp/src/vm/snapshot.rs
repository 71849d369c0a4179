//! Snapshots of a VM: taken into a file of the host's, after which the VM's run ends, and made a VM
//! of when the hypervisor starts and finds the file.
//!
//! The VM that a snapshot is restored to is made of the same options on CPUs of the same model, of
//! which there may be more or fewer. Its clock goes on where it stopped (`CNTVOFF_EL2`). The
//! physical counter has no offset: a guest that reads it sees the machine's, and the deadline of
//! its physical timer is moved.
//!
//! A vCPU that waited for an interrupt, or was suspended, wakes up for nothing.
#![expect(unsafe_code)]
// UNSAFETY: reads and writes the RAM of a VM that is stopped, and uses the contexts of its vCPUs.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{ICH_VTR_EL2, MIDR_EL1, Readable};
use semihosting::fs::File;

use super::console::set_line;
use super::host::Mirror;
use super::lifetime::{end_saved, take_apart, wake_all};
use super::virtio::EntropyDevice;
use super::{Boot, Vm, controller, kvm};
use crate::cpu::clock::{frequency, microseconds, nanoseconds, now};
use crate::cpu::id_registers::{self, Reader};
use crate::cpu::rendezvous::rendezvous;
use crate::cpu::this_cpu::ThisCpu;
use crate::memory::cache;
use crate::memory::dirty::DirtyPages;
use crate::memory::layout::PAGE;
use crate::memory::stage2::Stage2;
use crate::println;
use crate::snapshot::state::{self, Identity, State};
use crate::snapshot::stream::{Reader as Stream, Record, Writer, damaged};
use crate::vcpu::power::PowerState;
use crate::vcpu::vector;

/// Pages of the largest record: as many are read at once.
const RUN: usize = 64;

/// Passes in which the RAM of a VM that runs is copied, at most, and pages that may be left for the
/// stop.
const PASSES: usize = 10;
const FEW: usize = 256;

/// Takes a snapshot of a VM, if it is alive, and ends its run. If the snapshot cannot be taken, the
/// VM goes on, and a line says why. The calling CPU has no vCPU.
pub(super) fn take(cpu: &ThisCpu, vm: &'static Vm) {
    if let Some(hop) = &vm.hop {
        stop_and_finish(cpu, vm, || kvm::write(cpu, vm, hop));
    } else {
        let begun = begin(vm);
        stop_and_finish(cpu, vm, || finish(cpu, vm, begun?));
    }
}

/// Moves a VM, if it is alive, to a machine that waits for the file. The RAM is copied while the VM
/// runs on other CPUs, then what has been written meanwhile, until little is left for the stop.
pub(super) fn migrate(cpu: &ThisCpu, vm: &'static Vm) {
    let begun = begin(vm).and_then(|mut file| {
        for pass in 1..=PASSES {
            let pages = vm.memory.dirty.as_ref().map_or(0, DirtyPages::count);
            if pages <= FEW {
                break;
            }
            let began = now();
            write_pages(&mut file, vm, Some(&vm.stage2), pass == 1)?;
            println!(
                "hyp: {}: pass {pass}: {pages} pages, {} us",
                vm.name,
                microseconds(now() - began)
            );
        }
        Ok(file)
    });
    stop_and_finish(cpu, vm, || finish(cpu, vm, begun?));
}

/// Begins the file of a VM that runs. From now on every page is noted that the VM writes.
///
/// # Errors
/// Why it cannot be begun.
fn begin(vm: &Vm) -> Result<Writer, String> {
    let path = vm.snapshot.as_ref().ok_or("it has no hyp.snapshot")?;
    let dirty = vm.memory.dirty.as_ref().ok_or("it has no hyp.snapshot")?;
    if vm.devices.is_some() {
        return Err("it has PCI functions of the machine".into());
    }
    let mut file = Writer::create(path)?;
    file.identity(&identity(vm))?;
    dirty.begin();
    Ok(file)
}

/// Stops a VM, saves it by `save`, and ends its run. If it cannot be saved, the VM goes on, and a
/// line says why. `save` returns the bytes of the file, and the nanoseconds that the vGIC took.
fn stop_and_finish(
    cpu: &ThisCpu,
    vm: &'static Vm,
    save: impl FnOnce() -> Result<(u64, u64), String>,
) {
    while !vm.lifetime.claim_save() {
        if vm.lifetime.is_dead() {
            return;
        }
        // The CPU that changes the VM may wait for this one.
        rendezvous(cpu);
    }
    let began = now();
    rendezvous(cpu);
    // SAFETY: the VM is stopped: no vCPU runs.
    while !unsafe { vm.load_slice() } {}
    match save() {
        Ok((bytes, of_vgic)) => {
            println!(
                "hyp: {} is saved: {bytes} bytes, stopped for {} us, {of_vgic} ns of the vGIC",
                vm.name,
                microseconds(now() - began)
            );
            end_saved(cpu, vm);
        }
        Err(reason) => {
            println!("hyp: {} is not saved: {reason}", vm.name);
            vm.lifetime.go_on();
            wake_all(vm);
        }
    }
}

/// Writes the rest of the file of a VM that is stopped. Returns its bytes, and the nanoseconds that
/// the vGIC took.
///
/// # Errors
/// Why it cannot be written.
fn finish(cpu: &ThisCpu, vm: &'static Vm, mut file: Writer) -> Result<(u64, u64), String> {
    let (state, of_vgic) = state(cpu, vm)?;
    // After the state: a save may write tables in the guest's memory.
    let is_first = file.bytes < PAGE as u64;
    let written = write_pages(&mut file, vm, None, is_first).and_then(|()| file.state(&state));
    if let (Err(_), Some(console)) = (&written, &vm.console) {
        let _ = console.set(&state.console);
    }
    written?;
    Ok((file.finish()?, of_vgic))
}

/// Writes the pages of a VM that are noted, of which `stage2` denies writes if the VM runs. Pages
/// of zeros are left out the first time.
///
/// # Errors
/// Why the host refuses.
fn write_pages(
    file: &mut Writer,
    vm: &Vm,
    stage2: Option<&Stage2>,
    is_first: bool,
) -> Result<(), String> {
    let Some(dirty) = &vm.memory.dirty else {
        return Ok(());
    };
    let mut run = Run {
        first: 0,
        bytes: Vec::with_capacity(RUN * PAGE),
    };
    dirty.take(stage2, |page| -> Result<(), String> {
        if run.next() != page || run.bytes.len() == RUN * PAGE {
            run.write(file)?;
            run.first = page;
        }
        let start = run.bytes.len();
        run.bytes.resize(start + PAGE, 0);
        let bytes = run.bytes.get_mut(start..).unwrap_or_default();
        vm.memory
            .read_page(page, bytes)
            .ok_or("the RAM has an end")?;
        if is_first && bytes.as_chunks().0.iter().all(|word| *word == [0; 8]) {
            run.bytes.truncate(start);
            run.write(file)?;
            run.first = page + 1;
        }
        Ok(())
    })?;
    run.write(file)
}

/// Pages that follow each other, and have been read.
struct Run {
    /// Number of the first page.
    first: usize,
    bytes: Vec<u8>,
}

impl Run {
    /// Returns the number of the page behind the last.
    fn next(&self) -> usize {
        self.first + self.bytes.len() / PAGE
    }

    /// Writes the pages, if there are any. None is left.
    fn write(&mut self, file: &mut Writer) -> Result<(), String> {
        let count = self.bytes.len() / PAGE;
        if count > 0 {
            file.pages(self.first as u64, count as u32, &self.bytes)?;
        }
        self.bytes.clear();
        Ok(())
    }
}

/// Returns the identity of a VM on this machine.
fn identity(vm: &Vm) -> Identity {
    /// `ICH_VTR_EL2.PREbits` and `IDbits`.
    const BITS: u64 = 0x3f << 23;
    Identity {
        cpu: MIDR_EL1.get(),
        features: id_registers::all(Reader::PART).collect(),
        interface: ICH_VTR_EL2.get() & BITS,
        vector: vector::length() as u64,
        frequency: frequency(),
        memory: vm.memory.physical().map(|piece| piece.len() as u64).sum(),
        vcpus: vm.vcpus().len() as u64,
        events: vm
            .config
            .its
            .iter()
            .map(|its| u64::from(its.max_events))
            .sum(),
        entropy: vm.entropy.is_some().into(),
    }
}

/// Returns the state of a VM that is stopped, and the nanoseconds that the vGIC took.
///
/// # Errors
/// Why it cannot be saved.
pub(super) fn state(cpu: &ThisCpu, vm: &'static Vm) -> Result<(State, u64), String> {
    let vgic = vm.vgic().ok_or("it is dead")?;
    let began = now();
    let saved = vgic.save(&cpu.vgic_cpu.pin());
    let of_vgic = nanoseconds(now() - began);
    let vgic = saved.map_err(|error| error.to_string())?;
    let vcpus = vm.vcpus().iter().map(|vcpu| {
        // SAFETY: the VM is stopped: no CPU runs the vCPU.
        let context = unsafe { vcpu.context() };
        state::Vcpu {
            is_on: vcpu.power.state() == PowerState::On,
            start: vcpu.power.start(),
            registers: context.is_started.then(|| context.state()),
        }
    });
    let physical_counter = now();
    let state = State {
        virtual_counter: physical_counter.wrapping_sub(vm.clock_offset()),
        physical_counter,
        vcpus: vcpus.collect(),
        entropy: vm.entropy.as_ref().map(EntropyDevice::state),
        console: vm.console.as_ref().map(|it| it.take()).unwrap_or_default(),
        vgic,
    };
    Ok((state, of_vgic))
}

/// Returns the runs of pages of a VM that are not all zeros: the number of the first page, and the
/// physical addresses.
pub(super) fn runs(vm: &Vm) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut pages = vm.memory.physical().flat_map(|piece| piece.step_by(PAGE));
    let mut number = 0;
    core::iter::from_fn(move || {
        let mut run: Option<(u64, Range<usize>)> = None;
        for page in pages.by_ref() {
            let this = number;
            number += 1;
            match &mut run {
                _ if is_zero(page) => {
                    if run.is_some() {
                        break;
                    }
                }
                Some((_, run)) => run.end += PAGE,
                None => run = Some((this, page..page + PAGE)),
            }
        }
        run
    })
}

/// Returns true if a page of a VM that is stopped is all zeros.
fn is_zero(page: usize) -> bool {
    // SAFETY: the page is RAM of a VM, mapped, and nobody writes it.
    let words = unsafe { core::slice::from_raw_parts(page as *const u64, PAGE / size_of::<u64>()) };
    words.iter().all(|&word| word == 0)
}

/// Makes a VM of its snapshot, if there is one, or of the one that is on its way. Returns false if
/// there is none. A snapshot that is refused leaves the VM dead, and a line says why. Called at the
/// start of the hypervisor, on a CPU without a vCPU.
pub(crate) fn restore(cpu: &ThisCpu, vm: &'static Vm) -> bool {
    let Some(file) = open(vm) else {
        return false;
    };
    if !vm.lifetime.claim_birth() {
        return true;
    }

    let began = now();
    let done = match file {
        Opened::Own(file) => read(cpu, vm, file),
        Opened::Kvm(file) => kvm::read(vm, file).and_then(|state| apply(cpu, vm, &state)),
    };
    match done {
        Ok(of_vgic) => {
            println!(
                "hyp: {} is restored, after {} us, {of_vgic} ns of the vGIC",
                vm.name,
                microseconds(now() - began)
            );
            vm.lifetime.go_on();
            wake_all(vm);
        }
        Err(reason) => {
            println!("hyp: {}: its snapshot is refused: {reason}", vm.name);
            forget(vm);
            vm.lifetime.give_up_birth();
        }
    }
    true
}

/// A snapshot, by its form.
enum Opened {
    /// That of [`crate::snapshot`].
    Own(Stream),
    /// That of Linux KVM's calls.
    Kvm(File),
}

/// Opens the snapshot of a VM, if there is one, or waits for the one that is on its way.
fn open(vm: &Vm) -> Option<Opened> {
    match (&vm.hop, &vm.incoming, &vm.snapshot) {
        (Some(hop), ..) => File::open(&hop.file).ok().map(Opened::Kvm),
        (None, Some(path), _) => {
            println!("hyp: {} is awaited", vm.name);
            Some(Opened::Own(Stream::wait(path)))
        }
        (None, None, Some(path)) => Stream::open(path).map(Opened::Own),
        (None, None, None) => None,
    }
}

/// Fills a VM that is dead from its snapshot. Returns the nanoseconds that the vGIC took.
///
/// # Errors
/// Why the snapshot is refused.
fn read(cpu: &ThisCpu, vm: &'static Vm, mut file: Stream) -> Result<u64, String> {
    file.header()?;
    let Record::Identity(saved) = file.next()? else {
        return Err(damaged());
    };
    if let Some(reason) = saved.refusal(&identity(vm)) {
        return Err(reason);
    }

    let mut state = None;
    loop {
        match file.next()? {
            Record::Pages { first, count } => {
                let run = place(vm, first, count).ok_or_else(damaged)?;
                // SAFETY: the RAM is mapped, and no vCPU of the VM runs.
                let bytes =
                    unsafe { core::slice::from_raw_parts_mut(run.start as *mut u8, run.len()) };
                file.take(bytes)?;
                cache::clean_and_invalidate(&run);
            }
            Record::State(saved) => state = Some(saved),
            Record::Identity(_) => return Err(damaged()),
            Record::End => break,
        }
    }
    cache::invalidate_instructions();
    let state = state.ok_or_else(damaged)?;
    apply(cpu, vm, &state)
}

/// Returns the physical addresses of so many pages from page number `first` on.
fn place(vm: &Vm, first: u64, count: u32) -> Option<Range<usize>> {
    let (first, count) = (usize::try_from(first).ok()?, count as usize);
    // A VM with a part of the machine has one piece of RAM.
    let ram = vm.memory.physical().next()?;
    let start = ram.start.checked_add(first.checked_mul(PAGE)?)?;
    let end = start.checked_add(count.checked_mul(PAGE)?)?;
    (end <= ram.end).then_some(start..end)
}

/// Gives a VM that is dead a state. Returns the nanoseconds that the vGIC took.
///
/// # Errors
/// Why the state is refused.
fn apply(cpu: &ThisCpu, vm: &'static Vm, state: &State) -> Result<u64, String> {
    let mut vcpus = state.vcpus.iter().zip(&state.vgic.vcpus);
    let are_sound = vcpus.all(|(vcpu, of_vgic)| vcpu.is_sound(of_vgic.is_on));
    if state.vcpus.len() != vm.vcpus().len() || !are_sound {
        return Err(damaged());
    }
    let began = now();
    let pin = cpu.vgic_cpu.pin();
    let vgic = controller::create(vm, Mirror::default(), &pin);
    if let Err(error) = vgic.restore(&pin, &state.vgic) {
        drop(pin);
        take_apart(cpu, vm, vgic);
        return Err(format!("its interrupt controller: {error}"));
    }
    drop(pin);
    let of_vgic = nanoseconds(now() - began);

    let is_console = (vm.console.as_ref()).is_some_and(|console| console.set(&state.console));
    let elapsed = now().wrapping_sub(state.physical_counter);
    let are_vcpus = vm.vcpus().iter().zip(&state.vcpus).all(|(vcpu, saved)| {
        // SAFETY: the VM is dead: no CPU runs the vCPU.
        let context = unsafe { vcpu.context() };
        let power = if saved.is_on {
            PowerState::On
        } else {
            PowerState::Off
        };
        vcpu.power.set(power, saved.start);
        let is_set = saved.registers.as_ref().is_none_or(|it| context.set(it));
        context.delay_physical_timer(elapsed);
        is_set
    });
    let is_entropy = match (&vm.entropy, &state.entropy) {
        (Some(device), Some(state)) => device.set(state),
        (None, None) => true,
        _ => false,
    };
    if !is_console || !is_entropy || !are_vcpus {
        take_apart(cpu, vm, vgic);
        return Err(damaged());
    }

    let offset = now().wrapping_sub(state.virtual_counter);
    // Relaxed: see `clock_offset`.
    vm.clock_offset.store(offset, Ordering::Relaxed);
    if let Boot::Modules(load) = &vm.boot {
        load.skip();
    }
    if let Some(console) = &vm.console {
        console.repeat(|high| set_line(&vgic, &cpu.vgic_cpu.pin(), high));
    }
    vm.set_vgic(vgic);
    Ok(of_vgic)
}

/// Forgets what a VM that stays dead has been given of a snapshot.
fn forget(vm: &Vm) {
    for ram in vm.memory.physical() {
        // SAFETY: the RAM is mapped, and no vCPU of the VM runs.
        unsafe { cache::fill_with_zeros(&ram) };
    }
    for vcpu in vm.vcpus() {
        vcpu.power.reset();
        // SAFETY: the VM is dead: no CPU runs the vCPU.
        unsafe { vcpu.context() }.is_started = false;
    }
    if let Some(console) = &vm.console {
        console.reset();
    }
    if let Some(entropy) = &vm.entropy {
        entropy.reset();
    }
}
