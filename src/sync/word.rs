//! State of one atomic as a plain value, for the state model (`loom-tests/states`).
//!
//! A state of that model has the values. A step of a CPU makes the library's type from the value,
//! calls a method that is one atomic access, and reads the value back.

/// Lets a type of one atomic be made from its value, and read back. Not for use by the library.
macro_rules! word {
    ($name:ident, $atomic:ident, $value:ident) => {
        impl From<$value> for $name {
            fn from(value: $value) -> Self {
                Self($atomic::new(value))
            }
        }

        impl From<&$name> for $value {
            fn from(word: &$name) -> Self {
                // Relaxed: no other thread has the word.
                word.0.load($crate::sync::Ordering::Relaxed)
            }
        }
    };
}

pub(crate) use word;
