// Connections and servers, on what the WebAssembly module has.

import { QuicError } from './errors.js';
import { bytesOf, iterable, readable, sequence, writable } from './streams.js';
import * as wasm from './wasm/polyquic.js';

/** Handshakes that wait to be taken from a server. */
const MAX_BACKLOG = 256;

let loading;

/** Compile and start the WebAssembly module, once. */
export function load(source) {
  loading ??= (async () => {
    await wasm.default({ module_or_path: await source() });
    wasm.initialize((name, message, details) => new QuicError(name, message, details));
  })();
  return loading;
}

/** `transport` as the module gets it: closed once, and remembering why it failed, which says more than
 *  what QUIC makes of it. */
function watched(transport) {
  const watch = { failure: undefined };
  let open = true;
  watch.transport = {
    localAddress: transport.localAddress,
    maxDatagramSize: transport.maxDatagramSize,
    mayFragment: transport.mayFragment,
    start(receiver) {
      transport.start({
        datagram: receiver.datagram,
        writable: receiver.writable,
        failed(error) {
          watch.failure ??=
            error instanceof Error ? error : new QuicError('TransportLostError', String(error));
          if (open) receiver.failed(error);
        },
      });
    },
    send: (data, address, port) => transport.send(data, address, port),
    close() {
      if (open) {
        open = false;
        transport.close();
      }
    },
  };
  if (transport.sendBatch) {
    watch.transport.sendBatch = (data, size, address, port) =>
      transport.sendBatch(data, size, address, port);
  }
  return watch;
}

function translator(watch) {
  return (error) =>
    watch.failure && (error?.source === 'session' || !(error instanceof Error))
      ? watch.failure
      : error;
}

const plain = (options) => {
  const hashes = options.serverCertificateHashes?.map(({ algorithm, value }) => ({
    algorithm,
    value: bytesOf(value),
  }));
  const ca = Array.isArray(options.ca) ? options.ca.join('\n') : options.ca;
  return { ...options, ca, ...(hashes && { serverCertificateHashes: hashes }) };
};

export class Connection {
  #raw;
  #translate;
  #closing;

  constructor(raw, watch) {
    this.#raw = raw;
    const translate = (this.#translate = translator(watch));
    this.closed = raw.closed().then((error) => {
      error = translate(error);
      if (error.name !== 'ConnectionClosedError') throw error;
      return this.#closing ?? { closeCode: error.closeCode ?? 0, reason: error.reason ?? '' };
    });
    // Not to look at it is no mistake.
    this.closed.catch(() => {});
    const [address, port] = raw.remoteAddress;
    this.remoteAddress = { address, port };
    this.protocol = raw.protocol ?? '';
    this.incomingBidirectionalStreams = sequence(
      () => raw.acceptBidirectional(),
      (halves) => this.#both(halves),
      translate,
    );
    this.incomingUnidirectionalStreams = sequence(
      () => raw.acceptUnidirectional(),
      ([receive]) => readable(receive, translate),
      translate,
    );
    this.datagrams = {
      readable: sequence(() => raw.readDatagram(), (data) => data, translate),
      writable: new WritableStream({
        write(chunk) {
          // An error here is the datagram's, and does not end the stream of them.
          return raw.sendDatagram(bytesOf(chunk));
        },
      }),
      get maxDatagramSize() {
        return raw.maxDatagramSize ?? 0;
      },
    };
  }

  #both([send, receive]) {
    return {
      id: send.id,
      readable: readable(receive, this.#translate),
      writable: writable(send, this.#translate),
    };
  }

  async #open(promise, options) {
    let halves;
    try {
      halves = await promise;
    } catch (error) {
      throw this.#translate(error);
    }
    if (options?.sendOrder !== undefined) halves[0].setPriority(options.sendOrder);
    return halves;
  }

  async createBidirectionalStream(options) {
    return this.#both(await this.#open(this.#raw.openBidirectional(), options));
  }

  async createUnidirectionalStream(options) {
    const [send] = await this.#open(this.#raw.openUnidirectional(), options);
    return writable(send, this.#translate);
  }

  close({ closeCode = 0, reason = '' } = {}) {
    this.#closing ??= { closeCode, reason };
    this.#raw.close(closeCode, reason);
  }

  getStats() {
    return this.#raw.stats;
  }
}

/** Connect by `transport`, which is this connection's own. */
export async function connectBy(transport, { address, port, serverName }, options) {
  const { signal } = options;
  signal?.throwIfAborted();
  const watch = watched(transport);
  let endpoint;
  try {
    endpoint = new wasm.RawEndpoint(watch.transport, options);
  } catch (error) {
    watch.transport.close();
    throw error;
  }
  const end = async () => {
    await endpoint.waitIdle();
    endpoint.free();
  };
  const abort = () => endpoint.close(0, '');
  signal?.addEventListener('abort', abort);
  try {
    const raw = await endpoint.connect(address, port, serverName, plain(options));
    const connection = new Connection(raw, watch);
    connection.closed.catch(() => {}).then(end);
    return connection;
  } catch (error) {
    end();
    signal?.throwIfAborted();
    throw translator(watch)(error);
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

/** Whoever connects by `transport`, one after the other. */
export class Server {
  #endpoint;
  #waiting = [];
  #wanted = [];
  #done = false;
  #failure;
  #closed;

  constructor(transport, options) {
    const watch = watched(transport);
    try {
      this.#endpoint = new wasm.RawEndpoint(watch.transport, plain(options));
    } catch (error) {
      watch.transport.close();
      throw error;
    }
    this.address = {
      address: this.#endpoint.localAddress,
      port: this.#endpoint.localPort,
    };
    this.#accept(watch);
  }

  async #accept(watch) {
    for (;;) {
      const incoming = await this.#endpoint.accept();
      if (incoming === undefined) break;
      if (this.#waiting.length >= MAX_BACKLOG) {
        incoming.refuse();
        continue;
      }
      // Not awaited: a slow handshake holds nobody up. One that fails is the client's affair.
      incoming.accept().then(
        (raw) => this.#deliver(new Connection(raw, watch)),
        () => {},
      );
    }
    this.#done = true;
    this.#failure = watch.failure;
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

  close({ closeCode = 0, reason = '' } = {}) {
    this.#closed ??= (async () => {
      this.#endpoint.close(closeCode, reason);
      await this.#endpoint.waitIdle();
      this.#endpoint.free();
    })();
    return this.#closed;
  }
}

/** Host and port of a URL, whatever its scheme. */
export function target(url) {
  let parsed;
  try {
    // Schemes that browsers do not know are parsed differently.
    parsed = new URL(String(url).replace(/^[a-z][a-z0-9+.-]*:/i, 'https:'));
  } catch {
    throw new QuicError('InvalidArgumentError', `not a URL: ${url}`);
  }
  return {
    host: parsed.hostname.replace(/^\[|\]$/g, ''),
    port: Number(parsed.port || 443),
  };
}

/** A transport, out of what the option may be: one, or a function that makes one. */
export async function made(transport, at) {
  return typeof transport === 'function' ? await transport(at) : transport;
}
