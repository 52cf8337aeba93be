// Which way to a relay.

import { QuicError, invalid } from '../errors.js';
import { webSocketTransport } from './websocket.js';
import { webTransportTransport } from './webtransport.js';

/** How long WebTransport has to come about before a WebSocket is taken, in milliseconds. */
const AUTO_PATIENCE_MS = 3000;

/** After these a WebSocket may still come about. */
const PASSABLE = ['UnsupportedError', 'RelayUnreachableError'];

const WAYS = {
  websocket: webSocketTransport,
  webtransport: webTransportTransport,
  auto: either,
};

/** A transport through the relay of `options`. */
export function relayed(at, options) {
  const way = options.relayTransport ?? 'websocket';
  if (!Object.hasOwn(WAYS, way)) {
    throw invalid(`\`relayTransport\` is "websocket", "webtransport" or "auto", not "${way}"`);
  }
  return WAYS[way](options.relay, at, options);
}

/** WebTransport where it comes about, else a WebSocket. */
async function either(relay, at, options) {
  if (/^(https|wss):/i.test(relay)) {
    const controller = new AbortController();
    const abort = () => controller.abort(options.signal.reason);
    options.signal?.addEventListener('abort', abort);
    const slow = new QuicError('RelayUnreachableError', `${relay}: WebTransport does not come about`);
    const timer = setTimeout(() => controller.abort(slow), AUTO_PATIENCE_MS);
    try {
      return await webTransportTransport(relay, at, { ...options, signal: controller.signal });
    } catch (error) {
      options.signal?.throwIfAborted();
      if (!PASSABLE.includes(error?.name)) throw error;
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', abort);
    }
  }
  return webSocketTransport(relay, at, options);
}

/** What `relayTransport` may be here. */
export const relayTransports = () => [
  ...(globalThis.WebSocket ? ['websocket'] : []),
  ...(globalThis.WebTransport ? ['webtransport'] : []),
];
