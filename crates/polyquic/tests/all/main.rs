//! What the facade promises: one application for every executor, the types' promises, and
//! documentation that is true.

#[path = "../../examples/own_adapter/adapter.rs"]
mod adapter;
#[path = "../../examples/echo/app.rs"]
mod app;

mod book;
mod compiler;
mod generic;
mod own_adapter;
mod snippets;
mod types;
