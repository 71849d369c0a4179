//! `one-atomics-room` and `ordering-reason`: where atomics come from, and what each access says.

use crate::source::{Source, project, tree};

/// Folders whose files keep the rules.
const FOLDERS: [&str; 2] = ["hyp/scheduler/src", "src"];

/// Orderings that an access can name.
const ORDERINGS: [&str; 5] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];

/// Lines that a reason may be away: a comment speaks for the few statements below it.
const NEAR: usize = 14;

/// Rooms that atomics come from, which only `crate::sync` may name.
const ROOMS: [&str; 6] = [
    "core::sync::atomic",
    "core::sync::{",
    "std::sync::atomic",
    "std::sync::{",
    "loom::",
    "shuttle::",
];

/// Files that stand in for the atomics of a model checker, and pass the orderings through.
const STAND_INS: [&str; 2] = ["sync/mutant.rs", "sync/watched.rs"];

/// Finds the lines that name atomics from elsewhere than `crate::sync`.
fn foreign_atomics(source: &Source) -> Vec<String> {
    if source.below.starts_with("sync/") || source.is_tests() {
        return Vec::new();
    }
    let names_one = |text: &str| ROOMS.iter().find(|room| text.contains(**room));
    source
        .lines
        .iter()
        .filter_map(|line| Some((line.number, names_one(&line.text)?)))
        .map(|(number, room)| {
            let at = format!("{}:{number}", source.name);
            format!("{at}: one-atomics-room: names `{room}`; take it from `crate::sync`")
        })
        .collect()
}

/// Finds the accesses with no comment near them that names an ordering.
fn orderings_without_reason(source: &Source) -> Vec<String> {
    if STAND_INS.contains(&source.below.as_str()) {
        return Vec::new();
    }
    let names_one = |text: &str| {
        text.split(|c: char| !c.is_alphanumeric())
            .any(|word| ORDERINGS.contains(&word))
    };
    let mut reason = None;
    let mut found = Vec::new();

    for line in source.shipped() {
        if let Some(comment) = line.comment.as_ref().filter(|comment| comment.alone) {
            if names_one(&comment.text) {
                reason = Some(line.number);
            }
            continue;
        }

        let code = line.code.trim_start();
        let access = names_one(code) && !code.starts_with("use ") && !code.starts_with("pub");
        if access && reason.is_none_or(|reason| line.number - reason > NEAR) {
            let at = format!("{}:{}", source.name, line.number);
            found.push(format!(
                "{at}: ordering-reason: `{}` has no comment within {NEAR} lines above it that \
                 names its ordering; say which access it pairs with, or why none",
                code.trim_end()
            ));
        }
    }
    found
}

/// Collects what `look` finds in the files of the folders.
fn in_the_folders(look: fn(&Source) -> Vec<String>) -> Vec<String> {
    let files = FOLDERS.iter().flat_map(|folder| tree(project(), folder));
    files.flat_map(|file| look(&file)).collect()
}

#[test]
fn one_atomics_room() {
    let found = in_the_folders(foreign_atomics);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn ordering_reason() {
    let found = in_the_folders(orderings_without_reason);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomics_from_elsewhere_are_found() {
        let text = "use crate::sync::AtomicU8;\nuse core::sync::atomic::AtomicU16;\n";
        let found = foreign_atomics(&Source::new("src", "vm/mod.rs", text));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("src/vm/mod.rs:2: one-atomics-room"));
        assert!(foreign_atomics(&Source::new("src", "sync/mod.rs", text)).is_empty());
    }

    #[test]
    fn an_ordering_needs_a_reason_near_it() {
        let of = |text: &str| orderings_without_reason(&Source::new("src", "a.rs", text));
        assert_eq!(of("x.load(Acquire);\n").len(), 1);
        assert_eq!(
            of("// Acquire: pairs with `f`.\nx.load(Acquire);\n").len(),
            0
        );
        assert_eq!(of("// Looks at it.\nx.load(Acquire);\n").len(), 1);
        let far = format!("// Acquire: pairs.\n{}x.load(Acquire);\n", "\n".repeat(14));
        assert_eq!(of(&far).len(), 1);
        assert_eq!(of(&far.replacen("\n\n", "\n", 1)).len(), 0);
        assert_eq!(of("use crate::sync::Ordering::Acquire;\n").len(), 0);
    }

    #[test]
    fn code_below_tests_is_looked_at() {
        let text = "#[cfg(test)]\nmod tests {\n    x.load(Acquire);\n}\nx.load(Acquire);\n";
        let found = orderings_without_reason(&Source::new("src", "a.rs", text));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("src/a.rs:5: "));
    }

    #[test]
    fn code_below_a_declaration_of_tests_is_looked_at() {
        let text = "#[cfg(all(test, not(loom)))]\nmod tests;\nx.load(Acquire);\n";
        let found = orderings_without_reason(&Source::new("src", "a.rs", text));
        assert!(found[0].starts_with("src/a.rs:3: "));
    }
}
