// Streams of bytes, on what the WebAssembly module has.

/** The most that one read brings, in bytes. */
const READ_BYTES = 64 * 1024;

/** Written and not yet accepted by QUIC, in bytes, before a writer is asked to wait. */
const WRITE_AHEAD_BYTES = 64 * 1024;

const bytesOf = (chunk) => {
  if (chunk instanceof Uint8Array) return chunk;
  if (ArrayBuffer.isView(chunk)) {
    return new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  }
  if (chunk instanceof ArrayBuffer) return new Uint8Array(chunk);
  throw new TypeError('a chunk must be an ArrayBuffer or a view of one');
};

const codeOf = (reason) => reason?.streamErrorCode ?? 0;

export { bytesOf };

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
  const deliver = (controller, chunk) => {
    if (chunk === undefined) {
      controller.close();
      // Whoever brought a buffer gets it back, empty.
      controller.byobRequest?.respond(0);
    } else {
      controller.enqueue(chunk);
    }
  };
  return iterable(
    new ReadableStream({
      type: 'bytes',
      pull(controller) {
        try {
          const read = raw.read(READ_BYTES);
          if (!(read instanceof Promise)) return deliver(controller, read);
          return read.then(
            (chunk) => deliver(controller, chunk),
            (error) => Promise.reject(translate(error)),
          );
        } catch (error) {
          throw translate(error);
        }
      },
      cancel(reason) {
        raw.stop(codeOf(reason));
      },
    }),
  );
}

/** What is sent to the peer on a stream. `close` waits until the peer has all of it. */
export function writable(raw, translate) {
  return new WritableStream(
    {
      start(controller) {
        raw.stopped().then((error) => {
          if (error !== undefined) controller.error(translate(error));
        });
      },
      write(chunk) {
        try {
          const written = raw.write(bytesOf(chunk));
          if (written === undefined) return undefined;
          return written.catch((error) => Promise.reject(translate(error)));
        } catch (error) {
          throw translate(error);
        }
      },
      close() {
        return raw.finish().catch((error) => Promise.reject(translate(error)));
      },
      abort(reason) {
        raw.reset(codeOf(reason));
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: WRITE_AHEAD_BYTES }),
  );
}

/** Streams that the peer opens, or datagrams: whatever `next` returns or promises, until the
 *  connection is closed. */
export function sequence(next, wrap, translate) {
  const end = (controller, error) => {
    error = translate(error);
    // Closed by one of the two applications: the end, and not a failure.
    if (error.name === 'ConnectionClosedError') controller.close();
    else throw error;
  };
  return iterable(
    new ReadableStream(
      {
        pull(controller) {
          try {
            const item = next();
            if (!(item instanceof Promise)) return controller.enqueue(wrap(item));
            return item.then(
              (value) => controller.enqueue(wrap(value)),
              (error) => end(controller, error),
            );
          } catch (error) {
            return end(controller, error);
          }
        },
      },
      { highWaterMark: 0 },
    ),
  );
}
