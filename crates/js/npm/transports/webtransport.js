// Datagrams through a relay: WebTransport's to it, UDP from there. Unlike those in a WebSocket, they do not
// wait for each other. `polyquic relay --webtransport` is one.

import { QuicError, invalid, unlessAborted } from '../errors.js';
import { anywhere, parse, relayError, relayUrl, strange, unreachable } from './relay.js';

/** QUIC takes no path that carries less (RFC 9000 section 14). */
const MIN_DATAGRAM_BYTES = 1200;

/** How many datagrams the browser may hold back before QUIC is told to wait. */
const MAX_WAITING = 64;

/** How many the browser keeps while the page is busy. What it drops, QUIC takes for lost. */
const MAX_ARRIVED = 1024;

/** A promise of a transport to `host` and `port` through the relay at the URL `relay`. */
export async function webTransportTransport(relay, { host, port }, options = {}) {
  const { signal, relayCertificateHashes, WebTransport = globalThis.WebTransport } = options;
  signal?.throwIfAborted();
  if (!WebTransport) throw new QuicError('UnsupportedError', 'there is no WebTransport here');
  const url = relayUrl(relay, { host, port }, { secure: 'https:' });
  let session;
  try {
    session = new WebTransport(url, {
      requireUnreliable: true,
      congestionControl: 'low-latency',
      ...(relayCertificateHashes && { serverCertificateHashes: relayCertificateHashes }),
    });
  } catch (cause) {
    throw invalid(`WebTransport refuses its options: ${cause?.message}`, { cause });
  }
  // Who does not look at these has not made a mistake.
  session.ready.catch(() => {});
  const closed = session.closed.then(
    ({ closeCode, reason }) => {
      const said = parse(reason);
      return relayError(relay, closeCode, said.message ? '' : reason, said);
    },
    () => relayError(relay, 1006, ''),
  );
  let hello;
  try {
    const connected = session.ready.then(
      () => true,
      () => false,
    );
    if (!(await unlessAborted(connected, signal))) throw unreachable(relay);
    const first = message(session).catch(() => undefined);
    const ended = closed.then((error) => ({ error }));
    hello = await unlessAborted(Promise.race([first, ended]), signal);
    if (hello && !hello.error && !hello.target) throw strange(relay);
    // What it says before it closes says no more than how it closes.
    if (!hello?.target) throw await unlessAborted(closed, signal);
  } catch (error) {
    session.close();
    throw error;
  }
  const maxDatagramSize = Math.min(session.datagrams.maxDatagramSize, hello.maxDatagramSize);
  if (maxDatagramSize < MIN_DATAGRAM_BYTES) {
    session.close();
    throw new QuicError(
      'UnsupportedError',
      `${relay}: WebTransport carries datagrams of ${maxDatagramSize} bytes here, and QUIC needs ` +
        `${MIN_DATAGRAM_BYTES}: use the relay's WebSocket`,
    );
  }
  const { target } = hello;
  session.datagrams.outgoingHighWaterMark = MAX_WAITING;
  session.datagrams.incomingHighWaterMark = MAX_ARRIVED;
  // The specification is about to have the first, and no longer the second.
  const writer = (session.datagrams.createWritable?.() ?? session.datagrams.writable).getWriter();
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
