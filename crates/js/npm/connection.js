// Connections, on what the WebAssembly module has.

import { Datagrams } from './datagrams.js';
import { bytesOf, codeOf, invalid, unlessAborted } from './errors.js';
import { readable, sequence, writable } from './streams.js';
import { translator, watched } from './watch.js';
import * as wasm from './wasm/polyquic.js';

/** Options as the module takes them. */
export function plain(options) {
  const ca = Array.isArray(options.ca) ? options.ca.join('\n') : options.ca;
  const hashes = options.serverCertificateHashes;
  if (!Array.isArray(hashes)) return { ...options, ca };
  const serverCertificateHashes = hashes.map((it) => ({
    algorithm: it?.algorithm,
    value: bytesOf(it?.value),
  }));
  return { ...options, ca, serverCertificateHashes };
}

/** What an application says when it closes something. */
export const closeInfo = ({ closeCode = 0, reason = '' } = {}) => ({
  closeCode: codeOf(closeCode),
  reason: String(reason),
});

const free = (halves) => halves.forEach((it) => it.free());

export class Connection {
  #raw;
  #translate;
  #closing;
  #oversized = 0;

  constructor(raw, watch) {
    this.#raw = raw;
    const translate = (this.#translate = translator(watch, () => this.#closing ?? watch.closing));
    this.closed = raw.closed().then((error) => {
      error = translate(error);
      if (error.name !== 'ConnectionClosedError') throw error;
      return { closeCode: error.closeCode ?? 0, reason: error.reason ?? '' };
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
      free,
    );
    this.incomingUnidirectionalStreams = sequence(
      () => raw.acceptUnidirectional(),
      ([receive]) => readable(receive, translate),
      translate,
      free,
    );
    this.datagrams = new Datagrams(raw, translate, () => (this.#oversized += 1));
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

  close(info) {
    const closing = closeInfo(info);
    this.#raw.close(closing.closeCode, closing.reason);
    this.#closing ??= closing;
  }

  getStats() {
    return { ...this.#raw.stats, oversizedDatagrams: this.#oversized };
  }
}

/** Connect by `transport`, which is this connection's own: it is closed, whatever comes. */
export async function connectBy(transport, { address, port, serverName }, options) {
  const { signal } = options;
  const watch = watched(transport);
  let endpoint;
  try {
    signal?.throwIfAborted();
    endpoint = new wasm.RawEndpoint(watch.transport, options, false);
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
    endpoint.close(0, '');
    end();
    signal?.throwIfAborted();
    throw translator(watch, () => undefined)(error);
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

/** What `connect` begins with: `ready`, and host and port of `url`. */
export async function prepare(url, options, ready) {
  try {
    options.signal?.throwIfAborted();
    if (options.cert !== undefined || options.key !== undefined) {
      throw invalid('`cert` and `key` are for servers: a client shows no certificate');
    }
    const at = target(url);
    await unlessAborted(ready(), options.signal);
    return at;
  } catch (error) {
    // It was the caller's, and is nobody's now.
    if (typeof options.transport === 'object') options.transport?.close();
    throw error;
  }
}

/** Host and port of a URL, whatever its scheme. */
function target(url) {
  let parsed;
  try {
    // Schemes that browsers do not know are parsed differently.
    parsed = new URL(String(url).replace(/^[a-z][a-z0-9+.-]*:/i, 'https:'));
  } catch {
    throw invalid(`not a URL: ${url}`);
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
