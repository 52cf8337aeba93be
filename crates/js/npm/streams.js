// Streams of bytes, on what the WebAssembly module has.

import { bytesOf, codeOf } from './errors.js';

/** The most that one read brings, in bytes. */
const READ_BYTES = 64 * 1024;

/** Written and not yet accepted by QUIC, in bytes, before a writer is asked to wait. */
const WRITE_AHEAD_BYTES = 64 * 1024;

/** Has `end` give a stream up, for `reason`. A code that makes no sense is returned as an error, and does
 *  not keep the stream open. */
function giveUp(end, reason) {
  try {
    end(codeOf(reason?.streamErrorCode ?? 0));
  } catch (error) {
    end(0);
    return error;
  }
}

/** `for await`, where the browser does not have it for streams yet. */
export function iterable(stream) {
  if (!stream[Symbol.asyncIterator]) {
    stream[Symbol.asyncIterator] = async function* () {
      const reader = this.getReader();
      try {
        for (;;) {
          const { done, value } = await reader.read();
          if (done) return;
          yield value;
        }
      } finally {
        await reader.cancel().catch(() => {});
        reader.releaseLock();
      }
    };
  }
  return stream;
}

/** What the peer sends on a stream. Nothing is taken from QUIC before somebody reads, so that flow
 *  control holds the peer back. */
export function readable(raw, translate) {
  // A stream that was read to its end, or given up, is freed: not when the collector finds the time.
  const free = () => {
    raw?.free();
    raw = undefined;
  };
  const deliver = (controller, chunk) => {
    if (chunk === undefined) {
      free();
      controller.close();
      // Whoever brought a buffer gets it back, empty.
      controller.byobRequest?.respond(0);
    } else {
      controller.enqueue(chunk);
    }
  };
  const fail = (error) => {
    free();
    throw translate(error);
  };
  return iterable(
    new ReadableStream({
      type: 'bytes',
      pull(controller) {
        let read;
        try {
          read = raw.read(READ_BYTES);
        } catch (error) {
          fail(error);
        }
        if (!(read instanceof Promise)) return deliver(controller, read);
        return read.then((chunk) => deliver(controller, chunk), fail);
      },
      cancel(reason) {
        const wrong = giveUp((code) => raw.stop(code), reason);
        free();
        if (wrong) throw wrong;
      },
    }),
  );
}

/** What is sent to the peer on a stream. `close` waits until the peer has all of it. */
export function writable(raw, translate) {
  let wrong;
  let reject;
  // A write or a close that waits. It is rejected by an abort: nothing else would come to an end as long as
  // the peer does not read.
  const waiting = (promise) =>
    new Promise((resolve, rejects) => {
      reject = rejects;
      promise.then(resolve, (error) => rejects(translate(error)));
    });
  return new WritableStream(
    {
      start(controller) {
        // The streams of the web call `abort` only after the write that waits.
        controller.signal.addEventListener('abort', () => {
          const { reason } = controller.signal;
          if (raw) wrong = giveUp((code) => raw.reset(code), reason);
          reject?.(reason);
        });
        raw.stopped().then((error) => {
          if (error !== undefined) controller.error(translate(error));
          raw.free();
          raw = undefined;
        });
      },
      write(chunk) {
        try {
          const written = raw.write(bytesOf(chunk));
          return written && waiting(written);
        } catch (error) {
          throw translate(error);
        }
      },
      close() {
        return waiting(raw.finish());
      },
      abort() {
        if (wrong) throw wrong;
      },
    },
    // What is no bytes has no length, and is refused by `write`.
    { highWaterMark: WRITE_AHEAD_BYTES, size: (chunk) => chunk?.byteLength ?? 0 },
  );
}

/** Streams that the peer opens, or datagrams: whatever `next` returns or promises, until the connection is
 *  closed. What comes when nobody wants it any more goes to `discard`. */
export function sequence(next, wrap, translate, discard = () => {}) {
  let wanted = true;
  const deliver = (controller, item) => {
    if (wanted) controller.enqueue(wrap(item));
    else discard(item);
  };
  const end = (controller, error) => {
    if (!wanted) return;
    error = translate(error);
    // Closed by one of the two applications: the end, and not a failure.
    if (error.name === 'ConnectionClosedError') controller.close();
    else throw error;
  };
  return iterable(
    new ReadableStream(
      {
        pull(controller) {
          let item;
          try {
            item = next();
          } catch (error) {
            return end(controller, error);
          }
          if (!(item instanceof Promise)) return deliver(controller, item);
          return item.then(
            (value) => deliver(controller, value),
            (error) => end(controller, error),
          );
        },
        cancel() {
          wanted = false;
        },
      },
      { highWaterMark: 0 },
    ),
  );
}
