//! Paths, method calls and `impl` blocks in the code of one file.

use std::collections::BTreeMap;

use crate::layers::RECEIVERS;
use crate::source::{Source, find_word, is_word, matching};

/// Code of one file.
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) room: String,
    /// Modules that lead to the file: `[radix, walk]`.
    pub(crate) path: Vec<String>,
    pub(crate) code: String,
    pub(crate) lines: usize,
    pub(crate) code_lines: usize,
}

/// Block of an `impl`, or the module, that a byte range belongs to.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) open: usize,
    pub(crate) close: usize,
    /// An `impl` of a trait defines no methods that are called by name here.
    pub(crate) inherent: bool,
}

impl File {
    /// Takes the code of a file without its tests.
    pub(crate) fn new(source: &Source) -> Self {
        let module = source.below.trim_end_matches(".rs");
        let module = module.strip_suffix("/mod").unwrap_or(module);
        let path: Vec<String> = module.split('/').map(str::to_owned).collect();
        Self {
            name: source.name.clone(),
            room: path[0].clone(),
            path,
            code: source.shipped_code(),
            lines: source.lines.len(),
            code_lines: source.shipped().filter(|line| line.has_code).count(),
        }
    }

    /// Collects the paths from the root that the file names, and where. Groups come apart.
    pub(crate) fn names(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let modules = regions(&self.code, "mod");
        let mut from = 0;
        while let Some(at) = find_word(&self.code, "crate", from) {
            from = at + "crate".len();
            if let Some(rest) = after_colons(&self.code, from) {
                expand(&self.code, rest, "", &mut found);
            }
        }

        from = 0;
        while let Some(at) = find_word(&self.code, "super", from) {
            let inside = modules.iter().filter(|m| m.open < at && at < m.close);
            let mut depth = self.path.len() + inside.count();
            let mut end = at;
            loop {
                depth = depth.saturating_sub(1);
                let Some(next) = after_colons(&self.code, end + "super".len()) else {
                    break;
                };
                end = next;
                if word(&self.code[end..]) != "super" {
                    // Only the root has the rooms; deeper modules are of this one.
                    if depth == 0 && !self.code[end..].starts_with('*') {
                        expand(&self.code, end, "", &mut found);
                    }
                    break;
                }
            }
            from = end.max(at + "super".len());
        }
        found
    }

    /// Collects the blocks of `impl` at the level of items.
    pub(crate) fn impls(&self) -> Vec<Region> {
        regions(&self.code, "impl")
    }

    /// Collects the method calls whose receiver is known: where, the types that it may be of, and
    /// the method.
    pub(crate) fn calls(&self) -> Vec<(usize, Vec<String>, String)> {
        let impls = self.impls();
        let code = &self.code;
        let mut found = Vec::new();

        for (at, _) in code.match_indices('.').chain(code.match_indices("::")) {
            let dot = code[at..].starts_with('.');
            let name_at = if dot { at + 1 } else { at + 2 };
            let method = word(&code[name_at..]);
            let rest = &code[name_at + method.len()..];
            if method.is_empty() || !(rest.starts_with('(') || rest.starts_with("::<")) {
                continue;
            }

            let receiver = receiver(&code[..at]);
            let own = || {
                let mut around = impls.iter().filter(|i| i.open < at && at < i.close);
                around.next_back().map(|i| i.name.clone())
            };
            let types: Vec<String> = match receiver {
                "self" | "Self" => own().into_iter().collect(),
                name if dot => RECEIVERS
                    .iter()
                    .filter(|(receiver, _)| *receiver == name)
                    .flat_map(|(_, types)| types.iter().map(|ty| (*ty).to_owned()))
                    .collect(),
                name if name.starts_with(char::is_uppercase) => vec![name.to_owned()],
                _ => Vec::new(),
            };
            if !types.is_empty() {
                found.push((at, types, method.to_owned()));
            }
        }
        found
    }
}

/// Returns the identifier that a text begins with.
pub(crate) fn word(text: &str) -> &str {
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    &text[..end]
}

/// Returns the name that stands before a dot or `::`: of a variable, a field, or a method that
/// gives access to one (`self.vgic`, `self.vgic()`, `vcpu(id)?`, `Vgic::<H>`).
fn receiver(before: &str) -> &str {
    let mut before = before.trim_end();
    loop {
        if let Some(rest) = before.strip_suffix('?') {
            before = rest.trim_end();
        } else if before.ends_with([')', '>']) {
            let (open, close) = if before.ends_with(')') {
                ('(', ')')
            } else {
                ('<', '>')
            };
            let mut depth = 0_usize;
            let start = before.char_indices().rev().find_map(|(at, c)| {
                depth += usize::from(c == close);
                depth -= usize::from(c == open);
                (depth == 0).then_some(at)
            });
            let Some(start) = start else { return "" };
            before = before[..start].trim_end().trim_end_matches("::");
        } else {
            break;
        }
    }
    let start = before.rfind(|c| !is_word(c)).map_or(0, |at| {
        at + before[at..].chars().next().map_or(1, char::len_utf8)
    });
    let name = &before[start..];
    // A field called `self` does not exist, but `self` after a dot would be no receiver.
    if name == "self" && before[..start].ends_with('.') {
        ""
    } else {
        name
    }
}

/// Returns where the text after `::` begins, if that is what stands at `at`.
fn after_colons(code: &str, at: usize) -> Option<usize> {
    let rest = code[at..].trim_start();
    let rest = rest.strip_prefix("::")?.trim_start();
    Some(code.len() - rest.len())
}

/// Adds the paths that begin at `at` to `found`: each of a group, two names of each at most.
fn expand(code: &str, at: usize, before: &str, found: &mut Vec<(usize, String)>) {
    if !code[at..].starts_with('{') {
        let name = word(&code[at..]);
        let path = if before.is_empty() {
            name.to_owned()
        } else if name == "self" {
            before.to_owned()
        } else {
            format!("{before}::{name}")
        };
        match after_colons(code, at + name.len()) {
            Some(next) if before.is_empty() && !code[next..].starts_with('<') => {
                expand(code, next, &path, found);
            }
            _ if path.is_empty() => {}
            _ => found.push((at, path)),
        }
        return;
    }

    let close = matching(code, at).unwrap_or(code.len());
    let mut from = at + 1;
    while from < close {
        let item = &code[from..close];
        let start = from + (item.len() - item.trim_start().len());
        let mut depth = 0_usize;
        let end = item.char_indices().find(|(_, c)| {
            depth += usize::from(*c == '{');
            depth -= usize::from(*c == '}');
            *c == ',' && depth == 0
        });
        let end = end.map_or(close, |(end, _)| from + end);
        if start < end {
            expand(code, start, before, found);
        }
        from = end + 1;
    }
}

/// Reads from the root file which items it offers, and from which rooms.
pub(crate) fn re_exports(code: &str) -> BTreeMap<String, String> {
    let mut offered = BTreeMap::new();
    let mut from = 0;
    while let Some(at) = find_word(code, "use", from) {
        from = at + 3;
        let start = code.len() - code[from..].trim_start().len();
        let end = code[start..]
            .find(';')
            .map_or(code.len(), |end| start + end);
        let path = code[start..end].trim_start_matches("crate::");
        let room = word(path);

        // `room::inner::{A, B as C}`: each last name is offered.
        for item in path.split([',', '{', '}']) {
            let item = item.rsplit("::").next().unwrap_or_default().trim();
            let name = item.rsplit(" as ").next().unwrap_or_default().trim();
            if !name.is_empty() && name != room {
                offered.insert(name.to_owned(), room.to_owned());
            }
        }
    }
    offered
}

/// Collects the blocks that `keyword` (`impl` or `mod`) begins where an item may stand.
fn regions(code: &str, keyword: &str) -> Vec<Region> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = find_word(code, keyword, from) {
        from = at + keyword.len();
        let before = code[..at].trim_end();
        let before = before.strip_suffix("unsafe").map_or(before, str::trim_end);
        let before = before.strip_suffix("pub").map_or(before, str::trim_end);
        let visible = before.ends_with("pub(crate)") || before.ends_with("pub(super)");
        if !visible && !before.is_empty() && !before.ends_with(['}', ';', ']', '{']) {
            continue;
        }

        let Some(open) = end_of_head(code, from) else {
            break;
        };
        if code[open..].starts_with(';') {
            continue;
        }
        let Some(close) = matching(code, open) else {
            break;
        };
        let head = &code[from..open];
        let subject = find_word(head, "for", 0).filter(|at| !head[at + 3..].starts_with('<'));
        found.push(Region {
            name: type_name(subject.map_or(head, |at| &head[at + 3..])).to_owned(),
            open,
            close,
            inherent: subject.is_none(),
        });
    }
    found
}

/// Finds the `{` or `;` that ends the head of an item; those in brackets are part of it.
fn end_of_head(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    code[from..].char_indices().find_map(|(at, c)| {
        depth += usize::from(matches!(c, '(' | '['));
        depth = depth.saturating_sub(usize::from(matches!(c, ')' | ']')));
        (depth == 0 && matches!(c, '{' | ';')).then_some(from + at)
    })
}

/// Returns the last name of the path of a type, after the generics of its `impl`.
fn type_name(head: &str) -> &str {
    let mut head = head.trim_start();
    if head.starts_with('<') {
        let mut depth = 0_usize;
        let end = head.char_indices().find_map(|(at, c)| {
            depth += usize::from(c == '<');
            depth -= usize::from(c == '>' && !head[..at].ends_with('-'));
            (depth == 0).then_some(at + 1)
        });
        head = head[end.unwrap_or(head.len())..].trim_start();
    }
    head = head.trim_start_matches('&');
    if head.starts_with('\'') {
        head = head
            .trim_start_matches(|c: char| !c.is_whitespace())
            .trim_start();
    }
    let end = head.find(|c| !is_word(c) && c != ':').unwrap_or(head.len());
    head[..end].rsplit("::").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_are_found_behind_access() {
        for (text, name) in [
            ("self", "self"),
            ("self.vgic", "vgic"),
            ("x.vgic(a, (b))", "vgic"),
            ("x.vcpu(id)?", "vcpu"),
            ("Vgic::<H>", "Vgic"),
            ("list\n    ", "list"),
            ("1.0", "0"),
        ] {
            assert_eq!(receiver(text), name, "{text}");
        }
    }

    #[test]
    fn types_are_named_by_their_last_name() {
        for (head, name) in [
            (" Vgic ", "Vgic"),
            ("<H: Host> Vgic<H> ", "Vgic"),
            ("<F: Fn() -> u8> crate::low::Vgic<F> ", "Vgic"),
            (" &'a Fixed<T> ", "Fixed"),
            (" Execution<'_, H> ", "Execution"),
        ] {
            assert_eq!(type_name(head), name, "{head}");
        }
    }

    #[test]
    fn blocks_of_impl_are_told_from_arguments() {
        let code = "fn f(_: impl Fn()) -> impl Fn() { g }\nimpl A {}\nunsafe impl Send for B {}\n";
        let found = regions(code, "impl");
        assert_eq!(found.len(), 2);
        assert!(found[0].name == "A" && found[0].inherent);
        assert!(found[1].name == "B" && !found[1].inherent);
    }
}
