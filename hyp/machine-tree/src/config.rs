//! The configuration file, `hyp.conf`: one directive on a line.
//!
//! ```text
//! # a comment
//! bootargs WORDS             command line of a guest with the whole machine
//! initrd FILE                initial RAM disk: before the first kernel that of all guests, after a
//!                            kernel that kernel's
//! kernel FILE WORDS          a guest's kernel, and its command line
//! seed DIGITS                random seed, 64 hexadecimal digits, for firmware without a generator
//! uart KIND ADDRESS          console in place of the firmware's: pl011, 16550, or 16550-32, whose
//!                            registers have 32 bits
//! ```
//!
//! Names of files begin in the directory of the application, or with a slash at the root of its
//! file system. A name that begins with a dot is that of a section of the application.
//!
//! The application may have the guest in sections, which are named as those of a unified kernel
//! image: `.linux`, `.initrd` and `.cmdline`. The section `.hypconf` then has the directives, if
//! there are any.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::machine::{Console, Uart};

/// Section with a guest's kernel.
pub const KERNEL: &str = ".linux";
/// Section with the guest's initial RAM disk.
pub const INITRD: &str = ".initrd";
/// Section with the guest's command line.
pub const COMMAND_LINE: &str = ".cmdline";
/// Section with the directives of a configuration file.
pub const DIRECTIVES: &str = ".hypconf";

/// Beginning of the words of a command line that are options of a VM.
const OPTION: &str = "hyp.";

/// A configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Command line of a guest with the whole machine.
    pub arguments: String,
    /// Initial RAM disk of every guest that has none of its own.
    pub initrd: Option<String>,
    /// Guests' kernels.
    pub kernels: Vec<Kernel>,
    /// Random seed, for firmware without a generator.
    pub seed: Option<[u8; 32]>,
    /// Console in place of the firmware's.
    pub uart: Option<Console>,
}

/// A guest's kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// File of the kernel.
    pub file: String,
    /// Command line.
    pub arguments: String,
    /// File of the initial RAM disk.
    pub initrd: Option<String>,
}

/// Reads a configuration file.
///
/// # Errors
/// The first line that cannot be understood, and why.
pub fn parse(text: &str) -> Result<Config, String> {
    let config = directives(text)?;
    if config.kernels.is_empty() {
        return Err("there is no line `kernel FILE`".into());
    }
    Ok(config)
}

/// Reads the configuration in the application's sections, which `section` returns by name. Returns
/// `None` if no section has one.
///
/// Without a directive that names a kernel, the guest is in the sections. Its command line is that
/// of a VM with a part of the machine if it has options of a VM.
///
/// # Errors
/// The first line that cannot be understood, and why.
pub fn of_sections<'s>(
    section: impl Fn(&str) -> Option<&'s [u8]>,
) -> Result<Option<Config>, String> {
    let text = |name| match section(name).map(core::str::from_utf8) {
        Some(Ok(text)) => Ok(text.trim_matches(|c: char| c == '\0' || c.is_whitespace())),
        Some(Err(_)) => Err(format!("{name} is no UTF-8")),
        None => Ok(""),
    };
    if [KERNEL, DIRECTIVES]
        .into_iter()
        .all(|name| section(name).is_none())
    {
        return Ok(None);
    }
    let mut config = directives(text(DIRECTIVES)?)?;
    if !config.kernels.is_empty() {
        return Ok(Some(config));
    }

    if section(INITRD).is_some() {
        config.initrd = Some(INITRD.into());
    }
    let mut kernel = Kernel {
        file: KERNEL.into(),
        ..Kernel::default()
    };
    let arguments = text(COMMAND_LINE)?;
    let is_of_part = arguments
        .split_whitespace()
        .any(|word| word.starts_with(OPTION));
    let place = match is_of_part {
        true => &mut kernel.arguments,
        false => &mut config.arguments,
    };
    *place = arguments.into();
    config.kernels.push(kernel);
    Ok(Some(config))
}

/// Reads directives.
fn directives(text: &str) -> Result<Config, String> {
    let mut config = Config::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        directive(line, &mut config).map_err(|why| format!("line {number}, `{line}`: {why}"))?;
    }
    Ok(config)
}

/// Reads one directive.
fn directive(line: &str, config: &mut Config) -> Result<(), String> {
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(format!("`{word}` wants something behind it"));
    }

    match word {
        "bootargs" => config.arguments = rest.to_string(),
        "initrd" => {
            let file = match config.kernels.last_mut() {
                Some(kernel) => &mut kernel.initrd,
                None => &mut config.initrd,
            };
            *file = Some(rest.to_string());
        }
        "kernel" => {
            let (file, arguments) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
            config.kernels.push(Kernel {
                file: file.to_string(),
                arguments: arguments.trim().to_string(),
                initrd: None,
            });
        }
        "seed" => config.seed = Some(seed(rest)?),
        "uart" => config.uart = Some(uart(rest)?),
        _ => {
            return Err("the directives are bootargs, initrd, kernel, seed and uart".into());
        }
    }
    Ok(())
}

/// Reads a seed.
fn seed(text: &str) -> Result<[u8; 32], String> {
    let mut seed = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != seed.len() || !rest.is_empty() {
        return Err("a seed has 64 hexadecimal digits".into());
    }
    for (byte, pair) in seed.iter_mut().zip(pairs) {
        let digits = core::str::from_utf8(pair).ok();
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        *byte = value.ok_or("a seed has 64 hexadecimal digits")?;
    }
    Ok(seed)
}

/// Reads a kind of UART and an address.
fn uart(text: &str) -> Result<Console, String> {
    let (kind, address) = text.split_once(' ').ok_or("give a kind and an address")?;
    /// A 16550 whose clock is that of a personal computer's.
    const fn ns16550(shift: u32, width: u32) -> Uart {
        Uart::Ns16550 {
            shift,
            width,
            clock: 1_843_200,
        }
    }

    let kind = match kind {
        "pl011" => Uart::Sbsa,
        "16550" => ns16550(0, 1),
        "16550-32" => ns16550(2, 4),
        _ => return Err("the kinds are pl011, 16550 and 16550-32".into()),
    };
    let address = address.trim();
    let digits = address.strip_prefix("0x").unwrap_or(address);
    let address = u64::from_str_radix(digits, 16).ok().filter(|&at| at != 0);
    Ok(Console {
        kind,
        address: address.ok_or("the address is a hexadecimal number")?,
        interrupt: None,
        baud: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_named_with_their_words() {
        let config = parse(
            "# a guest\nbootargs console=ttyAMA0  quiet\n\ninitrd \\all\n\
             kernel Image hyp.name=a  hyp.rng\ninitrd /of/a\nkernel other\n",
        );
        let config = config.unwrap();
        assert_eq!(config.arguments, "console=ttyAMA0  quiet");
        assert_eq!(config.initrd.as_deref(), Some("\\all"));
        let kernel = |file: &str, arguments: &str, initrd: Option<&str>| Kernel {
            file: file.into(),
            arguments: arguments.into(),
            initrd: initrd.map(Into::into),
        };
        let a = kernel("Image", "hyp.name=a  hyp.rng", Some("/of/a"));
        assert_eq!(config.kernels, [a, kernel("other", "", None)]);
    }

    /// Reads the configuration in these sections.
    fn of(sections: &[(&str, &'static str)]) -> Result<Option<Config>, String> {
        of_sections(|name| {
            let found = sections.iter().find(|(section, _)| *section == name);
            found.map(|(_, contents)| contents.as_bytes())
        })
    }

    #[test]
    fn a_guest_in_sections_has_a_part_of_the_machine_if_its_words_say_so() {
        let words = "hyp.vcpus=2 quiet";
        let config = of(&[
            (KERNEL, "k"),
            (INITRD, "i"),
            (COMMAND_LINE, "hyp.vcpus=2 quiet\n\0"),
        ]);
        let config = config.unwrap().unwrap();
        assert_eq!(config.initrd.as_deref(), Some(INITRD));
        assert_eq!((config.kernels.len(), config.arguments.as_str()), (1, ""));
        let kernel = &config.kernels[0];
        assert_eq!(
            (kernel.file.as_str(), kernel.arguments.as_str()),
            (KERNEL, words)
        );

        let whole = of(&[(KERNEL, "k"), (COMMAND_LINE, "quiet hyperv=1")]);
        let whole = whole.unwrap().unwrap();
        assert_eq!(
            (whole.arguments.as_str(), whole.initrd),
            ("quiet hyperv=1", None)
        );
        assert_eq!(whole.kernels[0].arguments, "");
    }

    #[test]
    fn directives_in_a_section_come_first() {
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[(COMMAND_LINE, "quiet")]).unwrap(), None);
        let named = "bootargs hyp.its=2\nkernel .linux";
        let config = of(&[
            (DIRECTIVES, named),
            (KERNEL, "k"),
            (COMMAND_LINE, "hyp.rng"),
        ]);
        let config = config.unwrap().unwrap();
        assert_eq!(config.arguments, "hyp.its=2");
        assert_eq!(config.kernels[0].arguments, "");

        let console = of(&[(DIRECTIVES, "uart pl011 9000000"), (KERNEL, "k")]);
        let console = console.unwrap().unwrap();
        assert!(console.uart.is_some() && console.kernels[0].file == KERNEL);
        assert!(of(&[(DIRECTIVES, "kernle x")]).is_err());
    }

    #[test]
    fn a_console_can_be_named() {
        let uart = |line: &str| parse(&format!("kernel k\nuart {line}")).map(|c| c.uart.unwrap());
        assert_eq!(uart("pl011 0x9000000").unwrap().address, 0x900_0000);
        let ns16550 = uart("16550-32 fe215040").unwrap();
        assert!(matches!(
            ns16550.kind,
            Uart::Ns16550 {
                shift: 2,
                width: 4,
                ..
            }
        ));
        for bad in ["pl011", "8250 1000", "pl011 0", "16550 x"] {
            assert!(uart(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_seed_has_all_its_digits() {
        let seed = |digits: &str| parse(&format!("kernel k\nseed {digits}"));
        let digits = "00ff".repeat(16);
        let expected = [[0, 0xff]; 16].concat();
        assert_eq!(seed(&digits).unwrap().seed.unwrap()[..], expected);
        for bad in [
            &digits[1..],
            &digits.replace('f', "x"),
            "ab",
            &format!("{digits}00"),
        ] {
            assert!(seed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let error = parse("kernel Image\n\nkernle Image").unwrap_err();
        assert!(error.contains("line 3, `kernle Image`"), "{error}");
        assert!(parse("kernel").unwrap_err().contains("wants something"));
        assert!(parse("# nothing").unwrap_err().contains("kernel FILE"));
    }
}
