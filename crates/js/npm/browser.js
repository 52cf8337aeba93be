// The package in browsers and their workers: there is no UDP, so connections go through a relay or a
// transport of the caller's.

import { connectBy, made, prepare } from './connection.js';
import { QuicError, invalid } from './errors.js';
import { load } from './module.js';
import { relayTransports, relayed } from './transports/relayed.js';

export { Connection } from './connection.js';
export { QuicError } from './errors.js';
export { Server } from './server.js';
export { webSocketTransport } from './transports/websocket.js';
export { webTransportTransport } from './transports/webtransport.js';

/** Fetch and start the WebAssembly module, before it is needed. */
export function ready() {
  return load(() => new URL('./wasm/polyquic_bg.wasm', import.meta.url));
}

export async function connect(url, options) {
  options ??= {};
  if (!options.transport && !options.relay) {
    throw invalid('browsers have no UDP: say by which `relay` (a URL) or `transport` to connect');
  }
  const at = await prepare(url, options, ready);
  const transport = options.transport
    ? await made(options.transport, at)
    : await relayed(at, options);
  const { address, port } = transport.target ?? { address: at.host, port: at.port };
  return connectBy(transport, { address, port, serverName: options.serverName ?? at.host }, options);
}

export function listen() {
  return Promise.reject(new QuicError('UnsupportedError', 'a browser cannot listen'));
}

export function dgramTransport() {
  throw new QuicError('UnsupportedError', 'a browser has no UDP');
}

export const capabilities = () => ({
  udp: false,
  listen: false,
  ecn: false,
  segmentationOffload: false,
  threads: false,
  postQuantum: false,
  relayTransports: relayTransports(),
});
