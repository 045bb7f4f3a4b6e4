//! How often things may go wrong.

/// Defines a model's `Budget`: a counter for each fault, all of them zero in `NONE`. Prints those that are not zero.
macro_rules! budget {
    ($($(#[$about:meta])* $fault:ident,)*) => {
        /// How often each may happen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct Budget {
            $($(#[$about])* pub $fault: u8,)*
        }

        impl Budget {
            pub const NONE: Budget = Budget { $($fault: 0,)* };
        }

        impl std::fmt::Display for Budget {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let faults = [$((stringify!($fault), self.$fault),)*];
                let some = faults.iter().filter(|(_, times)| *times > 0);
                let texts: Vec<String> = some.map(|(fault, times)| format!("{times} {fault}")).collect();
                f.write_str(&texts.join(", "))
            }
        }
    };
}

pub(crate) use budget;
