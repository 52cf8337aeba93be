// The package in browsers and their workers: there is no UDP, so connections go through a relay or a
// transport of the caller's.

import { connectBy, load, made, target } from './connection.js';
import { QuicError } from './errors.js';
import { webSocketTransport } from './transports/websocket.js';
import { webTransportTransport } from './transports/webtransport.js';

export { Connection } from './connection.js';
export { QuicError } from './errors.js';
export { webSocketTransport } from './transports/websocket.js';
export { webTransportTransport } from './transports/webtransport.js';

/** Fetch and start the WebAssembly module, before it is needed. */
export function ready() {
  return load(() => new URL('./wasm/polyquic_bg.wasm', import.meta.url));
}

export async function connect(url, options = {}) {
  const at = target(url);
  await ready();
  if (!options.transport && !options.relay) {
    throw new QuicError(
      'InvalidArgumentError',
      'browsers have no UDP: say by which `relay` (a URL) or `transport` to connect',
    );
  }
  const transport = options.transport
    ? await made(options.transport, at)
    : await byRelay(options)(options.relay, at, options);
  const { address, port } = transport.target ?? { address: at.host, port: at.port };
  return connectBy(transport, { address, port, serverName: options.serverName ?? at.host }, options);
}

function byRelay({ relayTransport = 'websocket' }) {
  if (relayTransport === 'websocket') return webSocketTransport;
  if (relayTransport === 'webtransport') return webTransportTransport;
  throw new QuicError(
    'InvalidArgumentError',
    `\`relayTransport\` is "websocket" or "webtransport", not "${relayTransport}"`,
  );
}

export function listen() {
  return Promise.reject(new QuicError('UnsupportedError', 'a browser cannot listen'));
}
