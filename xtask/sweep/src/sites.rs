//! The places of the code that have mutants.

use std::collections::BTreeMap;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{
    Arm, Attribute, BinOp, Block, Expr, ExprBinary, ExprCall, ExprIf, ExprMethodCall, ExprPath,
    FieldValue, FnArg, ImplItem, Item, ItemFn, ItemImpl, ItemMacro, ItemMod, ItemTrait, Macro, Pat,
    Signature, Stmt, TraitItem, Type,
};

use crate::cfg::left_out;
use crate::kind::Kind;

/// Orderings that can be weaker.
const ORDERINGS: [&str; 4] = ["Acquire", "Release", "AcqRel", "SeqCst"];

/// Functions that tell a vCPU or its CPU of work.
const NOTIFICATIONS: [&str; 2] = ["notify", "notify_vcpu"];

/// Methods of the embedder that tell a vCPU or its CPU of work.
const HOST_NOTIFICATIONS: [&str; 2] = ["kick", "wake"];

/// Methods that enter the epoch.
const GUARDS: [&str; 2] = ["guard", "first_guard"];

/// Methods that take a lock or publish: what is checked after them may have changed.
const TURNS: [&str; 13] = [
    "lock",
    "try_lock",
    "store",
    "swap",
    "compare_exchange",
    "compare_exchange_weak",
    "fetch_add",
    "fetch_sub",
    "fetch_or",
    "fetch_and",
    "fetch_update",
    "notify",
    "update",
];

/// Parameters that only code under a lock has.
const UNDER_LOCK: [&str; 2] = ["ApList", "AfterUnlock"];

/// The modules of what the models use, and of the deliberate faults.
const FOR_MODELS: [&str; 3] = ["internals", "mutant", "mutant_hooks"];

/// A mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    /// The file, below `src/`.
    pub(crate) file: String,
    /// The function, with its type.
    function: String,
    pub(crate) kind: Kind,
    /// The place among those of the kind in the function, from 1.
    place: usize,
    /// The weaker ordering and the one it stands for, or empty.
    change: String,
    /// The line, for people.
    pub(crate) line: usize,
}

impl Mutant {
    /// Returns the name, which other changes of the file leave as it is.
    pub(crate) fn name(&self) -> String {
        let Self {
            file,
            function,
            place,
            change,
            ..
        } = self;
        let kind = self.kind.name();
        format!("{file} {function} {kind} {place} {change}")
            .trim_end()
            .to_owned()
    }
}

/// A text that goes into the code at a place, so that mutants can be selected at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Insertion {
    at: usize,
    text: String,
}

/// A file of the library, read for mutants.
pub(crate) struct Reader<'m> {
    file: String,
    mutants: &'m mut Vec<Mutant>,
    opening: Vec<Insertion>,
    closing: Vec<Insertion>,
    /// Modules declared in the file, whose files are to be read.
    pub(crate) modules: Vec<String>,
    /// Orderings that the reader finds and cannot weaken.
    pub(crate) missed: Vec<String>,
    /// Names of the modules, types and functions around the place.
    around: Vec<String>,
    /// Number of functions around the place.
    functions: usize,
    /// True behind a lock or a publication in the function.
    after_turn: bool,
    counts: BTreeMap<(String, Kind), usize>,
}

impl<'m> Reader<'m> {
    /// Begins a file, adding its mutants to those of other files.
    pub(crate) fn new(file: &str, mutants: &'m mut Vec<Mutant>) -> Self {
        Self {
            file: file.to_owned(),
            mutants,
            opening: Vec::new(),
            closing: Vec::new(),
            modules: Vec::new(),
            missed: Vec::new(),
            around: Vec::new(),
            functions: 0,
            after_turn: false,
            counts: BTreeMap::new(),
        }
    }

    /// Reads the file's text, and returns it with the switches of its mutants.
    pub(crate) fn read(&mut self, text: &str) -> syn::Result<String> {
        let tree = syn::parse_file(text)?;
        if left_out(&tree.attrs) {
            return Ok(text.to_owned());
        }
        self.visit_file(&tree);
        Ok(self.inserted(text))
    }

    /// Inserts the switches into the file's text.
    fn inserted(&mut self, text: &str) -> String {
        // At one place, texts that close come before texts that open. Of those that open, the
        // outer was found first; of those that close, the inner.
        let closing = self.closing.drain(..).map(|insertion| (0, insertion));
        let opening = self.opening.drain(..).map(|insertion| (1, insertion));
        let mut insertions: Vec<_> = closing.chain(opening).collect();
        insertions.sort_by_key(|(order, insertion)| (insertion.at, *order));

        let mut out = String::with_capacity(text.len() * 2);
        let mut from = 0;
        for (_, Insertion { at, text: new }) in insertions {
            out.push_str(&text[from..at]);
            out.push_str(&new);
            from = at;
        }
        out.push_str(&text[from..]);
        out
    }

    /// Adds a mutant at a place of the code; returns its number.
    fn add(&mut self, kind: Kind, place: usize, change: &str, at: &impl Spanned) -> usize {
        self.mutants.push(Mutant {
            file: self.file.clone(),
            function: self.around.join("::"),
            kind,
            place,
            change: change.to_owned(),
            line: at.span().start().line,
        });
        self.mutants.len() - 1
    }

    /// Counts a place of a kind in the function.
    fn place(&mut self, kind: Kind) -> usize {
        let count = self.counts.entry((self.around.join("::"), kind));
        let count = count.or_default();
        *count += 1;
        *count
    }

    /// Puts texts around a piece of code; returns once `inside` has read that piece.
    fn wrap(
        &mut self,
        at: &impl Spanned,
        before: String,
        after: &str,
        inside: impl FnOnce(&mut Self),
    ) {
        let range = at.span().byte_range();
        self.opening.push(Insertion {
            at: range.start,
            text: before,
        });
        inside(self);
        self.closing.push(Insertion {
            at: range.end,
            text: after.to_owned(),
        });
    }

    /// Has the mutant leave out an expression whose value is `()`.
    fn without(&mut self, kind: Kind, expr: &Expr, inside: impl FnOnce(&mut Self)) {
        let place = self.place(kind);
        let number = self.add(kind, place, "", expr);
        let before = format!("(if !crate::sync::sweep::is({number}) {{ ");
        self.wrap(expr, before, " })", inside);
    }

    /// Makes the mutant of a check that is not made, and reads the check.
    fn recheck(&mut self, checked: &ExprIf) {
        let place = self.place(Kind::Recheck);
        let number = self.add(Kind::Recheck, place, "", checked);
        let is_made = format!("crate::sync::sweep::is({number})");
        // The condition is still evaluated: it may take or change something.
        let (open, after) = match (leaves(&checked.then_branch), &*checked.cond) {
            (
                true,
                Expr::Binary(ExprBinary {
                    op: BinOp::Or(_), ..
                }),
            ) => ("(", format!(") && !{is_made}")),
            (true, _) => ("", format!(" && !{is_made}")),
            (false, _) => ("", format!(" || {is_made}")),
        };
        self.wrap(&checked.cond, open.to_owned(), &after, |reader| {
            reader.visit_expr(&checked.cond);
        });
        self.visit_block(&checked.then_branch);
    }

    /// Reads a function, and then what is behind it as it was before.
    fn function(&mut self, signature: &Signature, block: &Block, inside: impl FnOnce(&mut Self)) {
        let before = self.after_turn;
        let inputs = signature.inputs.iter();
        let types = inputs.filter_map(|input| match input {
            FnArg::Typed(typed) => Some(&*typed.ty),
            FnArg::Receiver(_) => None,
        });
        self.after_turn = types
            .filter_map(named)
            .any(|name| UNDER_LOCK.contains(&&*name));
        self.functions += 1;
        self.around.push(signature.ident.to_string());
        if signature.constness.is_some() {
            // A switch is no constant. No code has to be one that names an ordering.
            if names_an_ordering(&block.span().source_text().unwrap_or_default()) {
                self.missed
                    .push(format!("{}: const {}", self.file, signature.ident));
            }
        } else {
            inside(self);
        }
        self.around.pop();
        self.functions -= 1;
        self.after_turn = before;
    }

    /// Makes the mutants of an ordering.
    fn ordering(&mut self, expr: &impl Spanned, stronger: &str, access: Access) {
        let place = self.place(Kind::Order);
        let weaker: &[&str] = match (stronger, access) {
            ("AcqRel", _) => &["Acquire", "Release"],
            ("SeqCst", Access::Load) => &["Acquire"],
            ("SeqCst", Access::Store) => &["Release"],
            ("SeqCst", _) => &["AcqRel"],
            // A fence that is only Acquire or Release is nothing when it is weaker.
            (_, Access::Fence) => &[],
            _ => &["Relaxed"],
        };
        for weaker in weaker {
            let change = format!("{stronger} -> {weaker}");
            let number = self.add(Kind::Order, place, &change, expr);
            let before =
                format!("crate::sync::sweep::order({number}, crate::sync::Ordering::{weaker}, ");
            self.wrap(expr, before, ")", |_| ());
        }
    }
}

/// The access that an ordering is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Load,
    Store,
    Change,
    Fence,
}

/// Tells whether a text names an ordering that can be weaker.
fn names_an_ordering(text: &str) -> bool {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.into_iter().any(|word| ORDERINGS.contains(&word))
}

/// Returns the name of a type, references and generics aside.
fn named(ty: &Type) -> Option<String> {
    match ty {
        Type::Reference(reference) => named(&reference.elem),
        Type::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        _ => None,
    }
}

/// Returns the last name of a path.
fn last(path: &syn::Path) -> String {
    let segment = path.segments.last();
    segment.map_or_else(String::new, |segment| segment.ident.to_string())
}

/// Returns the name of the function that an expression calls by a path.
fn called(expr: &Expr) -> Option<String> {
    let Expr::Call(call) = expr else { return None };
    let Expr::Path(path) = &*call.func else {
        return None;
    };
    Some(last(&path.path))
}

/// Returns the ordering that an expression names, if it can be weaker.
fn ordering(expr: &Expr) -> Option<(&ExprPath, String)> {
    let Expr::Path(path) = expr else { return None };
    let name = last(&path.path);
    ORDERINGS.contains(&&*name).then_some((path, name))
}

/// Tells whether the deliberate faults of `sync/mutant.rs` alone make a condition true.
fn is_fault(condition: &Expr) -> bool {
    match condition {
        Expr::Unary(unary) => is_fault(&unary.expr),
        _ => called(condition).is_some_and(|name| name == "mutant"),
    }
}

/// Tells whether a condition binds what the block behind it uses, so that the block needs it.
fn binds(condition: &Expr) -> bool {
    match condition {
        Expr::Let(_) => true,
        Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

/// Tells whether a block ends by leaving the function, or the loop's round.
fn leaves(block: &Block) -> bool {
    let Some(Stmt::Expr(last, _)) = block.stmts.last() else {
        return false;
    };
    matches!(last, Expr::Return(_) | Expr::Break(_) | Expr::Continue(_))
}

/// Returns the attributes of an item.
fn of_item(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns the attributes of an expression that may stand where a statement does.
fn of_expr(expr: &Expr) -> &[Attribute] {
    match expr {
        Expr::Assign(expr) => &expr.attrs,
        Expr::Block(expr) => &expr.attrs,
        Expr::Call(expr) => &expr.attrs,
        Expr::ForLoop(expr) => &expr.attrs,
        Expr::If(expr) => &expr.attrs,
        Expr::Loop(expr) => &expr.attrs,
        Expr::Match(expr) => &expr.attrs,
        Expr::MethodCall(expr) => &expr.attrs,
        Expr::Return(expr) => &expr.attrs,
        Expr::Unsafe(expr) => &expr.attrs,
        Expr::While(expr) => &expr.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !left_out(of_item(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        let name = module.ident.to_string();
        if FOR_MODELS.contains(&&*name) {
            return;
        }
        if module.content.is_none() {
            self.modules.push(name);
            return;
        }
        self.around.push(name);
        visit::visit_item_mod(self, module);
        self.around.pop();
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        self.around.push(named(&item.self_ty).unwrap_or_default());
        visit::visit_item_impl(self, item);
        self.around.pop();
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.around.push(item.ident.to_string());
        visit::visit_item_trait(self, item);
        self.around.pop();
    }

    fn visit_item_macro(&mut self, item: &'ast ItemMacro) {
        if names_an_ordering(&item.mac.tokens.to_string()) {
            let name = item.ident.as_ref().map(ToString::to_string);
            let name = name.unwrap_or_else(|| last(&item.mac.path));
            self.missed.push(format!("{}: macro {name}", self.file));
        }
    }

    fn visit_macro(&mut self, found: &'ast Macro) {
        if names_an_ordering(&found.tokens.to_string()) {
            let line = found.span().start().line;
            self.missed
                .push(format!("{}:{line}: {}!", self.file, last(&found.path)));
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.function(&item.sig, &item.block, |reader| {
            reader.visit_block(&item.block);
        });
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let ImplItem::Fn(method) = item else { return };
        if !left_out(&method.attrs) {
            self.function(&method.sig, &method.block, |reader| {
                reader.visit_block(&method.block);
            });
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        let TraitItem::Fn(method) = item else { return };
        if let Some(block) = method.default.as_ref().filter(|_| !left_out(&method.attrs)) {
            self.function(&method.sig, block, |reader| reader.visit_block(block));
        }
    }

    fn visit_stmt(&mut self, stmt: &'ast Stmt) {
        let attributes = match stmt {
            Stmt::Local(local) => &local.attrs,
            Stmt::Item(item) => of_item(item),
            Stmt::Expr(expr, _) => of_expr(expr),
            Stmt::Macro(found) => &found.attrs,
        };
        if left_out(attributes) {
            return;
        }
        let fence = |expr: &Expr| called(expr).is_some_and(|name| name.ends_with("fence"));
        match stmt {
            Stmt::Expr(expr, Some(_)) if fence(expr) => {
                self.without(Kind::Fence, expr, |reader| {
                    visit::visit_stmt(reader, stmt);
                });
            }
            Stmt::Expr(Expr::If(checked), _)
                if self.after_turn
                    && checked.else_branch.is_none()
                    && (leaves(&checked.then_branch) || !binds(&checked.cond))
                    && !is_fault(&checked.cond) =>
            {
                self.recheck(checked);
            }
            _ => visit::visit_stmt(self, stmt),
        }
    }

    fn visit_expr_if(&mut self, expr: &'ast ExprIf) {
        if is_fault(&expr.cond) {
            // The code of a deliberate fault has no mutants.
            if let Some((_, otherwise)) = &expr.else_branch {
                self.visit_expr(otherwise);
            }
        } else {
            visit::visit_expr_if(self, expr);
        }
    }

    fn visit_expr(&mut self, expr: &'ast Expr) {
        let notifies = match expr {
            Expr::MethodCall(call) => HOST_NOTIFICATIONS.iter().any(|name| call.method == name),
            _ => called(expr).is_some_and(|name| NOTIFICATIONS.contains(&&*name)),
        };
        let guards = match expr {
            Expr::MethodCall(call) if call.args.is_empty() => {
                GUARDS.iter().any(|name| call.method == name)
            }
            _ => false,
        };
        if notifies {
            self.without(Kind::Notify, expr, |reader| {
                visit::visit_expr(reader, expr);
            });
        } else if guards && self.functions > 0 {
            let place = self.place(Kind::Guard);
            let number = self.add(Kind::Guard, place, "", expr);
            let before = format!("crate::sync::sweep::guard({number}, || ");
            self.wrap(expr, before, ")", |reader| visit::visit_expr(reader, expr));
        } else {
            visit::visit_expr(self, expr);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        self.visit_expr(&call.func);
        let fence = matches!(&*call.func, Expr::Path(path) if last(&path.path).ends_with("fence"));
        let access = if fence { Access::Fence } else { Access::Change };
        for argument in &call.args {
            match ordering(argument) {
                Some((path, name)) => self.ordering(path, &name, access),
                None => self.visit_expr(argument),
            }
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.visit_expr(&call.receiver);
        let name = call.method.to_string();
        let orderings = call.args.iter().filter(|arg| ordering(arg).is_some());
        let orderings = orderings.count();
        let mut seen = 0;
        for argument in &call.args {
            let Some((path, order)) = ordering(argument) else {
                self.visit_expr(argument);
                continue;
            };
            seen += 1;
            // Of two orderings, the second is that of the failure, which is a load.
            let access = match &*name {
                _ if orderings == 2 && seen == 2 => Access::Load,
                "load" => Access::Load,
                "store" => Access::Store,
                _ => Access::Change,
            };
            self.ordering(path, &order, access);
        }
        self.after_turn |= TURNS.contains(&&*name);
    }

    fn visit_expr_path(&mut self, path: &'ast ExprPath) {
        let name = last(&path.path);
        if ORDERINGS.contains(&&*name) {
            if self.functions > 0 {
                self.ordering(path, &name, Access::Change);
            } else {
                self.missed.push(format!("{}: a constant", self.file));
            }
        }
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        if !left_out(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_field_value(&mut self, field: &'ast FieldValue) {
        if !left_out(&field.attrs) {
            visit::visit_field_value(self, field);
        }
    }

    // A pattern reads no ordering.
    fn visit_pat(&mut self, _: &'ast Pat) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a text, and returns the mutants' names and the text with its switches.
    fn read(text: &str) -> (Vec<String>, String) {
        let mut mutants = Vec::new();
        let mut reader = Reader::new("a.rs", &mut mutants);
        let switched = reader.read(text).unwrap();
        assert!(reader.missed.is_empty(), "{:?}", reader.missed);
        (mutants.iter().map(Mutant::name).collect(), switched)
    }

    #[test]
    fn an_ordering_has_a_mutant_for_each_step() {
        let (names, text) =
            read("impl A<B> { fn f(&self) { x.swap(1, AcqRel); y.load(Acquire) } }");
        let expected = [
            "a.rs A::f order 1 AcqRel -> Acquire",
            "a.rs A::f order 1 AcqRel -> Release",
            "a.rs A::f order 2 Acquire -> Relaxed",
        ];
        assert_eq!(names, expected);
        let inner = "sweep::order(1, crate::sync::Ordering::Release, AcqRel))";
        assert!(text.contains(inner), "{text}");
        syn::parse_file(&text).unwrap();
    }

    #[test]
    fn the_second_of_two_orderings_is_of_a_load() {
        let (names, _) = read("fn f() { x.compare_exchange(0, 1, SeqCst, SeqCst) }");
        let expected = [
            "a.rs f order 1 SeqCst -> AcqRel",
            "a.rs f order 2 SeqCst -> Acquire",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn an_ordering_that_a_fault_may_weaken_is_one() {
        let (names, text) = read("fn f() { let order = hooks::of_order(Mutant::A, AcqRel); }");
        let expected = [
            "a.rs f order 1 AcqRel -> Acquire",
            "a.rs f order 1 AcqRel -> Release",
        ];
        assert_eq!(names, expected);
        assert!(
            text.contains("hooks::of_order(Mutant::A, crate::sync::sweep::order("),
            "{text}"
        );
    }

    #[test]
    fn a_fence_goes_and_gets_weaker() {
        let (names, text) = read("fn f() { fence(SeqCst); }");
        assert_eq!(names, ["a.rs f fence 1", "a.rs f order 1 SeqCst -> AcqRel"]);
        assert!(
            text.contains("{ (if !crate::sync::sweep::is(0) { fence("),
            "{text}"
        );
        syn::parse_file(&text).unwrap();
    }

    #[test]
    fn checks_count_behind_a_lock_or_a_publication_only() {
        let (names, text) = read(
            "fn f() { if a { return; } let l = x.lock(); if b || c { return; }
             if d && e { i(); } if let Some(j) = h { i(); }
             loop { if let Some(g) = h { continue; } } }
             fn g(list: &mut ApList) { if a { return; } }",
        );
        let expected = [
            "a.rs f recheck 1",
            "a.rs f recheck 2",
            "a.rs f recheck 3",
            "a.rs g recheck 1",
        ];
        assert_eq!(names, expected);
        for switch in [
            "if (b || c) && !crate::sync::sweep::is(0) {",
            "if d && e || crate::sync::sweep::is(1) {",
            "if let Some(g) = h && !crate::sync::sweep::is(2) {",
        ] {
            assert!(text.contains(switch), "{text}");
        }
        syn::parse_file(&text).unwrap();
    }

    #[test]
    fn guards_and_notifications_go() {
        let (names, text) = read(
            "fn f() { let _in = pin.guard(); match a { A => notify(vm, a), B => host.kick(1) } }",
        );
        assert_eq!(
            names,
            ["a.rs f guard 1", "a.rs f notify 1", "a.rs f notify 2"]
        );
        assert!(
            text.contains("crate::sync::sweep::guard(0, || pin.guard());"),
            "{text}"
        );
        syn::parse_file(&text).unwrap();
    }

    #[test]
    fn tests_and_faults_and_what_models_do_not_build_have_none() {
        let (names, text) = read(
            "fn f() { if mutant(Mutant::A) { x.load(Acquire); } else { y.g(); }
             #[cfg(not(loom))] x.load(Acquire); }
             #[cfg(test)] mod tests { fn f() { x.load(Acquire); } }",
        );
        assert!(names.is_empty(), "{names:?}");
        assert!(!text.contains("sweep"), "{text}");
    }

    #[test]
    fn an_ordering_that_cannot_be_weakened_is_told_of() {
        for text in [
            "fn f() { assert!(x.load(Acquire)); }",
            "macro_rules! m { () => { x.load(Acquire) } }",
            "const fn f() -> Ordering { Acquire }",
            "const ORDER: Ordering = Acquire;",
        ] {
            let mut mutants = Vec::new();
            let mut reader = Reader::new("a.rs", &mut mutants);
            reader.read(text).unwrap();
            assert_eq!(reader.missed.len(), 1, "{text}");
        }
    }
}
