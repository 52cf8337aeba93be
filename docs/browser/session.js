// A connection and what is done with it. The same in a page and in a worker.

import { connect } from './polyquic/browser.js';

/** The protocols of `polyquic perf server` and of `polyquic serve`. */
export const PERF = 'polyquic-perf';
export const FILES = 'hq-interop';

const CHUNK_BYTES = 64 * 1024;

/** How often to tell of progress, in milliseconds. */
const PROGRESS_MS = 100;

export class Session {
  #connection;

  constructor(connection) {
    this.#connection = connection;
    this.protocol = connection.protocol;
    /** Settles when the connection has ended: with the reason, or an error. */
    this.closed = connection.closed;
  }

  static async open({ server, relay, ca }) {
    const options = { relay, alpn: [PERF, FILES], ...(ca && { ca }) };
    return new Session(await connect(server, options));
  }

  /** Take `total` bytes from a perf server. */
  async download(total, progress) {
    const { readable, writable } = await this.#connection.createBidirectionalStream();
    const writer = writable.getWriter();
    await writer.write(size(total));
    const finished = writer.close();
    const told = every(progress);
    let bytes = 0;
    for await (const chunk of readable) {
      bytes += chunk.length;
      told(bytes);
    }
    await finished;
    if (bytes !== total) throw new Error(`the server sent ${bytes} bytes instead of ${total}`);
    return { bytes };
  }

  /** Send `total` bytes to a perf server; done when it says that it has them. */
  async upload(total, progress) {
    const { readable, writable } = await this.#connection.createBidirectionalStream();
    const writer = writable.getWriter();
    await writer.write(size(0));
    const told = every(progress);
    const chunk = new Uint8Array(CHUNK_BYTES);
    for (let bytes = 0; bytes < total; ) {
      const next = Math.min(CHUNK_BYTES, total - bytes);
      // Waits as long as the connection has enough to do.
      await writer.ready;
      await writer.write(chunk.subarray(0, next));
      bytes += next;
      told(bytes);
    }
    await writer.close();
    for await (const _ of readable);
    return { bytes: total };
  }

  /** Get a file from `polyquic serve`, and its SHA-256. */
  async fetch(path, progress) {
    const { readable, writable } = await this.#connection.createBidirectionalStream();
    const writer = writable.getWriter();
    await writer.write(new TextEncoder().encode(`GET ${path}\r\n`));
    // The server stops the stream when it has read enough of it, which is none of our business.
    writer.close().catch(() => {});
    const told = every(progress);
    const chunks = [];
    let bytes = 0;
    for await (const chunk of readable) {
      chunks.push(chunk);
      bytes += chunk.length;
      told(bytes);
    }
    const whole = await new Blob(chunks).arrayBuffer();
    const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', whole));
    return { bytes, hash: Array.from(hash, (it) => it.toString(16).padStart(2, '0')).join('') };
  }

  stats() {
    return this.#connection.getStats();
  }

  close() {
    this.#connection.close({ closeCode: 0, reason: 'bye' });
  }
}

/** Eight bytes, the most significant first. */
function size(bytes) {
  const data = new DataView(new ArrayBuffer(8));
  data.setBigUint64(0, BigInt(bytes));
  return new Uint8Array(data.buffer);
}

function every(progress) {
  let last = performance.now();
  return (bytes) => {
    const now = performance.now();
    if (now - last < PROGRESS_MS) return;
    last = now;
    progress(bytes);
  };
}
