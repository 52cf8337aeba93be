// Datagrams through a relay: a WebSocket to it, UDP from there. `polyquic relay` is one.

import { QuicError } from '../errors.js';

const PROTOCOL = 'polyquic-relay.v1';

/** What the browser may hold back, in bytes, before QUIC is told to wait. */
const MAX_BUFFERED_BYTES = 256 * 1024;

/** How often to look whether that has gone down, in milliseconds: there is no event for it. */
const LOOK_AGAIN_MS = 4;

const NAMES = {
  1001: ['RelayClosedError', 'the relay was shut down'],
  1006: ['RelayClosedError', 'the connection to the relay was lost'],
  4403: ['RelayForbiddenError', 'the relay does not lead to this target'],
  4404: ['RelayUnresolvedError', 'the relay cannot resolve the target'],
  4408: ['RelayIdleError', 'the relay was not used for too long'],
  4429: ['RelayLimitError', 'the relay was asked for too much'],
};

function relayUrl(relay, host, port) {
  const url = new URL(relay);
  url.protocol = url.protocol.replace(/^http/, 'ws');
  if (url.pathname === '/') url.pathname = '/udp';
  url.searchParams.set('target', host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`);
  return url;
}

/** A promise of a transport to `host` and `port` through the relay at the URL `relay`. */
export async function webSocketTransport(relay, { host, port }, options = {}) {
  const { signal, WebSocket = globalThis.WebSocket } = options;
  signal?.throwIfAborted();
  if (!WebSocket) {
    throw new QuicError('InvalidArgumentError', 'no WebSocket here: pass one as an option');
  }
  const socket = new WebSocket(relayUrl(relay, host, port), PROTOCOL);
  socket.binaryType = 'arraybuffer';
  // What the relay said before it closed.
  let said;
  const why = (event) => {
    const [name, words] = NAMES[event.code] ?? ['RelayClosedError', 'the relay closed'];
    const message = said?.message ?? (event.reason || words);
    return new QuicError(name, `${relay}: ${message}`, {
      source: 'session',
      ...(said?.error && { relayError: said.error }),
    });
  };
  const parse = (text) => {
    try {
      return JSON.parse(text);
    } catch {
      return {};
    }
  };

  const abort = () => socket.close();
  signal?.addEventListener('abort', abort);
  let hello;
  try {
    hello = await new Promise((resolve, reject) => {
      const fail = (error) => reject(signal?.aborted ? signal.reason : error);
      // A browser does not say why a connection could not be made.
      const unreachable = () =>
        fail(new QuicError('RelayUnreachableError', `cannot connect to the relay ${relay}`));
      socket.onclose = (event) =>
        event.code === 1006 && !said ? unreachable() : fail(why(event));
      // `close` follows and knows more, except in some versions of Node, where it does not follow.
      socket.onerror = () => setTimeout(unreachable, 0);
      socket.onmessage = ({ data }) => {
        if (typeof data !== 'string') return;
        const message = parse(data);
        if (message.error) said = message;
        else if (message.target) resolve(message);
      };
    });
  } finally {
    signal?.removeEventListener('abort', abort);
  }

  const separator = hello.target.lastIndexOf(':');
  const address = hello.target.slice(0, separator).replace(/^\[|\]$/g, '');
  const targetPort = Number(hello.target.slice(separator + 1));
  let receiver;
  let lost;
  let early = [];
  let looking = false;
  socket.onmessage = ({ data }) => {
    if (typeof data === 'string') said = parse(data);
    else if (receiver) receiver.datagram(new Uint8Array(data), address, targetPort);
    else early.push(data);
  };
  socket.onclose = (event) => {
    lost = why(event);
    receiver?.failed(lost);
  };
  const look = () => {
    if (socket.bufferedAmount > MAX_BUFFERED_BYTES) setTimeout(look, LOOK_AGAIN_MS);
    else {
      looking = false;
      receiver?.writable();
    }
  };
  return {
    target: { address, port: targetPort },
    localAddress: { address: address.includes(':') ? '::' : '0.0.0.0', port: 0 },
    maxDatagramSize: hello.maxDatagramSize ?? 1452,
    // On the way to the relay there are no packets that could be; from there on, the relay forbids it.
    mayFragment: false,
    start(it) {
      receiver = it;
      for (const data of early) receiver.datagram(new Uint8Array(data), address, targetPort);
      early = [];
      if (lost) receiver.failed(lost);
    },
    send(data) {
      if (socket.readyState !== 1) return true;
      if (socket.bufferedAmount > MAX_BUFFERED_BYTES) {
        if (!looking) {
          looking = true;
          setTimeout(look, LOOK_AGAIN_MS);
        }
        return false;
      }
      socket.send(data);
      return true;
    },
    close() {
      receiver = undefined;
      socket.onclose = null;
      socket.close(1000);
    },
  };
}
