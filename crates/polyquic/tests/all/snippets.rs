//! The documentation shows code that is compiled and run.
//!
//! Rust in Markdown files is quoted from files that the tests compile. Quoting keeps the pages free
//! of the hidden lines that documentation tests would need, and the code formatted and linted.
