//! Writes the seeds of every target into the directory of corpora that is given.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let corpora = PathBuf::from(
        env::args_os()
            .nth(1)
            .unwrap_or_else(|| "crates/fuzz/corpus".into()),
    );
    for (target, _) in polyquic_fuzz::TARGETS {
        let directory = corpora.join(target);
        fs::create_dir_all(&directory)?;
        for (name, data) in polyquic_fuzz::seeds(target) {
            fs::write(directory.join(format!("seed-{name}")), data)?;
        }
    }
    Ok(())
}
