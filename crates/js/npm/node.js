// The package in Node.

import { lookup } from 'node:dns/promises';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { rootCertificates } from 'node:tls';

import { Server, connectBy, load, made, target } from './connection.js';
import { QuicError } from './errors.js';
import { dgramTransport } from './transports/dgram.js';
import { webSocketTransport } from './transports/websocket.js';

export { Connection, Server } from './connection.js';
export { QuicError } from './errors.js';
export { dgramTransport } from './transports/dgram.js';
export { webSocketTransport } from './transports/websocket.js';

/** Read and start the WebAssembly module, before it is needed. */
export function ready() {
  return load(() => readFile(new URL('./wasm/polyquic_bg.wasm', import.meta.url)));
}

async function resolve(host) {
  if (isIP(host)) return host;
  try {
    return (await lookup(host)).address;
  } catch (error) {
    throw new QuicError('UnresolvedError', `cannot resolve ${host}`, { cause: error });
  }
}

export async function connect(url, options = {}) {
  const at = target(url);
  await ready();
  let transport;
  let peer;
  if (options.transport) {
    transport = await made(options.transport, at);
    peer = transport.target ?? { address: await resolve(at.host), port: at.port };
  } else if (options.relay) {
    transport = await webSocketTransport(options.relay, at, options);
    peer = transport.target;
  } else {
    peer = { address: await resolve(at.host), port: at.port };
    const local = options.localAddress ?? {};
    transport = dgramTransport(
      local.address ?? (peer.address.includes(':') ? '::' : '0.0.0.0'),
      local.port,
    );
  }
  const trusted = options.ca ?? options.serverCertificateHashes;
  return connectBy(
    transport,
    { ...peer, serverName: options.serverName ?? at.host },
    trusted ? options : { ...options, ca: rootCertificates },
  );
}

export async function listen(options) {
  await ready();
  const transport = options.transport
    ? await made(options.transport, options)
    : dgramTransport(options.address ?? '::', options.port ?? 0);
  return new Server(transport, options);
}
