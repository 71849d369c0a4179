//! Rust files, read line by line into code, comments and tests.
//!
//! The reader is no parser. It knows comments, literals and braces, which is all that the gates
//! need, and it relies on the tree being formatted by rustfmt.

use std::fs;
use std::path::{Path, PathBuf};

/// Kind of a comment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// `///`, about the item below.
    Doc,
    /// `//!`, about the file.
    ModuleDoc,
    /// `//` or `/* */`.
    Plain,
}

/// Comment of one line, or the part of a longer one that stands on this line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Comment {
    pub(crate) kind: Kind,
    /// Text without the marker, trimmed.
    pub(crate) text: String,
    /// No code stands before the comment.
    pub(crate) alone: bool,
}

/// One line of a file.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Counted from 1.
    pub(crate) number: usize,
    /// The line as written.
    pub(crate) text: String,
    /// The line with its comments and the insides of its literals blanked out, column for column.
    pub(crate) code: String,
    /// Something other than a comment stands here; the inside of a literal counts.
    pub(crate) has_code: bool,
    pub(crate) comment: Option<Comment>,
    /// The line belongs to the body of a tests module, or the whole file is tests.
    pub(crate) in_tests: bool,
}

/// One Rust file.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Path from the root of the project.
    pub(crate) name: String,
    /// Path from the folder that was walked: `vcpu/mod.rs` of `src/vcpu/mod.rs`.
    pub(crate) below: String,
    pub(crate) lines: Vec<Line>,
}

impl Source {
    /// Reads the text of the file `below` in the folder `root`.
    pub(crate) fn new(root: &str, below: &str, text: &str) -> Self {
        let mut source = Self {
            name: format!("{root}/{below}"),
            below: below.to_owned(),
            lines: lines(text),
        };
        source.mark_tests();
        if source.is_tests() {
            source
                .lines
                .iter_mut()
                .for_each(|line| line.in_tests = true);
        }
        source
    }

    /// Returns whether the whole file is tests.
    pub(crate) fn is_tests(&self) -> bool {
        self.below.starts_with("tests/")
            || self.below.contains("/tests/")
            || self.below == "tests.rs"
            || self.below.ends_with("/tests.rs")
    }

    /// Returns the lines outside of tests.
    pub(crate) fn shipped(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.in_tests)
    }

    /// Returns the code outside of tests as one text. Lines of tests are empty in it, so that
    /// [`Source::line_at`] finds the way back.
    pub(crate) fn shipped_code(&self) -> String {
        let mut code = String::new();
        for line in &self.lines {
            if !line.in_tests {
                code.push_str(&line.code);
            }
            code.push('\n');
        }
        code
    }

    /// Returns the number of the line that byte `at` of [`Source::shipped_code`] stands on.
    pub(crate) fn line_at(code: &str, at: usize) -> usize {
        code[..at].matches('\n').count() + 1
    }

    /// Marks the bodies of tests modules. A declaration (`mod tests;`) has no body.
    ///
    /// # Panics
    /// If a body does not end.
    fn mark_tests(&mut self) {
        let code = self.lines.iter().map(|l| l.code.as_str());
        let code = code.collect::<Vec<_>>().join("\n");
        let mut from = 0;
        while let Some((start, open)) = tests_body(&code, from) {
            let close = matching(&code, open)
                .unwrap_or_else(|| panic!("{}: the body of its tests does not end", self.name));
            let (first, last) = (Self::line_at(&code, start), Self::line_at(&code, close));
            for line in &mut self.lines[first - 1..last] {
                line.in_tests = true;
            }
            from = close;
        }
    }
}

/// Finds the next body of a tests module from byte `from` on: `mod tests {` below a `cfg` that
/// names `test`. Returns where `mod` stands and where the brace does.
fn tests_body(code: &str, mut from: usize) -> Option<(usize, usize)> {
    loop {
        let start = find_word(code, "mod", from)?;
        from = start + "mod".len();

        let rest = code[from..].trim_start();
        let Some(rest) = rest.strip_prefix("tests") else {
            continue;
        };
        let rest = rest.trim_start();
        if !rest.starts_with('{') {
            continue;
        }

        let attributes = code[..start].rsplit([';', '{', '}']).next().unwrap_or("");
        if find_word(attributes, "cfg", 0).is_some() && find_word(attributes, "test", 0).is_some() {
            return Some((start, code.len() - rest.len()));
        }
    }
}

/// Finds `word` from byte `from` on, where no letter, digit or underscore touches it.
pub(crate) fn find_word(code: &str, word: &str, from: usize) -> Option<usize> {
    code[from..].match_indices(word).find_map(|(at, _)| {
        let at = from + at;
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        (!before.is_some_and(is_word) && !after.is_some_and(is_word)).then_some(at)
    })
}

/// Returns whether `c` may stand in an identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Finds the end of the group that the bracket at byte `open` begins.
pub(crate) fn matching(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(open + at);
        }
    }
    None
}

/// State of the reader between two characters.
#[derive(Clone, Copy)]
enum State {
    Code,
    LineComment(Kind),
    /// Block comments nest.
    BlockComment(usize),
    /// A string, and the number of `#` of a raw one.
    Text(Option<usize>),
}

/// Splits a text into lines.
fn lines(text: &str) -> Vec<Line> {
    let mut found = Vec::new();
    let mut state = State::Code;
    for (index, text) in text.lines().enumerate() {
        let mut line = Line {
            number: index + 1,
            text: text.to_owned(),
            code: String::with_capacity(text.len()),
            has_code: false,
            comment: None,
            in_tests: false,
        };
        state = read_line(&mut line, state);
        found.push(line);
    }
    found
}

/// Reads one line that begins in `state`, and returns the state at its end.
fn read_line(line: &mut Line, mut state: State) -> State {
    let chars: Vec<char> = line.text.chars().collect();
    let mut comment: Option<(Kind, String)> = None;
    let mut at = 0;

    while at < chars.len() {
        let rest = &chars[at..];
        let mut taken = 1;
        match state {
            State::Code => {
                (state, taken) = read_code(&chars, at);
                match state {
                    State::LineComment(kind) => comment = Some((kind, String::new())),
                    State::BlockComment(_) => comment = Some((Kind::Plain, String::new())),
                    State::Code | State::Text(_) => {
                        let seen = &rest[..taken];
                        line.has_code |= seen.iter().any(|c| !c.is_whitespace());
                        // Of a literal only its first and last characters are kept.
                        for (n, c) in seen.iter().enumerate() {
                            let inside = taken > 1 && n > 0 && n + 1 < taken;
                            line.code.push(if inside { ' ' } else { *c });
                        }
                        at += taken;
                        continue;
                    }
                }
            }
            State::LineComment(kind) => {
                comment.get_or_insert((kind, String::new())).1.push(rest[0]);
            }
            State::BlockComment(depth) => {
                let comment = &mut comment.get_or_insert((Kind::Plain, String::new())).1;
                match rest {
                    ['/', '*', ..] => (state, taken) = (State::BlockComment(depth + 1), 2),
                    ['*', '/', ..] if depth == 1 => (state, taken) = (State::Code, 2),
                    ['*', '/', ..] => (state, taken) = (State::BlockComment(depth - 1), 2),
                    _ => comment.push(rest[0]),
                }
            }
            State::Text(hashes) => {
                line.has_code |= !rest[0].is_whitespace();
                if let Some(end) = ends_text(rest, hashes) {
                    line.code.push('"');
                    line.code.extend((1..end).map(|_| ' '));
                    state = State::Code;
                    at += end;
                    continue;
                }
                if rest[0] == '\\' && hashes.is_none() {
                    taken = rest.len().min(2);
                }
            }
        }
        line.code.extend((0..taken).map(|_| ' '));
        at += taken;
    }

    if let Some((kind, text)) = comment {
        line.comment = Some(Comment {
            kind,
            text: text.trim().to_owned(),
            alone: !line.has_code,
        });
    }
    match state {
        State::LineComment(_) => State::Code,
        state => state,
    }
}

/// Reads code from `at` on: returns what begins there, and how many characters that takes.
fn read_code(chars: &[char], at: usize) -> (State, usize) {
    let touches = at > 0 && is_word(chars[at - 1]);
    match chars[at..] {
        ['/', '/', '/', '/', ..] => (State::LineComment(Kind::Plain), 4),
        ['/', '/', '/', ..] => (State::LineComment(Kind::Doc), 3),
        ['/', '/', '!', ..] => (State::LineComment(Kind::ModuleDoc), 3),
        ['/', '/', ..] => (State::LineComment(Kind::Plain), 2),
        ['/', '*', ..] => (State::BlockComment(1), 2),
        ['"', ..] => (State::Text(None), 1),
        ['r', ..] if !touches => raw_text(chars, at, 1),
        ['b' | 'c', 'r', ..] if !touches => raw_text(chars, at, 2),
        ['\'', '\\', _, ..] => {
            let end = chars[at + 3..].iter().position(|c| *c == '\'');
            (State::Code, end.map_or(1, |end| end + 4))
        }
        ['\'', _, '\'', ..] => (State::Code, 3),
        _ => (State::Code, 1),
    }
}

/// Reads what may be a raw string, whose prefix has `prefix` letters.
fn raw_text(chars: &[char], at: usize, prefix: usize) -> (State, usize) {
    let rest = &chars[at + prefix..];
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    if rest.get(hashes) == Some(&'"') {
        (State::Text(Some(hashes)), prefix + hashes + 1)
    } else {
        (State::Code, 1)
    }
}

/// Returns how many characters the end of a string takes, if it ends here.
fn ends_text(rest: &[char], hashes: Option<usize>) -> Option<usize> {
    let hashes = hashes.unwrap_or(0);
    let closed = rest[0] == '"' && rest.len() > hashes;
    (closed && rest[1..=hashes].iter().all(|c| *c == '#')).then_some(1 + hashes)
}

/// Returns the root of the project.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads all Rust files in `folder` of `project`, in the order of their names.
///
/// # Panics
/// If there is none.
pub(crate) fn tree(project: &Path, folder: &str) -> Vec<Source> {
    let root = project.join(folder);
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    assert!(
        !files.is_empty(),
        "{} holds no Rust file: mend the list of folders in tests/house",
        root.display()
    );
    files
        .iter()
        .map(|path| {
            let below = path.strip_prefix(&root).unwrap().to_str().unwrap();
            Source::new(folder, below, &fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Collects the Rust files of a folder and of those in it.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the numbers of the lines that a gate looks at.
    fn shipped(text: &str) -> Vec<usize> {
        let source = Source::new("src", "room.rs", text);
        source.shipped().map(|line| line.number).collect()
    }

    #[test]
    fn a_declaration_of_tests_cuts_nothing() {
        let text = "#[cfg(all(test, not(loom)))]\nmod tests;\n\nfn after() {}\n";
        assert_eq!(shipped(text), [1, 2, 3, 4]);
    }

    #[test]
    fn only_the_body_of_tests_is_cut() {
        let text =
            "fn before() {}\n#[cfg(test)]\nmod tests {\n    fn t() {\n    }\n}\n\nfn after() {}";
        assert_eq!(shipped(text), [1, 2, 7, 8]);
        let text = "#[cfg(all(test, debug_assertions))]\npub(super) mod tests {\n}\nfn after() {}";
        assert_eq!(shipped(text), [1, 4]);
    }

    #[test]
    fn braces_in_literals_and_comments_end_nothing() {
        let text = r##"#[cfg(test)]
mod tests {
    const A: &str = "}"; // }
    const B: char = '}';
    const C: char = '\'';
    const D: &str = r#"}"}"#;
    /* } /* } */ } */
    fn f<'a>(_: &'a str) {}
}
fn after() {}"##;
        assert_eq!(shipped(text), [1, 10]);
    }

    #[test]
    fn a_module_that_ships_is_no_test_for_its_name() {
        assert_eq!(shipped("mod tests {\n}\n"), [1, 2]);
        assert_eq!(shipped("#[cfg(loom)]\nmod tests {\n}\n"), [1, 2, 3]);
        let text = "#[cfg(test)]\nuse a::b;\nmod tests {\n}\n";
        assert_eq!(shipped(text), [1, 2, 3, 4]);
    }

    #[test]
    fn words_about_tests_in_comments_cut_nothing() {
        let text = "// #[cfg(test)] mod tests {\nconst A: &str = \"#[cfg(test)] mod tests {\";\n";
        assert_eq!(shipped(text), [1, 2]);
    }

    #[test]
    #[should_panic(expected = "does not end")]
    fn a_body_without_an_end_is_an_error() {
        shipped("#[cfg(test)]\nmod tests {\n");
    }

    #[test]
    fn files_of_tests_are_known_by_name() {
        let is_tests = |below| Source::new("src", below, "").is_tests();
        assert!(is_tests("its/tests/mod.rs"));
        assert!(is_tests("its/tests.rs"));
        assert!(is_tests("tests.rs"));
        assert!(!is_tests("its/mod.rs"));
        assert!(!is_tests("contests.rs"));
    }

    #[test]
    fn lines_come_apart_into_code_and_comment() {
        let text = "//! Of the file.\n/// Of the item.\nlet a = \"// no\"; // yes\n";
        let lines = lines(text);
        let comments: Vec<_> = lines.iter().map(|l| l.comment.clone().unwrap()).collect();
        assert_eq!(comments[0].kind, Kind::ModuleDoc);
        assert_eq!(comments[0].text, "Of the file.");
        assert_eq!(comments[1].kind, Kind::Doc);
        assert!(comments[1].alone);
        assert_eq!(comments[2].kind, Kind::Plain);
        assert_eq!(comments[2].text, "yes");
        assert!(!comments[2].alone);
        assert_eq!(lines[2].code.trim_end(), "let a = \"     \";");
        assert_eq!(lines[2].code.len(), lines[2].text.len());
    }

    #[test]
    fn strings_go_on_over_lines() {
        let lines = lines("let a = \"one\n  crate::two \\\"\n three\"; b\n");
        assert!(lines[1].code.trim().is_empty());
        assert!(lines[1].has_code);
        assert_eq!(lines[2].code.trim(), "\"; b");
    }
}
