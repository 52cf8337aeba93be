//! One application, every executor.
//!
//! `cargo run -p polyquic --example echo --all-features -- tokio`, or `smol`, `smol-multi`,
//! `tokio-multi`, `blocking`. The application is in `app.rs`; this file is all that names an
//! executor.

mod app;

use app::{Result, app};

fn main() -> Result<()> {
    let executor = std::env::args().nth(1).unwrap_or_else(|| "smol".into());
    let answer = match executor.as_str() {
        #[cfg(feature = "smol")]
        "smol" => polyquic::smol::run(1, app)??,
        #[cfg(feature = "smol")]
        "smol-multi" => polyquic::smol::run(4, app)??,
        #[cfg(feature = "tokio")]
        "tokio" => polyquic::tokio::run(polyquic::tokio::Flavor::CurrentThread, app)??,
        #[cfg(feature = "tokio")]
        "tokio-multi" => polyquic::tokio::run(polyquic::tokio::Flavor::MultiThread(4), app)??,
        #[cfg(feature = "blocking")]
        "blocking" => polyquic::blocking::run(app)??,
        other => return Err(format!("no executor {other:?}: enable its feature").into()),
    };
    println!("{executor}: {answer}");
    Ok(())
}
