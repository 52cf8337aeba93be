// Datagrams through a relay: a WebSocket to it, UDP from there. `polyquic relay` is one.

import { QuicError } from '../errors.js';
import { anywhere, parse, relayError, relayUrl, strange, unreachable } from './relay.js';

const PROTOCOL = 'polyquic-relay.v1';

/** What the browser may hold back, in bytes, before QUIC is told to wait. */
const MAX_BUFFERED_BYTES = 256 * 1024;

/** How often to look whether that has gone down, in milliseconds: there is no event for it. */
const LOOK_AGAIN_MS = 4;

/** What is kept of what arrives before anybody is interested. */
const MAX_EARLY_DATAGRAMS = 64;

const OPEN = 1;

/** A promise of a transport to `host` and `port` through the relay at the URL `relay`. */
export async function webSocketTransport(relay, { host, port }, options = {}) {
  const { signal, WebSocket = globalThis.WebSocket } = options;
  signal?.throwIfAborted();
  const url = relayUrl(relay, { host, port }, { secure: 'wss:', plain: 'ws:' });
  if (!WebSocket) {
    throw new QuicError('UnsupportedError', 'no WebSocket here: pass one as an option');
  }
  let socket;
  try {
    socket = new WebSocket(url, PROTOCOL);
  } catch (cause) {
    // A page that was loaded by https: may not use ws:, for instance.
    throw unreachable(relay, { cause });
  }
  socket.binaryType = 'arraybuffer';
  // What the relay said before it closed.
  let said;
  const why = ({ code, reason }) => relayError(relay, code, reason, said);

  const abort = () => socket.close();
  signal?.addEventListener('abort', abort);
  let hello;
  try {
    hello = await new Promise((resolve, reject) => {
      const fail = (error) => reject(signal?.aborted ? signal.reason : error);
      // A browser does not say why a connection could not be made.
      const none = () => fail(unreachable(relay));
      socket.onclose = (event) =>
        event.code === 1006 && !said ? none() : fail(why(event));
      // `close` follows and knows more, except in some versions of Node, where it does not follow.
      socket.onerror = () => setTimeout(none, 0);
      socket.onmessage = ({ data }) => {
        if (typeof data !== 'string') return;
        const message = parse(data);
        if (message.error) said = message;
        else if (message.target) resolve(message);
        else fail(strange(relay));
      };
    });
    signal?.throwIfAborted();
  } catch (error) {
    socket.onclose = socket.onmessage = null;
    socket.close();
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
  }

  const { target, maxDatagramSize } = hello;
  let receiver;
  let lost;
  let early = [];
  // The time at which to look again, if QUIC waits.
  let timer;
  const look = () => {
    clearTimeout(timer);
    if (socket.readyState === OPEN && socket.bufferedAmount > MAX_BUFFERED_BYTES) {
      timer = setTimeout(look, LOOK_AGAIN_MS);
    } else {
      timer = undefined;
      receiver?.writable();
    }
  };
  socket.onmessage = ({ data }) => {
    if (typeof data === 'string') said = parse(data);
    else if (receiver) receiver.datagram(new Uint8Array(data), target.address, target.port);
    else if (early.length < MAX_EARLY_DATAGRAMS) early.push(data);
    // Timers of tabs in the background fire once a second, and this comes when it comes.
    if (timer !== undefined) look();
  };
  socket.onclose = (event) => {
    clearTimeout(timer);
    lost = why(event);
    receiver?.failed(lost);
  };
  return {
    target,
    localAddress: anywhere(target.address),
    maxDatagramSize,
    // On the way to the relay there are no packets that could be; from there on, the relay forbids it.
    mayFragment: false,
    start(it) {
      receiver = it;
      for (const data of early) receiver.datagram(new Uint8Array(data), target.address, target.port);
      early = [];
      if (lost) receiver.failed(lost);
    },
    send(data) {
      if (socket.readyState !== OPEN) return true;
      if (socket.bufferedAmount > MAX_BUFFERED_BYTES) {
        timer ??= setTimeout(look, LOOK_AGAIN_MS);
        return false;
      }
      socket.send(data);
      return true;
    },
    close() {
      receiver = undefined;
      clearTimeout(timer);
      socket.onclose = socket.onmessage = null;
      socket.close(1000);
    },
  };
}
