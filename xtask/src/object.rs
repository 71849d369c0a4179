//! Structs as JSON objects, without a derive and the crates that one brings.

/// Serializes a struct as an object of the fields named, in their order.
macro_rules! object {
    ($type:ty { $($field:ident),+ $(,)? }) => {
        impl serde_core::Serialize for $type {
            fn serialize<S: serde_core::Serializer>(
                &self,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                use serde_core::ser::SerializeMap as _;
                let mut object = serializer.serialize_map(None)?;
                $(object.serialize_entry(stringify!($field), &self.$field)?;)+
                object.end()
            }
        }
    };
}

#[cfg(test)]
mod tests {
    struct Pair {
        second: u32,
        first: Option<&'static str>,
        _hidden: u32,
    }

    object!(Pair { first, second });

    #[test]
    fn fields_are_written_in_the_order_named() {
        let pair = Pair {
            second: 2,
            first: None,
            _hidden: 3,
        };
        let json = serde_json::to_string(&pair).unwrap();
        assert_eq!(json, r#"{"first":null,"second":2}"#);
    }
}
