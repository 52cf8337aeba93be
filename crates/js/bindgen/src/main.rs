//! `polyquic-bindgen IN.wasm OUT_DIR NAME`: what `wasm-bindgen --target web` does.

#![forbid(unsafe_code)]

use std::{env, error::Error};

use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [input, directory, name] = &arguments[..] else {
        return Err("usage: polyquic-bindgen IN.wasm OUT_DIR NAME".into());
    };
    Bindgen::new()
        .input_path(input)
        .out_name(name)
        // One ES module for browsers, workers, Node and bundlers: whoever loads it says where the
        // WebAssembly is.
        .web(true)?
        .typescript(false)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate(directory)?;
    Ok(())
}
