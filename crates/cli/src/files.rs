//! Reading and writing files from futures, with bounded memory and without blocking the executor.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use polyquic::{Abandoned, offload};

use crate::exec::Native;

/// How much is read from a file at a time.
const READ_BYTES: usize = 256 * 1024;

/// How much is collected before it is written to a file.
const WRITE_BYTES: usize = 1024 * 1024;

/// One chunk off a file, and the file to read the next from.
type ReadAhead = BoxFuture<'static, Result<(File, io::Result<Vec<u8>>), Abandoned>>;

/// Reads a file in chunks, one chunk ahead of whoever consumes them.
///
/// Memory: two chunks of 256 KiB.
pub(crate) struct ChunkReader<R> {
    rt: R,
    ahead: Option<ReadAhead>,
}

impl<R: Native> ChunkReader<R> {
    /// Start reading `file` from where it stands.
    pub(crate) fn new(rt: R, file: File) -> Self {
        let ahead = Some(read_ahead(&rt, file));
        Self { rt, ahead }
    }

    /// The next chunk; `None` at the end of the file.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(ahead) = self.ahead.as_mut() else {
            return Ok(None);
        };
        let (file, chunk) = ahead.await?;
        self.ahead = None;
        let chunk = chunk?;
        if chunk.is_empty() {
            return Ok(None);
        }
        // A short chunk means that the end was reached: no need to ask again.
        if chunk.len() == READ_BYTES {
            self.ahead = Some(read_ahead(&self.rt, file));
        }
        Ok(Some(chunk.into()))
    }
}

fn read_ahead(rt: &impl Native, mut file: File) -> ReadAhead {
    Box::pin(offload(rt, move || {
        let mut chunk = Vec::with_capacity(READ_BYTES);
        let result = (&mut file).take(READ_BYTES as u64).read_to_end(&mut chunk);
        (file, result.map(|_| chunk))
    }))
}

/// A file that appears under its name only when it is complete.
///
/// Written under a temporary name in the same directory. Dropping it removes what was written, even
/// while an offloaded job is still writing: the path stays here, the job has the open file only.
#[derive(Debug)]
pub(crate) struct PartialFile {
    file: Arc<File>,
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl PartialFile {
    /// Start `dir/name`. Blocks.
    pub(crate) fn create(dir: &Path, name: &str) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let target = dir.join(name);
        if target.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        loop {
            let n = COUNTER.fetch_add(1, Ordering::Relaxed);
            // Hidden, recognisable, and short enough for file systems that allow 255 bytes.
            let temporary = dir.join(format!(".polyquic-{}-{n}.part", std::process::id()));
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&temporary)
            {
                Ok(file) => {
                    return Ok(Self {
                        file: Arc::new(file),
                        temporary,
                        target,
                        committed: false,
                    });
                }
                // Left behind by a process that was killed and had the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing sensible to do when that fails; the name says what it is.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Append all chunks, in as few calls as the system allows.
fn write_all(mut file: &File, chunks: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes a file while the next chunks are being received.
///
/// Memory: what is being written and what is being collected, 1 MiB each.
pub(crate) struct ChunkWriter<R> {
    rt: R,
    partial: PartialFile,
    writing: Option<BoxFuture<'static, Result<io::Result<()>, Abandoned>>>,
    collected: Vec<Bytes>,
    collected_bytes: usize,
}

impl<R: Native> ChunkWriter<R> {
    /// Write into `partial`.
    pub(crate) fn new(rt: R, partial: PartialFile) -> Self {
        Self {
            rt,
            partial,
            writing: None,
            collected: Vec::new(),
            collected_bytes: 0,
        }
    }

    /// Take a chunk; waits while the disk is more than a megabyte behind.
    ///
    /// An error may stem from an earlier chunk; the file is of no use after one.
    pub(crate) async fn push(&mut self, chunk: Bytes) -> io::Result<()> {
        self.collected_bytes += chunk.len();
        // Empty slices would make a vectored write of nothing look like a full disk.
        if !chunk.is_empty() {
            self.collected.push(chunk);
        }
        if self.collected_bytes >= WRITE_BYTES {
            self.start_write().await?;
        }
        Ok(())
    }

    /// Write what remains, wait until it has reached the disk if `durable`, and give the file its
    /// name.
    pub(crate) async fn finish(mut self, durable: bool) -> io::Result<()> {
        if self.collected_bytes > 0 {
            self.start_write().await?;
        }
        self.wait_for_write().await?;
        let file = self.partial.file.clone();
        let temporary = self.partial.temporary.clone();
        let target = self.partial.target.clone();
        offload(&self.rt, move || {
            if durable {
                file.sync_all()?;
            }
            std::fs::rename(temporary, target)
        })
        .await??;
        self.partial.committed = true;
        Ok(())
    }

    async fn start_write(&mut self) -> io::Result<()> {
        self.wait_for_write().await?;
        let file = self.partial.file.clone();
        let chunks = std::mem::take(&mut self.collected);
        self.collected_bytes = 0;
        self.writing = Some(Box::pin(offload(&self.rt, move || {
            write_all(&file, &chunks)
        })));
        Ok(())
    }

    async fn wait_for_write(&mut self) -> io::Result<()> {
        if let Some(writing) = self.writing.as_mut() {
            let result = writing.await;
            self.writing = None;
            result??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_dropped_file_leaves_nothing_and_keeps_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "old").unwrap();
        let partial = PartialFile::create(dir.path(), "a").unwrap();
        write_all(&partial.file, &[Bytes::from_static(b"new")]).unwrap();
        assert_eq!(names(dir.path()).len(), 2);
        drop(partial);
        assert_eq!(names(dir.path()), ["a"]);
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"old");
    }

    #[test]
    fn more_chunks_than_one_system_call_takes_are_all_written() {
        let mut file = tempfile::tempfile().unwrap();
        let chunks: Vec<_> = (0..3000).map(|_| Bytes::from_static(b"xy")).collect();
        write_all(&file, &chunks).unwrap();
        let mut content = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"xy".repeat(3000));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported_as_such() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = write_all(&full, &[Bytes::from_static(b"x")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_directory_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let error = PartialFile::create(dir.path(), "a").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    }

    struct Copy(PathBuf, PathBuf);

    impl crate::exec::App for Copy {
        type Output = ();

        async fn run<R: Native>(self, rt: R) -> Result<(), Failure> {
            let failed = |e: io::Error| Failure::io("copy", &e);
            let mut reader = ChunkReader::new(rt.clone(), File::open(self.0).unwrap());
            let partial = PartialFile::create(&self.1, "copy").unwrap();
            let mut writer = ChunkWriter::new(rt, partial);
            while let Some(chunk) = reader.next().await.map_err(failed)? {
                // In pieces as small as they come from the network.
                for piece in chunk.chunks(10_007) {
                    writer
                        .push(Bytes::copy_from_slice(piece))
                        .await
                        .map_err(failed)?;
                }
            }
            writer.finish(false).await.map_err(failed)
        }
    }

    #[test]
    fn copying_on_every_executor_keeps_every_byte() {
        use clap::ValueEnum;
        for kind in crate::exec::ExecutorKind::value_variants() {
            for length in [0, 1, READ_BYTES, READ_BYTES + 1, 3 * WRITE_BYTES + 12345] {
                let dir = tempfile::tempdir().unwrap();
                let source = dir.path().join("source");
                let content: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
                std::fs::write(&source, &content).unwrap();
                crate::exec::run(*kind, Copy(source, dir.path().to_owned())).unwrap();
                let mut left = names(dir.path());
                left.sort();
                assert_eq!(left, ["copy", "source"]);
                let copy = std::fs::read(dir.path().join("copy")).unwrap();
                assert!(copy == content, "{} bytes on {kind:?}", length);
            }
        }
    }
}
