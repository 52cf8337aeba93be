//! Writing and reading one direction of a stream, as planned.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::poll_immediate;
use polyquic::sim::Host;
use polyquic::{
    ReadError, ReadExactError, ReadToEndError, RecvStream, SendStream, StoppedError, VarInt,
    WriteError, sleep, timeout,
};

use crate::dice::Dice;
use crate::half::{Half, ReaderEnd, WriterEnd};
use crate::model::{Key, Model, Side};
use crate::plan::work::{End, ReadMode};
use crate::plant::Plant;

/// Give `future` up early with this probability; `None` if so.
pub(crate) async fn patiently<F: Future>(
    model: &Model,
    host: &Host,
    dice: &mut Dice,
    cancel: f64,
    future: F,
) -> Option<F::Output> {
    match dice.chance(cancel) {
        true => {
            let result = timeout(host, dice.span(1, 30), future).await.ok();
            if result.is_none() {
                model.count("cancelled futures");
            }
            result
        }
        false => Some(future.await),
    }
}

/// The same, without a draw where nothing is given up.
async fn patiently_if<F: Future>(
    model: &Model,
    host: &Host,
    dice: &mut Dice,
    cancel: f64,
    future: F,
) -> Option<F::Output> {
    match cancel > 0.0 {
        true => patiently(model, host, dice, cancel, future).await,
        false => Some(future.await),
    }
}

pub(crate) async fn pause(host: &Host, duration: Duration) {
    if !duration.is_zero() {
        sleep(host, duration).await;
    }
}

fn writer_end(error: &WriteError) -> WriterEnd {
    match error {
        WriteError::Stopped(code) => WriterEnd::Stopped(code.into_inner()),
        WriteError::ZeroRttRejected => WriterEnd::Rejected,
        WriteError::ConnectionLost(_) | WriteError::ClosedStream => WriterEnd::Lost,
    }
}

/// Write a half as planned.
pub(crate) async fn write(model: Rc<Model>, host: Host, half: Rc<Half>, mut send: SendStream) {
    let plan = &half.plan;
    let mut dice = Dice::new(model.seed, format_args!("writes {}", half.index));
    half.id.set(Some(send.id()));
    model.log(|| format!("{half}: writes {} bytes", plan.size));
    if plan.priority != 0 {
        let _ = send.set_priority(plan.priority);
    }
    let total = match plan.write_end {
        End::Regular => plan.size,
        End::Code(at) | End::Drop(at) => at,
    };
    let mut offset = 0;
    while offset < total {
        let mut buffer = vec![0; plan.chunk.min(total - offset) as usize];
        Half::content(model.seed, half.index, offset, &mut buffer);
        model.operation();
        let wanted = buffer.len();
        let (cancel, shared) = (plan.write_cancel, dice.chance(0.5));
        let result = if shared {
            let mut buffers = [Bytes::from(buffer)];
            let written = send.write_chunks(&mut buffers);
            let written = patiently(&model, &host, &mut dice, cancel, written).await;
            written.map(|it| it.map(|it| it.bytes))
        } else {
            patiently(&model, &host, &mut dice, cancel, send.write(&buffer)).await
        };
        match result {
            // Given up: nothing may have been written.
            None => continue,
            Some(Ok(count)) => {
                assert!((1..=wanted).contains(&count), "wrote {count} of {wanted}");
                offset += count as u64;
                half.wrote(&model, count as u64);
            }
            Some(Err(error)) => {
                if error == WriteError::ClosedStream {
                    model.violation("codes", format_args!("{half}: closed by nobody"));
                }
                return half.writer_ends(&model, writer_end(&error));
            }
        }
        pause(&host, plan.write_pause).await;
    }
    match plan.write_end {
        End::Regular => finish(&model, &host, &mut dice, &half, send).await,
        End::Code(_) => {
            half.writer_ends(&model, WriterEnd::Reset(half.reset_code().into()));
            let planted = u32::from(model.has(Plant::Code));
            let _ = send.reset(VarInt::from_u32(half.reset_code() + planted));
        }
        End::Drop(_) => {
            half.writer_ends(&model, WriterEnd::Dropped);
            drop(send);
        }
    }
}

async fn finish(
    model: &Rc<Model>,
    host: &Host,
    dice: &mut Dice,
    half: &Rc<Half>,
    mut send: SendStream,
) {
    model.operation();
    if send.finish().is_err() {
        // Only a rejection of 0-RTT makes that an error; the next lines find out.
        return half.writer_ends(model, WriterEnd::Rejected);
    }
    half.writer.set(WriterEnd::Finished);
    if !half.plan.confirm {
        return half.writer_ends(model, WriterEnd::Finished);
    }
    if half.conn.hasty.get() {
        half.conn.changed.notify();
    }
    let mut cancels = half.plan.stopped_cancels;
    let stopped = loop {
        let cancel = if cancels > 0 { 1.0 } else { 0.0 };
        cancels = cancels.saturating_sub(1);
        if let Some(stopped) = patiently_if(model, host, dice, cancel, send.stopped()).await {
            break stopped;
        }
    };
    match stopped {
        Ok(None) => {
            half.confirmed.set(true);
            half.writer_ends(model, WriterEnd::Finished);
        }
        Ok(Some(code)) => half.writer_ends(model, WriterEnd::Stopped(code.into_inner())),
        Err(StoppedError::ZeroRttRejected) => half.writer_ends(model, WriterEnd::Rejected),
        // The peer may have all of it all the same.
        Err(StoppedError::ConnectionLost(_)) => half.writer_ends(model, WriterEnd::Finished),
    }
}

fn reader_end(error: &ReadError) -> ReaderEnd {
    match error {
        ReadError::Reset(code) => ReaderEnd::Reset(code.into_inner()),
        ReadError::ZeroRttRejected => ReaderEnd::Rejected,
        _ => ReaderEnd::Lost,
    }
}

/// Read enough of a stream to know which it is.
pub(crate) async fn identify(
    model: &Rc<Model>,
    key: Key,
    from: Side,
    recv: &mut RecvStream,
) -> Option<Rc<Half>> {
    let mut name = [0; 8];
    let mut filled = 0;
    while filled < name.len() {
        model.operation();
        let end = match recv.read(&mut name[filled..]).await {
            Ok(Some(count)) => {
                filled += count;
                continue;
            }
            Ok(None) if filled == 0 => ReaderEnd::Finished,
            Ok(None) => {
                let id = recv.id();
                model.violation("integrity", format_args!("{id} ends after {filled} bytes"));
                return None;
            }
            Err(error) => reader_end(&error),
        };
        model.ended(key, from, recv.id(), end);
        return None;
    }
    let Some(half) = Half::by_name(model, name) else {
        let id = recv.id();
        model.violation("integrity", format_args!("{id} begins with {name:?}"));
        return None;
    };
    let elsewhere = model
        .by_key(&key)
        .is_some_and(|conn| !Rc::ptr_eq(&conn, &half.conn));
    if elsewhere || half.from != from || half.id.get() != Some(recv.id()) || half.got.get() > 0 {
        let id = recv.id();
        model.violation("streams", format_args!("{half} arrived as {id}"));
    }
    half.reads(model, 0, &name);
    Some(half)
}

/// Read a half as planned, from where [`identify`] left off.
pub(crate) async fn read(model: Rc<Model>, host: Host, half: Rc<Half>, mut recv: RecvStream) {
    let plan = &half.plan;
    let mut dice = Dice::new(model.seed, format_args!("reads {}", half.index));
    let limit = match plan.read_end {
        End::Regular => u64::MAX,
        End::Code(at) | End::Drop(at) => at,
    };
    let mut seen = Seen::new(half.got.get());
    let mut stop = plan.read_stop;
    while half.got.get() < limit {
        model.operation();
        let step = step(&model, &host, &half, &mut recv, &mut dice, &mut seen);
        let step = async {
            match model.has(Plant::WakeUp) {
                true => not_woken(&half, step).await,
                false => step.await,
            }
        };
        match step.await {
            None if !stop.is_zero() && half.got.get() >= plan.size / 2 => {
                model.count("slow readers");
                pause(&host, std::mem::take(&mut stop)).await;
            }
            Some(ReaderEnd::Finished) if model.has(Plant::Delivery) => {
                return half.reader_ends(&model, ReaderEnd::Lost);
            }
            None => {}
            Some(end) => return half.reader_ends(&model, end),
        }
        pause(&host, plan.read_pause).await;
    }
    match plan.read_end {
        End::Code(_) => {
            half.reader_ends(&model, ReaderEnd::Stopped(half.stop_code().into()));
            let _ = recv.stop(VarInt::from_u32(half.stop_code()));
        }
        _ => half.reader_ends(&model, ReaderEnd::Dropped),
    }
}

/// Let others go first.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| match std::mem::replace(&mut yielded, true) {
        true => std::task::Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        }
    })
    .await;
}

/// A future that is asked once, and then not before its connection is over: [`Plant::WakeUp`].
async fn not_woken<T>(half: &Half, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    if let Some(output) = poll_immediate(future.as_mut()).await {
        return output;
    }
    let side = half.from.other();
    half.conn
        .changed
        .until(|| half.conn.end(side).is_some())
        .await;
    future.await
}

/// Ranges that were read, so that nothing comes twice.
struct Seen(BTreeMap<u64, u64>);

impl Seen {
    fn new(until: u64) -> Self {
        Self(BTreeMap::from([(0, until)]))
    }

    /// Returns false if some of it came before.
    fn add(&mut self, from: u64, to: u64) -> bool {
        let before = self.0.range(..=from).next_back();
        let after = self.0.range(from..).next();
        let fresh = before.is_none_or(|(_, end)| *end <= from)
            && after.is_none_or(|(start, end)| *start >= to || start == end);
        self.0.insert(from, to);
        fresh
    }
}

/// Whether a stream is to have so many more bytes.
fn must_come(half: &Half, at: u64, bytes: usize) -> bool {
    half.plan.write_end == End::Regular && at + bytes as u64 <= half.plan.size
}

/// One read; `Some` is the end.
async fn step(
    model: &Rc<Model>,
    host: &Host,
    half: &Rc<Half>,
    recv: &mut RecvStream,
    dice: &mut Dice,
    seen: &mut Seen,
) -> Option<ReaderEnd> {
    let cancel = half.plan.read_cancel;
    let at = half.got.get();
    let result = match half.plan.mode {
        ReadMode::Slice(size) if half.plan.exact && must_come(half, at, size) => {
            let mut buffer = vec![0; size];
            match recv.read_exact(&mut buffer).await {
                Ok(()) => Ok(Some(vec![(at, buffer.into())])),
                Err(ReadExactError::FinishedEarly(count)) => {
                    let what = format_args!("{half}: ends {count} bytes after {at}");
                    model.violation("integrity", what);
                    Ok(None)
                }
                Err(ReadExactError::ReadError(error)) => Err(error),
            }
        }
        ReadMode::Slice(size) => {
            let mut buffer = vec![0; size];
            let read = patiently(model, host, dice, cancel, recv.read(&mut buffer)).await?;
            read.map(|it| it.map(|count| vec![(at, Bytes::copy_from_slice(&buffer[..count]))]))
        }
        ReadMode::Chunk(size) => {
            let read = patiently(model, host, dice, cancel, recv.read_chunk(size, true)).await?;
            read.map(|it| it.map(|chunk| vec![(chunk.offset, chunk.bytes)]))
        }
        ReadMode::Unordered => {
            let read = recv.read_chunk(usize::MAX, false);
            let read = patiently(model, host, dice, cancel, read).await?;
            read.map(|it| it.map(|chunk| vec![(chunk.offset, chunk.bytes)]))
        }
        ReadMode::Chunks => {
            let mut buffers: [Bytes; 8] = Default::default();
            let read = patiently(model, host, dice, cancel, recv.read_chunks(&mut buffers)).await?;
            read.map(|it| {
                let mut at = at;
                let take = |bytes: &Bytes| {
                    at += bytes.len() as u64;
                    (at - bytes.len() as u64, bytes.clone())
                };
                it.map(|count| buffers[..count].iter().map(take).collect())
            })
        }
        ReadMode::ToEnd => match recv.read_to_end(usize::MAX >> 1).await {
            Ok(bytes) => {
                half.reads(model, at, &bytes);
                Ok(None)
            }
            Err(ReadToEndError::Read(error)) => Err(error),
            Err(ReadToEndError::TooLong) => unreachable!("nothing is too long"),
        },
    };
    match result {
        Ok(Some(chunks)) => {
            for (offset, bytes) in chunks {
                let to = offset + bytes.len() as u64;
                if !seen.add(offset, to) {
                    model.violation("integrity", format_args!("{half}: {offset} to {to} again"));
                }
                half.reads(model, offset, &bytes);
            }
            None
        }
        Ok(None) => Some(ReaderEnd::Finished),
        Err(error) => {
            if matches!(
                error,
                ReadError::ClosedStream | ReadError::IllegalOrderedRead
            ) {
                model.violation("codes", format_args!("{half}: {error}"));
            }
            Some(reader_end(&error))
        }
    }
}
