//! The pages: every relative link leads to a file, and every anchor to a heading; lines end at 100
//! columns.
//!
//! The reader knows fences, code spans and inline links, which is all Markdown that the pages have.
//! Links to other sites are not followed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::prose::COLUMNS;
use crate::source::project;

/// Pages outside `docs/`.
const PAGES: [&str; 4] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
];

/// Link of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Link {
    /// Counted from 1.
    line: usize,
    /// Path as written, without the anchor; empty for a heading of the page itself.
    path: String,
    anchor: Option<String>,
}

/// Returns the lines outside fences, each with its number.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.push((index + 1, line));
        }
    }
    found
}

/// Collects the links of a page that do not lead to other sites.
fn links(text: &str) -> Vec<Link> {
    let mut found = Vec::new();
    for (line, text) in prose(text) {
        // A link in a code span is text. The label of a link may have a code span.
        let mut in_code = false;
        for (at, c) in text.char_indices() {
            in_code ^= c == '`';
            let Some(target) = text[at..].strip_prefix("](").filter(|_| !in_code) else {
                continue;
            };
            let target = target.split([')', ' ']).next().unwrap_or_default();
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = match target.split_once('#') {
                Some((path, anchor)) => (path, Some(anchor.to_owned())),
                None => (target, None),
            };
            found.push(Link {
                line,
                path: path.to_owned(),
                anchor,
            });
        }
    }
    found
}

/// Returns the anchors of a page: a heading in small letters, with `-` for each space, and without
/// any other mark than `-` and `_`. A heading that comes again has a number.
fn anchors(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        let level = line.len() - heading.len();
        if !(1..=6).contains(&level) || !heading.starts_with(' ') {
            continue;
        }
        let slug: String = heading
            .trim()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .flat_map(char::to_lowercase)
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut anchor = slug.clone();
        let mut again = 0;
        while found.contains(&anchor) {
            again += 1;
            anchor = format!("{slug}-{again}");
        }
        found.push(anchor);
    }
    found
}

/// Returns the complaint about a link of the page `page`, if its file or heading does not exist.
fn complaint(page: &Path, link: &Link) -> Option<String> {
    let target = if link.path.is_empty() {
        page.to_owned()
    } else {
        page.parent().unwrap_or(Path::new("")).join(&link.path)
    };
    if !target.exists() {
        return Some(format!("there is no {}", link.path));
    }

    let anchor = link.anchor.as_ref()?;
    let text = fs::read_to_string(&target).unwrap_or_default();
    let known =
        target.extension().is_some_and(|ext| ext == "md") && anchors(&text).contains(anchor);
    (!known).then(|| format!("{} has no heading #{anchor}", target.display()))
}

/// Returns the pages of the project.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(project().join("docs")).expect("docs/ is readable");
    let docs = docs.map(|entry| entry.expect("an entry of docs/ is readable").path());
    let mut pages: Vec<PathBuf> = docs
        .filter(|path| path.extension().is_some_and(|ext| ext == "md"))
        .chain(PAGES.map(|page| project().join(page)))
        .collect();
    pages.sort();
    pages
}

#[test]
fn links_lead_somewhere() {
    let (mut dead, mut seen) = (Vec::new(), 0);
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page is readable");
        for link in links(&text) {
            seen += 1;
            if let Some(complaint) = complaint(&page, &link) {
                dead.push(format!("{}:{}: {complaint}", page.display(), link.line));
            }
        }
    }
    assert!(seen > 50, "only {seen} links are seen");
    assert!(dead.is_empty(), "\n{}", dead.join("\n"));
}

/// Returns true if a line has more columns than it may: one that can be wrapped, which rows of
/// tables, definitions of links and lines without a space cannot.
fn is_wide(line: &str) -> bool {
    let breaks = line.trim().contains(' ') && !line.starts_with(['|', '[']);
    breaks && line.chars().count() > COLUMNS
}

#[test]
fn lines_of_pages_are_wrapped() {
    let mut wide = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page is readable");
        for (number, _) in prose(&text).iter().filter(|(_, line)| is_wide(line)) {
            wide.push(format!("{}:{number}", page.display()));
        }
    }
    assert!(
        wide.is_empty(),
        "wrap at {COLUMNS} columns:\n{}",
        wide.join("\n")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_told_from_code_and_from_other_sites() {
        let text = "\
[a](b.md) and [`c`](../d.rs#e), [f](https://g.h/i#j)
`[k](l.md)`
```rust
[m](n.md)
```
[o](#p)
";
        let found = links(text);
        let found: Vec<_> = found
            .iter()
            .map(|link| (link.line, link.path.as_str(), link.anchor.as_deref()))
            .collect();
        assert_eq!(
            found,
            [
                (1, "b.md", None),
                (1, "../d.rs", Some("e")),
                (6, "", Some("p"))
            ]
        );
    }

    #[test]
    fn headings_become_anchors() {
        let text = "\
# How it is: `Code_1`, and-so
#no heading
```
# no heading
```
## Twice
## Twice
";
        assert_eq!(
            anchors(text),
            ["how-it-is-code_1-and-so", "twice", "twice-1"]
        );
    }

    #[test]
    fn dead_links_are_seen() {
        let page = project().join("docs/proof.md");
        let link = |path: &str, anchor: Option<&str>| Link {
            line: 1,
            path: path.to_owned(),
            anchor: anchor.map(str::to_owned),
        };
        assert_eq!(complaint(&page, &link("decisions.md", None)), None);
        assert_eq!(complaint(&page, &link("", Some("mutants"))), None);
        assert_eq!(complaint(&page, &link("proof.md", Some("models"))), None);
        assert!(complaint(&page, &link("decision.md", None)).is_some());
        assert!(complaint(&page, &link("decisions.md", Some("mutants"))).is_some());
        assert!(complaint(&page, &link("", Some("mutant"))).is_some());
        assert!(complaint(&page, &link("../Cargo.toml", Some("package"))).is_some());
    }
}
