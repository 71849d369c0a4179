//! QEMU's refusals, found before anything is built or fetched for a boot: of the CPU model, of the
//! machine's size, of the user's own arguments.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::monitor::{Monitor, QUIT};
use super::options::MOST_CPUS;
use super::{BootOptions, machine};
use crate::process::POLL;
use crate::project;
use crate::provision::qemu::Qemu;

/// The time after which a start is no longer waited for: QEMU waits, where the user's arguments
/// have it wait for a debugger, say.
const PATIENCE: Duration = Duration::from_secs(10);

/// QEMU's disk without contents, in place of the guest's, which may not be there yet.
const NO_DISK: &str = "null-co://";

/// Checks the machine of these options with QEMU.
pub(crate) fn check(qemu: &Qemu, options: &BootOptions) -> Result<()> {
    ensure!(
        i64::from(options.cpus()) <= MOST_CPUS,
        "{} vCPUs without --cpus would need as many CPUs: {MOST_CPUS} at most",
        options.vcpus
    );
    let scratch = project::scratch()?;
    let models = models(qemu, scratch.path())?;
    known(&options.cpu, &models)?;

    let mut command = machine::board(qemu, options, Path::new(NO_DISK), !options.bare)?;
    command
        .args(["-serial", "null", "-monitor", "none"])
        .args(&options.qemu);
    started(&mut command, scratch.path(), &[])
        .map(|_| ())
        .context("QEMU refuses this machine")
}

/// Checks that a value of `--cpu`, a model that properties may follow, names one of these models.
/// A QEMU that names none has the last word itself.
fn known(cpu: &str, models: &[String]) -> Result<()> {
    let name = cpu.split(',').next().unwrap_or_default();
    if models.is_empty() || models.iter().any(|model| model == name) {
        return Ok(());
    }
    bail!(
        "QEMU has no 64-bit CPU `{name}`; it has {}",
        models.join(", ")
    )
}

/// Asks QEMU for its CPU models with 64-bit registers.
fn models(qemu: &Qemu, scratch: &Path) -> Result<Vec<String>> {
    let query = |command: Value| command.to_string();
    let board = || -> Result<Command> {
        let mut command = qemu.command()?;
        command
            .args(["-machine", "virt", "-nodefaults", "-display", "none"])
            .args(["-serial", "null", "-monitor", "none"]);
        Ok(command)
    };
    let definitions = query(json!({"execute": "query-cpu-definitions"}));
    let names = names(&started(&mut board()?, scratch, &[definitions])?);
    let expansions: Vec<_> = names
        .iter()
        .map(|name| {
            let arguments = json!({"type": "full", "model": {"name": name}});
            query(json!({"execute": "query-cpu-model-expansion", "arguments": arguments}))
        })
        .collect();
    Ok(with_64_bits(&started(&mut board()?, scratch, &expansions)?))
}

/// Reads the names of the CPU models in QEMU's replies.
fn names(replies: &[Value]) -> Vec<String> {
    let models = replies
        .iter()
        .filter_map(|reply| reply.get("return")?.as_array())
        .flatten();
    models
        .filter_map(|model| Some(model.get("name")?.as_str()?.to_owned()))
        .collect()
}

/// Reads the names of those models in QEMU's replies that have the property `aarch64`.
fn with_64_bits(replies: &[Value]) -> Vec<String> {
    let expanded = replies.iter().filter_map(|reply| {
        let model = reply.get("return")?.get("model")?;
        let is_64_bit = model.get("props")?.get("aarch64")?.as_bool()?;
        is_64_bit.then(|| Some(model.get("name")?.as_str()?.to_owned()))?
    });
    let mut names: Vec<String> = expanded.collect();
    names.sort();
    names
}

/// Starts QEMU with its CPUs stopped, has it carry out commands and quit, and returns its replies:
/// none if it waits for something.
fn started(qemu: &mut Command, scratch: &Path, commands: &[String]) -> Result<Vec<Value>> {
    let commands: Vec<_> = commands.iter().cloned().chain([QUIT.to_owned()]).collect();
    let monitor = Monitor::new(scratch, &commands)?;
    monitor.attach(qemu);
    let mut child = qemu
        .arg("-S")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start QEMU")?;

    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Ok(Vec::new());
        }
        thread::sleep(POLL);
    };
    if !status.success() {
        let mut words = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut words)?;
        }
        bail!("{}", words.trim_end());
    }
    Ok(monitor.replies())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Value> {
        let replies = text.lines().map(serde_json::from_str);
        replies.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn an_unknown_model_is_an_error_that_lists_the_others() {
        let models = ["cortex-a76".to_owned(), "max".to_owned()];
        for cpu in ["max", "cortex-a76", "max,sve=off"] {
            assert!(known(cpu, &models).is_ok(), "{cpu}");
        }
        let error = known("nope,sve=off", &models).unwrap_err().to_string();
        assert!(error.contains("`nope`"), "{error}");
        assert!(error.contains("cortex-a76, max"), "{error}");
        assert!(known("nope", &[]).is_ok(), "QEMU will tell");
    }

    #[test]
    fn models_are_read_from_replies() {
        let replies = read(
            "{\"QMP\":{}}\n{\"return\":{}}\n\
             {\"return\":[{\"name\":\"max\",\"typename\":\"x\"},{\"name\":\"cortex-a15\"}]}",
        );
        assert_eq!(names(&replies), ["max", "cortex-a15"]);
    }

    #[test]
    fn models_of_32_bits_are_left_out() {
        let replies = read(
            "{\"return\":{\"model\":{\"name\":\"max\",\"props\":{\"aarch64\":true}}}}\n\
             {\"return\":{\"model\":{\"name\":\"cortex-a15\",\"props\":{\"pmu\":true}}}}\n\
             {\"error\":{\"class\":\"GenericError\"}}\n\
             {\"return\":{\"model\":{\"name\":\"a64fx\",\"props\":{\"aarch64\":true}}}}",
        );
        assert_eq!(with_64_bits(&replies), ["a64fx", "max"]);
    }

    #[test]
    fn a_refusal_is_in_qemus_words() {
        let scratch = project::scratch().unwrap();
        let mut qemu = Command::new("sh");
        qemu.args(["-c", "echo no such device >&2; exit 1"]);
        let error = started(&mut qemu, scratch.path(), &[]).unwrap_err();
        assert_eq!(error.to_string(), "no such device");
    }
}
