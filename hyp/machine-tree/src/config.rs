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
//! file system.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::machine::{Console, Uart};

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
    let mut config = Config::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        directive(line, &mut config).map_err(|why| format!("line {number}, `{line}`: {why}"))?;
    }
    if config.kernels.is_empty() {
        return Err("there is no line `kernel FILE`".into());
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
