//! The echo application on an adapter of one's own: `cargo run -p polyquic --example own_adapter`.
//!
//! `adapter.rs` is the adapter that `docs/ADAPTERS.md` explains.

mod adapter;
#[path = "../echo/app.rs"]
mod app;

fn main() -> app::Result<()> {
    println!("own adapter: {}", adapter::run(app::app)?);
    Ok(())
}
