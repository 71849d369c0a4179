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
use core::ops::Range;
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{ICH_VTR_EL2, MIDR_EL1, Readable};
use semihosting::fs::File;

use super::console::set_line;
use super::host::Mirror;
use super::lifetime::{end_saved, take_apart, wake_all};
use super::{Boot, Vm, controller, kvm};
use crate::cpu::clock::{frequency, microseconds, now};
use crate::cpu::id_registers::{self, Reader};
use crate::cpu::rendezvous::rendezvous;
use crate::cpu::this_cpu::ThisCpu;
use crate::memory::cache;
use crate::memory::layout::PAGE;
use crate::println;
use crate::snapshot::state::{self, Identity, State};
use crate::snapshot::stream::{Reader as Stream, Record, Writer, damaged};
use crate::vcpu::power::PowerState;
use crate::vcpu::vector;

/// Takes a snapshot of a VM, if it is alive, and ends its run. If the snapshot cannot be taken, the
/// VM goes on, and a line says why. The calling CPU has no vCPU.
pub(super) fn take(cpu: &ThisCpu, vm: &'static Vm) {
    if !vm.lifetime.claim_save() {
        return;
    }
    let began = now();
    rendezvous(cpu);
    match write(cpu, vm) {
        Ok(bytes) => {
            println!(
                "hyp: {} is saved: {bytes} bytes, after {} us",
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

/// Writes the snapshot of a VM that is stopped. Returns its bytes.
///
/// # Errors
/// Why it cannot be written.
fn write(cpu: &ThisCpu, vm: &'static Vm) -> Result<u64, String> {
    if vm.devices.is_some() {
        return Err("it has PCI functions of the machine".into());
    }
    // SAFETY: the VM is stopped: no vCPU runs.
    while !unsafe { vm.load_slice() } {}

    if let Some(hop) = &vm.hop {
        return kvm::write(cpu, vm, hop);
    }
    let path = vm.snapshot.as_ref().ok_or("it has no hyp.snapshot")?;
    let mut file = Writer::create(path)?;
    file.identity(&identity(vm))?;
    let state = state(cpu, vm)?;
    // After the state: a save may write tables in the guest's memory.
    let written = write_pages(&mut file, vm).and_then(|()| file.state(&state));
    if let (Err(_), Some(console)) = (&written, &vm.console) {
        let _ = console.set(&state.console);
    }
    written.and_then(|()| file.finish())
}

/// Writes the RAM of a VM that is stopped.
///
/// # Errors
/// Why the host refuses.
fn write_pages(file: &mut Writer, vm: &Vm) -> Result<(), String> {
    for (first, run) in runs(vm) {
        // SAFETY: the RAM is mapped, and the VM, which is stopped, is the only one to write it.
        let bytes = unsafe { core::slice::from_raw_parts(run.start as *const u8, run.len()) };
        file.pages(first, (run.len() / PAGE) as u32, bytes)?;
    }
    Ok(())
}

/// Returns the identity of a VM on this machine.
fn identity(vm: &Vm) -> Identity {
    /// `ICH_VTR_EL2.PREbits` and `IDbits`.
    const BITS: u64 = 0x3f << 23;
    Identity {
        cpu: MIDR_EL1.get(),
        features: id_registers::all(Reader::Part).collect(),
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
    }
}

/// Returns the state of a VM that is stopped.
///
/// # Errors
/// Why it cannot be saved.
pub(super) fn state(cpu: &ThisCpu, vm: &'static Vm) -> Result<State, String> {
    let vgic = vm.vgic().ok_or("it is dead")?;
    let saved = vgic.save(&cpu.vgic_cpu.pin());
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
    Ok(State {
        virtual_counter: physical_counter.wrapping_sub(vm.clock_offset()),
        physical_counter,
        vcpus: vcpus.collect(),
        console: vm.console.as_ref().map(|it| it.take()).unwrap_or_default(),
        vgic,
    })
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

/// Makes a VM of its snapshot, if there is one. Returns false if there is none. A snapshot that is
/// refused leaves the VM dead, and a line says why. Called at the start of the hypervisor, on a CPU
/// without a vCPU.
pub(crate) fn restore(cpu: &ThisCpu, vm: &'static Vm) -> bool {
    let began = now();
    let Some(file) = open(vm) else {
        return false;
    };
    if !vm.lifetime.claim_birth() {
        return true;
    }

    let done = match file {
        Opened::Own(file) => read(cpu, vm, file),
        Opened::Kvm(file) => kvm::read(vm, file).and_then(|state| apply(cpu, vm, &state)),
    };
    match done {
        Ok(()) => {
            println!(
                "hyp: {} is restored, after {} us",
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

/// Opens the snapshot of a VM, if there is one.
fn open(vm: &Vm) -> Option<Opened> {
    match (&vm.hop, &vm.snapshot) {
        (Some(hop), _) => File::open(&hop.file).ok().map(Opened::Kvm),
        (None, Some(path)) => Stream::open(path).map(Opened::Own),
        (None, None) => None,
    }
}

/// Fills a VM that is dead from its snapshot.
///
/// # Errors
/// Why the snapshot is refused.
fn read(cpu: &ThisCpu, vm: &'static Vm, mut file: Stream) -> Result<(), String> {
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
    apply(cpu, vm, &state.ok_or_else(damaged)?)
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

/// Gives a VM that is dead a state.
///
/// # Errors
/// Why the state is refused.
fn apply(cpu: &ThisCpu, vm: &'static Vm, state: &State) -> Result<(), String> {
    if state.vcpus.len() != vm.vcpus().len() {
        return Err(damaged());
    }
    let pin = cpu.vgic_cpu.pin();
    let vgic = controller::create(vm, Mirror::default(), &pin);
    if let Err(error) = vgic.restore(&pin, &state.vgic) {
        drop(pin);
        take_apart(cpu, vm, vgic);
        return Err(format!("its interrupt controller: {error}"));
    }
    drop(pin);

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
    if !is_console || !are_vcpus {
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
    Ok(())
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
}
