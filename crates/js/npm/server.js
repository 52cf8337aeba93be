// Servers, on what the WebAssembly module has.

import { Connection, closeInfo, plain } from './connection.js';
import { watched } from './watch.js';
import * as wasm from './wasm/polyquic.js';

/** Handshakes that wait to be taken from a server. */
const MAX_BACKLOG = 256;

/** Whoever connects by `transport`, one after the other. */
export class Server {
  #endpoint;
  #watch;
  #waiting = [];
  #wanted = [];
  #done = false;
  #failure;
  #closed;

  constructor(transport, options) {
    this.#watch = watched(transport);
    try {
      this.#endpoint = new wasm.RawEndpoint(this.#watch.transport, plain(options), true);
    } catch (error) {
      this.#watch.transport.close();
      throw error;
    }
    this.address = {
      address: this.#endpoint.localAddress,
      port: this.#endpoint.localPort,
    };
    this.#accept();
  }

  async #accept() {
    for (;;) {
      const incoming = await this.#endpoint.accept();
      if (incoming === undefined) break;
      if (this.#waiting.length >= MAX_BACKLOG) {
        incoming.refuse();
        continue;
      }
      // Not awaited: a slow handshake holds nobody up. One that fails is the client's affair.
      incoming.accept().then(
        (raw) => this.#deliver(new Connection(raw, this.#watch)),
        () => {},
      );
    }
    this.#done = true;
    this.#failure = this.#watch.failure;
    for (const { resolve, reject } of this.#wanted.splice(0)) {
      if (this.#failure) reject(this.#failure);
      else resolve({ done: true, value: undefined });
    }
  }

  #deliver(connection) {
    const wanted = this.#wanted.shift();
    if (wanted) wanted.resolve({ done: false, value: connection });
    else this.#waiting.push(connection);
  }

  next() {
    const value = this.#waiting.shift();
    if (value) return Promise.resolve({ done: false, value });
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.#done) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => this.#wanted.push({ resolve, reject }));
  }

  [Symbol.asyncIterator]() {
    // Leaving a loop does not close the server; the next loop goes on.
    return { next: () => this.next(), [Symbol.asyncIterator]: () => this };
  }

  async close(info) {
    if (!this.#closed) {
      const closing = closeInfo(info);
      this.#watch.closing = closing;
      this.#endpoint.close(closing.closeCode, closing.reason);
      this.#closed = this.#endpoint.waitIdle().then(() => this.#endpoint.free());
    }
    return this.#closed;
  }
}
