//! Closed lists of names: an enum, its values in order, and their texts, from one table.

/// The text is not a name of the closed list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {text}; known are {}", .known.join(", "))]
pub struct ParseNameError {
    /// What was expected, such as `stage`.
    pub what: &'static str,
    /// The text, quoted and never longer than a line.
    pub text: String,
    /// The known names.
    pub known: &'static [&'static str],
}

/// Declares an enum whose values have names: `ALL` and `NAMES` in the order of declaration, `as_str`, `Display`, `FromStr`.
macro_rules! named {
    ($(#[$about:meta])* $name:ident, $what:literal { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// All of them, in order.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// Their names, in the same order.
            pub const NAMES: [&'static str; [$($text),+].len()] = [$($text),+];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::ParseNameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let found = Self::ALL.into_iter().find(|known| known.as_str() == text);
                found.ok_or_else(|| $crate::ParseNameError {
                    what: $what,
                    text: $crate::text::quoted(text),
                    known: &Self::NAMES,
                })
            }
        }
    };
}

pub(crate) use named;
