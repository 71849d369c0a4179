//! Conditions of compilation, decided as for a build of the models.

use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, Lit, Meta, Token};

/// Tells whether the models' build leaves out an item with these attributes, or whether they are
/// for tests.
pub(crate) fn left_out(attributes: &[Attribute]) -> bool {
    let mut conditions = attributes.iter().filter_map(|attribute| {
        let list = attribute.meta.require_list().ok()?;
        let is_condition = list.path.is_ident("cfg");
        is_condition.then(|| list.parse_args::<Meta>().ok())?
    });
    let tests = attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("test"));
    tests || conditions.any(|condition| !holds(&condition))
}

/// Decides a condition. The models' build has `loom`, debug assertions and the counters, on a host,
/// and neither `std` nor tests.
fn holds(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => {
            let set = ["loom", "crossbeam_loom", "debug_assertions", "unix"];
            set.iter().any(|name| path.is_ident(name))
        }
        Meta::NameValue(pair) => {
            let Expr::Lit(value) = &pair.value else {
                return false;
            };
            let Lit::Str(text) = &value.lit else {
                return false;
            };
            pair.path.is_ident("feature") && ["counters", "loom"].contains(&&*text.value())
        }
        Meta::List(list) => {
            let parts = list
                .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
                .unwrap_or_default();
            match () {
                () if list.path.is_ident("not") => !parts.iter().any(holds),
                () if list.path.is_ident("any") => parts.iter().any(holds),
                () => parts.iter().all(holds),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    #[test]
    fn conditions_are_those_of_the_models_build() {
        let out: [Attribute; 5] = [
            parse_quote!(#[cfg(test)]),
            parse_quote!(#[cfg(not(loom))]),
            parse_quote!(#[cfg(all(feature = "std", not(loom)))]),
            parse_quote!(#[cfg(target_arch = "aarch64")]),
            parse_quote!(#[cfg(vgic_mutants)]),
        ];
        for (place, attribute) in out.chunks(1).enumerate() {
            assert!(left_out(attribute), "{place}");
        }
        let built: [Attribute; 4] = [
            parse_quote!(#[cfg(loom)]),
            parse_quote!(#[cfg(any(not(feature = "std"), loom))]),
            parse_quote!(#[cfg(not(any(shuttle, test)))]),
            parse_quote!(#[inline]),
        ];
        for (place, attribute) in built.chunks(1).enumerate() {
            assert!(!left_out(attribute), "{place}");
        }
    }
}
