// Datagrams through a relay: WebTransport's to it, UDP from there. Unlike those in a WebSocket, they do not
// wait for each other. `polyquic relay --webtransport` is one.

import { QuicError } from '../errors.js';
import { anywhere, parse, relayError, relayUrl, targetOf, unreachable } from './relay.js';

/** QUIC takes no path that carries less (RFC 9000 section 14). */
const MIN_DATAGRAM_BYTES = 1200;

/** How many datagrams the browser may hold back before QUIC is told to wait. */
const MAX_WAITING = 64;

/** A promise of a transport to `host` and `port` through the relay at the URL `relay`. */
export async function webTransportTransport(relay, { host, port }, options = {}) {
  const { signal, relayCertificateHashes, WebTransport = globalThis.WebTransport } = options;
  signal?.throwIfAborted();
  if (!WebTransport) throw new QuicError('UnsupportedError', 'there is no WebTransport here');
  const session = new WebTransport(relayUrl(relay, { host, port }), {
    requireUnreliable: true,
    congestionControl: 'low-latency',
    ...(relayCertificateHashes && { serverCertificateHashes: relayCertificateHashes }),
  });
  // Who does not look at these has not made a mistake.
  session.ready.catch(() => {});
  const closed = session.closed.then(
    ({ closeCode, reason }) => {
      const said = parse(reason);
      return relayError(relay, closeCode, said.message ? '' : reason, said);
    },
    () => relayError(relay, 1006, ''),
  );
  const abort = () => session.close();
  signal?.addEventListener('abort', abort);
  let hello;
  try {
    const connected = await session.ready.then(
      () => true,
      () => false,
    );
    signal?.throwIfAborted();
    if (!connected) throw unreachable(relay);
    const first = message(session).catch(() => undefined);
    hello = await Promise.race([first, closed.then((error) => ({ error }))]);
    signal?.throwIfAborted();
    // What it says before it closes says no more than how it closes.
    if (!hello?.target) throw await closed;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
  const maxDatagramSize = Math.min(session.datagrams.maxDatagramSize, hello.maxDatagramSize ?? 1452);
  if (maxDatagramSize < MIN_DATAGRAM_BYTES) {
    session.close();
    throw new QuicError(
      'UnsupportedError',
      `${relay}: WebTransport carries datagrams of ${maxDatagramSize} bytes here, and QUIC needs ` +
        `${MIN_DATAGRAM_BYTES}: use the relay's WebSocket`,
    );
  }
  const target = targetOf(hello);
  session.datagrams.outgoingHighWaterMark = MAX_WAITING;
  const writer = session.datagrams.writable.getWriter();
  let receiver;
  let waiting = false;
  const look = () => {
    waiting = false;
    receiver?.writable();
  };
  // Without a rejection: `closed` tells.
  const nothing = () => {};
  return {
    target,
    localAddress: anywhere(target.address),
    maxDatagramSize,
    mayFragment: false,
    start(it) {
      receiver = it;
      closed.then((error) => receiver?.failed(error));
      (async () => {
        const reader = session.datagrams.readable.getReader();
        for (;;) {
          const { done, value } = await reader.read();
          if (done) return;
          receiver?.datagram(value, target.address, target.port);
        }
      })().catch(nothing);
    },
    send(data) {
      if (writer.desiredSize !== null && writer.desiredSize <= 0) {
        if (!waiting) {
          waiting = true;
          writer.ready.then(look, nothing);
        }
        return false;
      }
      writer.write(data).catch(nothing);
      return true;
    },
    close() {
      receiver = undefined;
      // After what has been written, such as the last words of QUIC.
      writer.close().then(() => session.close(), () => session.close());
    },
  };
}

/** The first message of the relay: each has a stream of its own. */
async function message(session) {
  const streams = session.incomingUnidirectionalStreams.getReader();
  const { value: stream } = await streams.read();
  streams.releaseLock();
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return parse(text);
    text += value;
  }
}
