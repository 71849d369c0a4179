//! `arrows-down`: which room names which, and which room's methods call which room's.
//!
//! Names are the paths that begin with `crate::`, or with `super::` where that leads to the root.
//! Calls find the arrows that imports do not show: a type may have methods in several rooms, and
//! then any of its methods calls any other without naming the room. They are found by the name of
//! the receiver ([`RECEIVERS`](crate::layers::RECEIVERS)), which misses calls through other names.
//!
//! `cargo test --test house -- --nocapture arrows_down` prints the rooms and the arrows up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::layers::{RANKS, Ranks, VM};
use crate::paths::{File, re_exports, word};
use crate::source::{Source, find_word, project, tree};

/// How one room depends on another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum By {
    /// It names it.
    Name,
    /// It calls a method that is defined in it.
    Call,
}

/// One place where a room depends on another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Arrow {
    from: String,
    to: String,
    by: By,
    /// Item named, or method called: `Vgic::insert`.
    item: String,
    file: String,
    line: usize,
}

/// Outside code of a tree, file by file.
struct House {
    files: Vec<File>,
    /// Items that `lib.rs` offers at the root, and the rooms that they are from.
    re_exports: BTreeMap<String, String>,
    rooms: BTreeSet<String>,
}

impl House {
    /// Reads the files of a tree; those that are tests are left out.
    fn new(sources: &[Source]) -> Self {
        let files: Vec<File> = sources
            .iter()
            .filter(|source| !source.is_tests())
            .map(File::new)
            .collect();
        let root = files.iter().find(|file| file.room == "lib");
        Self {
            re_exports: root.map_or(BTreeMap::new(), |root| re_exports(&root.code)),
            rooms: files.iter().map(|file| file.room.clone()).collect(),
            files,
        }
    }

    /// Collects the arrows between rooms, or a complaint for each name that leads nowhere.
    fn arrows(&self) -> (Vec<Arrow>, Vec<String>) {
        let (mut arrows, mut unknown) = (Vec::new(), Vec::new());
        let methods = self.methods();

        // The root declares and offers everything: it has no arrows of its own.
        for file in self.files.iter().filter(|file| file.room != "lib") {
            let mut add = |to: &str, by, item: String, at| {
                if to != file.room {
                    arrows.push(Arrow {
                        from: file.room.clone(),
                        to: to.to_owned(),
                        by,
                        item,
                        file: file.name.clone(),
                        line: Source::line_at(&file.code, at),
                    });
                }
            };

            for (at, path) in file.names() {
                let first = path.split("::").next().unwrap_or_default();
                if self.rooms.contains(first) {
                    add(first, By::Name, path.clone(), at);
                } else if let Some(room) = self.re_exports.get(first) {
                    add(room, By::Name, path, at);
                } else {
                    let line = Source::line_at(&file.code, at);
                    unknown.push(format!("{}:{line}: no room has `{path}`", file.name));
                }
            }

            for (at, types, method) in file.calls() {
                let defined = types
                    .iter()
                    .find_map(|ty| Some((ty, methods.get(&(ty.clone(), method.clone()))?)));
                let Some((ty, rooms)) = defined else {
                    continue;
                };
                if !rooms.contains(&file.room) {
                    for room in rooms {
                        add(room, By::Call, format!("{ty}::{method}"), at);
                    }
                }
            }
        }
        (arrows, unknown)
    }

    /// Returns the types that have methods in several rooms.
    fn spread(&self) -> BTreeSet<String> {
        let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for ((ty, _), of) in self.methods() {
            rooms.entry(ty).or_default().extend(of);
        }
        rooms.retain(|_, rooms| rooms.len() > 1);
        rooms.into_keys().collect()
    }

    /// Returns the rooms that define each method, by type and name.
    fn methods(&self) -> BTreeMap<(String, String), BTreeSet<String>> {
        let mut methods: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for file in &self.files {
            for region in file.impls().iter().filter(|region| region.inherent) {
                let body = &file.code[region.open..region.close];
                let mut from = 0;
                while let Some(at) = find_word(body, "fn", from) {
                    from = at + 2;
                    let name = word(body[from..].trim_start());
                    let key = (region.name.clone(), name.to_owned());
                    methods.entry(key).or_default().insert(file.room.clone());
                }
            }
        }
        methods
    }
}

/// Returns the rank of a room.
fn rank(ranks: Ranks, room: &str) -> Option<u32> {
    ranks
        .iter()
        .find(|(name, _)| *name == room)
        .map(|(_, rank)| *rank)
}

/// Returns a complaint for each arrow that does not lead down, and for each room without a rank.
fn complaints(house: &House, ranks: Ranks) -> Vec<String> {
    let (arrows, unknown) = house.arrows();
    let mut found: Vec<String> = unknown
        .iter()
        .map(|unknown| format!("{unknown}; arrows-down: offer it in lib.rs, or name its room"))
        .collect();
    for file in house
        .files
        .iter()
        .filter(|f| rank(ranks, &f.room).is_none())
    {
        found.push(format!(
            "{}: arrows-down: room `{}` has no rank; give it one in tests/house/layers.rs",
            file.name, file.room
        ));
    }

    for arrow in arrows.iter().filter(|arrow| leads_up(arrow, ranks)) {
        let Arrow {
            from,
            to,
            item,
            file,
            line,
            by,
        } = arrow;
        let verb = if *by == By::Name { "names" } else { "calls" };
        found.push(format!(
            "{file}:{line}: arrows-down: {from} {verb} `{item}` of {to}, which is not below it; \
             move one of them, or pass what is needed as an argument"
        ));
    }
    found
}

/// Returns whether an arrow leads to a room that is not lower, or not ranked.
fn leads_up(arrow: &Arrow, ranks: Ranks) -> bool {
    match (rank(ranks, &arrow.from), rank(ranks, &arrow.to)) {
        (Some(from), Some(to)) => from <= to,
        _ => true,
    }
}

/// Prints rooms, arrows up and rooms that depend on each other.
fn report(house: &House, ranks: Ranks) -> String {
    let mut text = String::new();
    let mut rooms: Vec<_> = house.rooms.iter().collect();
    rooms.sort_by_key(|room| (rank(ranks, room), room.as_str()));
    writeln!(text, "rank room            files lines  code").unwrap();
    for room in rooms {
        let of = || house.files.iter().filter(|file| file.room == *room);
        let lines: usize = of().map(|file| file.lines).sum();
        let code: usize = of().map(|file| file.code_lines).sum();
        let rank = rank(ranks, room).map_or("?".to_owned(), |rank| rank.to_string());
        writeln!(
            text,
            "{rank:>4} {room:<15} {:>5} {lines:>5} {code:>5}",
            of().count()
        )
        .unwrap();
    }

    let (arrows, unknown) = house.arrows();
    for (by, what) in [(By::Name, "names"), (By::Call, "calls")] {
        let of = |arrow: &&Arrow| arrow.by == by;
        let all: Vec<&Arrow> = arrows.iter().filter(of).collect();
        let up: Vec<&Arrow> = all.iter().copied().filter(|a| leads_up(a, ranks)).collect();
        writeln!(
            text,
            "\narrows by {what}: {} places between {} pairs of rooms; up: {} between {} pairs",
            all.len(),
            pairs(&all).len(),
            up.len(),
            pairs(&up).len()
        )
        .unwrap();
        if by == By::Call {
            for ty in house.spread() {
                let method = format!("{ty}::");
                let of = |arrow: &&&Arrow| arrow.item.starts_with(&method);
                let (all, up) = (all.iter().filter(of).count(), up.iter().filter(of).count());
                writeln!(
                    text,
                    "methods of {ty}, in several rooms: {all} places; up: {up}"
                )
                .unwrap();
            }
        }
        for ((from, to), items) in pairs(&up) {
            let of = |a: &&&Arrow| a.from == from && a.to == to;
            let places = up.iter().filter(of).count();
            let items: Vec<_> = items.into_iter().collect();
            writeln!(
                text,
                "  {from} -> {to}: {places} places, {} {what}: {}",
                items.len(),
                items.join(" ")
            )
            .unwrap();
        }
    }

    writeln!(text, "\ncalls between rooms, foundations apart (^: up):").unwrap();
    let vm = |room: &str| rank(ranks, room).is_none_or(|rank| rank >= VM);
    let calls: Vec<&Arrow> = arrows
        .iter()
        .filter(|a| a.by == By::Call && vm(&a.to))
        .collect();
    for ((from, to), items) in pairs(&calls) {
        let of = |a: &&&Arrow| a.from == from && a.to == to;
        let up = calls.iter().find(of).is_some_and(|a| leads_up(a, ranks));
        let (mark, places) = (if up { "^" } else { " " }, calls.iter().filter(of).count());
        writeln!(
            text,
            "{mark} {from} -> {to}: {places} places, {} calls",
            items.len()
        )
        .unwrap();
    }

    let all: Vec<&Arrow> = arrows.iter().collect();
    let all = pairs(&all);
    let mutual: Vec<String> = all
        .keys()
        .filter(|(a, b)| a < b && all.contains_key(&(b.clone(), a.clone())))
        .map(|(a, b)| format!("{a}+{b}"))
        .collect();
    writeln!(
        text,
        "\nrooms that depend on each other: {} pairs: {}",
        mutual.len(),
        mutual.join(" ")
    )
    .unwrap();
    for unknown in unknown {
        writeln!(text, "{unknown}").unwrap();
    }
    text
}

/// Sorts arrows by rooms, with the items of each.
fn pairs(arrows: &[&Arrow]) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut pairs: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for arrow in arrows {
        let key = (arrow.from.clone(), arrow.to.clone());
        pairs.entry(key).or_default().insert(arrow.item.clone());
    }
    pairs
}

#[test]
fn arrows_down() {
    let house = House::new(&tree(project(), "src"));
    println!("{}", report(&house, RANKS));
    let found = complaints(&house, RANKS);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Ranks = &[("low", 1), ("middle", 2), ("high", 3), ("lib", 9)];

    /// Builds a house of these files, given by name and text.
    fn house(files: &[(&str, &str)]) -> House {
        let sources = files
            .iter()
            .map(|(name, text)| Source::new("src", name, text));
        House::new(&sources.collect::<Vec<_>>())
    }

    /// Returns the arrows of a house as `from -> to item`.
    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let (arrows, unknown) = house(files).arrows();
        assert!(unknown.is_empty(), "{unknown:?}");
        arrows
            .iter()
            .map(|a| format!("{} -> {} {}", a.from, a.to, a.item))
            .collect()
    }

    #[test]
    fn names_come_apart() {
        let text =
            "use crate::{low::{A, b::C}, low::D as E, middle};\nfn f() { crate::low::g::<u8>() }";
        assert_eq!(
            arrows(&[("low.rs", ""), ("middle/mod.rs", ""), ("high/mod.rs", text)]),
            [
                "high -> low low::A",
                "high -> low low::b",
                "high -> low low::D",
                "high -> middle middle",
                "high -> low low::g",
            ]
        );
    }

    #[test]
    fn offers_of_the_root_lead_to_their_rooms() {
        let root = "pub use low::{A, inner::B};\npub use crate::middle::C;\nmod low;\n";
        let text = "use crate::{A, B, C};\n";
        assert_eq!(
            arrows(&[
                ("lib.rs", root),
                ("low.rs", ""),
                ("middle.rs", ""),
                ("high.rs", text)
            ]),
            ["high -> low A", "high -> low B", "high -> middle C"]
        );
    }

    #[test]
    fn super_leads_to_rooms_only_from_the_first_floor() {
        let text = "\
use super::low::A;
mod inner {
    use super::B;
    use super::super::low::C;
}
";
        let files = [
            ("low.rs", ""),
            ("high/deep.rs", "use super::low::A;\n"),
            ("high/mod.rs", text),
        ];
        assert_eq!(arrows(&files), ["high -> low low::A", "high -> low low::C"]);
    }

    #[test]
    fn docs_literals_and_tests_name_nothing() {
        let text = "/// [`crate::low::A`]\nconst A: &str = \"crate::low\";\npub(crate) fn f() {}\n\
                    #[cfg(test)]\nmod tests {\n    use crate::low::A;\n}\n";
        let files = [
            ("low.rs", ""),
            ("high/tests/a.rs", "use crate::low::A;\n"),
            ("high.rs", text),
        ];
        assert!(arrows(&files).is_empty());
    }

    #[test]
    fn calls_lead_to_the_room_that_defines_the_method() {
        let low = "\
impl<H: Host> Vgic<H> {
    fn insert(&self) { self.tell() }
}
";
        let high = "\
impl<H: Host<A = [u8; 2]>> crate::low::Vgic<H> {
    pub(crate) fn tell(&self) {}
    fn host(&self) {}
}
impl Execution {
    fn f(&self) {
        self.vgic
            .insert();
        self.insert();
        Vgic::<H>::insert(&self.vgic()?);
    }
}
";
        assert_eq!(
            arrows(&[("low.rs", low), ("high.rs", high)]),
            [
                "low -> high Vgic::tell",
                "high -> low low::Vgic",
                "high -> low Vgic::insert",
                "high -> low Vgic::insert",
            ]
        );
    }

    #[test]
    fn traits_define_no_methods_here() {
        let low = "impl Drop for Vgic {\n    fn drop(&mut self) { self.end() }\n}\n";
        let high =
            "impl Vgic {\n    fn end(&self) { self.drop() }\n}\nfn f() -> impl Fn() { g() }\n";
        assert_eq!(
            arrows(&[("low.rs", low), ("high.rs", high)]),
            ["low -> high Vgic::end"]
        );
    }

    #[test]
    fn arrows_up_fail() {
        let of = |files: &[(&str, &str)]| complaints(&house(files), SMALL);
        let good = [
            ("low.rs", "use crate::low::A;"),
            ("high.rs", "use crate::low::A;"),
        ];
        assert!(of(&good).is_empty());

        let up = of(&[("low.rs", "\nuse crate::high::A;\n"), ("high.rs", "")]);
        assert_eq!(up.len(), 1);
        assert!(up[0].starts_with("src/low.rs:2: arrows-down: low names `high::A` of high"));

        let method = "impl Vgic {\n    fn a(&self) {}\n}\n";
        let up = of(&[("low.rs", "fn f() { vgic.a() }"), ("high.rs", method)]);
        assert_eq!(up.len(), 1);
        assert!(up[0].starts_with("src/low.rs:1: arrows-down: low calls `Vgic::a` of high"));
    }

    #[test]
    fn what_the_table_does_not_know_fails() {
        let found = complaints(&house(&[("new/mod.rs", "")]), SMALL);
        assert!(found[0].starts_with("src/new/mod.rs: arrows-down: room `new` has no rank"));
        let found = complaints(&house(&[("low.rs", "use crate::Gone;")]), SMALL);
        assert!(found[0].starts_with("src/low.rs:1: no room has `Gone`"));
    }

    #[test]
    fn no_room_is_ranked_twice() {
        let names: BTreeSet<_> = RANKS.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), RANKS.len());
    }

    #[test]
    fn the_report_tells_rooms_and_arrows() {
        let house = house(&[
            ("low.rs", "use crate::high::A;\n"),
            ("high.rs", "use crate::low::A;"),
        ]);
        let text = report(&house, SMALL);
        assert!(
            text.contains("   1 low                 1     1     1"),
            "{text}"
        );
        assert!(
            text.contains("low -> high: 1 places, 1 names: high::A"),
            "{text}"
        );
        assert!(text.contains("1 pairs: high+low"), "{text}");
    }
}
