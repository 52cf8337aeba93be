//! Printing that survives whoever was reading: `polyquic ping ... | head -1` must neither panic nor
//! stop a server.

/// Like `println!`, but a closed standard output is ignored.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

/// A line on standard error that starts with the program's name.
macro_rules! complain {
    ($($argument:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "polyquic: {}", format_args!($($argument)*));
    }};
}

pub(crate) use {complain, say};
