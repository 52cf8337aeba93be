// The package in Node.

import { lookup } from 'node:dns/promises';
import { readFile } from 'node:fs/promises';
import { isIP, isIPv6 } from 'node:net';
import { rootCertificates } from 'node:tls';

import { anyOf } from './addresses.js';
import { connectBy, made, prepare } from './connection.js';
import { QuicError, invalid, unlessAborted } from './errors.js';
import { load } from './module.js';
import { Server } from './server.js';
import { dgramTransport } from './transports/dgram.js';
import { relayTransports, relayed } from './transports/relayed.js';

export { Connection } from './connection.js';
export { QuicError } from './errors.js';
export { Server } from './server.js';
export { dgramTransport } from './transports/dgram.js';
export { webSocketTransport } from './transports/websocket.js';
export { webTransportTransport } from './transports/webtransport.js';

/** Addresses of one name that are tried. */
const MAX_ADDRESSES = 8;

/** Read and start the WebAssembly module, before it is needed. */
export function ready() {
  return load(() => readFile(new URL('./wasm/polyquic_bg.wasm', import.meta.url)));
}

async function resolve(host) {
  if (isIP(host)) return [host];
  try {
    return (await lookup(host, { all: true })).map((it) => it.address);
  } catch (error) {
    throw new QuicError('UnresolvedError', `cannot resolve ${host}`, { cause: error });
  }
}

/** The addresses of `host` that can be sent to from `local`. */
async function reachable(host, local) {
  if (local !== undefined && !isIP(local)) throw invalid(`not an IP address: ${local}`);
  const addresses = (await resolve(host)).filter(
    (it) => local === undefined || local === '::' || isIPv6(local) === isIPv6(it),
  );
  if (addresses.length === 0) {
    throw invalid(`${host} has no address that can be reached from ${local}: one has IPv4, one IPv6`);
  }
  return addresses.slice(0, MAX_ADDRESSES);
}

export async function connect(url, options) {
  options ??= {};
  const { signal } = options;
  const at = await prepare(url, options, ready);
  const trusted = options.ca ?? options.serverCertificateHashes;
  if (!trusted) options = { ...options, ca: rootCertificates };
  const serverName = options.serverName ?? at.host;
  if (options.transport || options.relay) {
    const transport = options.transport
      ? await made(options.transport, at)
      : await relayed(at, options);
    let peer = transport.target;
    try {
      peer ??= { address: (await unlessAborted(resolve(at.host), signal))[0], port: at.port };
    } catch (error) {
      transport.close();
      throw error;
    }
    return connectBy(transport, { ...peer, serverName }, options);
  }
  const local = options.localAddress ?? {};
  const addresses = await unlessAborted(reachable(at.host, local.address), signal);
  const attempt = async (address, signal) =>
    connectBy(
      dgramTransport(local.address ?? (isIPv6(address) ? '::' : '0.0.0.0'), local.port),
      { address, port: at.port, serverName },
      { ...options, signal },
    );
  return anyOf(addresses, attempt, signal);
}

export async function listen(options) {
  options ??= {};
  await ready();
  const transport = options.transport
    ? await made(options.transport, options)
    : dgramTransport(options.address ?? '::', options.port ?? 0);
  return new Server(transport, options);
}

export const capabilities = () => ({
  udp: true,
  listen: true,
  ecn: false,
  segmentationOffload: false,
  threads: false,
  postQuantum: false,
  relayTransports: relayTransports(),
});
