// Two ends of a connection, in one process, and what tests do with them.

import { certificate } from './certificate.js';
import { quic } from './helper.js';

export const made = certificate();
export const text = (data) => new TextDecoder().decode(data);
export const bytes = (string) => new TextEncoder().encode(string);

/** A server, a client, and the server's end of it; gone after the test. */
export async function pair(t, { client = {}, server = {} } = {}) {
  const { cert, key } = made;
  const listening = await quic.listen({ address: '127.0.0.1', cert, key, alpn: ['test'], ...server });
  t.after(() => listening.close());
  const [connected, accepted] = await Promise.all([
    quic.connect(`https://127.0.0.1:${listening.address.port}`, {
      ca: made.cert,
      alpn: ['test'],
      ...client,
    }),
    listening.next(),
  ]);
  return { listening, connected, accepted: accepted.value };
}

/** All bytes of a stream. */
export async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

export async function send(writable, data) {
  const writer = writable.getWriter();
  await writer.write(data);
  await writer.close();
}

/** The first of a stream of things, which others may go on to read. */
export async function first(sequence) {
  const reader = sequence.getReader();
  const { value } = await reader.read();
  reader.releaseLock();
  return value;
}

/** A function that sends something, and returns when it has come back. */
export async function echo(connected, accepted) {
  const { readable, writable } = await accepted.createBidirectionalStream();
  const [writer, reader] = [writable.getWriter(), readable.getReader()];
  await writer.write(bytes('x'));
  const other = await first(connected.incomingBidirectionalStreams);
  // Until the connection ends.
  other.readable.pipeTo(other.writable).catch(() => {});
  await reader.read();
  return async () => {
    await writer.write(bytes('x'));
    await reader.read();
  };
}

/** Has `send` send a datagram until it arrives at `connection`: they may be lost. */
export async function eventually(connection, data, send) {
  const reader = connection.datagrams.readable.getReader();
  let arrived = false;
  const reading = (async () => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error('the connection was closed');
      // Others may be those of a test before.
      if (Buffer.compare(value, Buffer.from(data)) === 0) return;
    }
  })().finally(() => (arrived = true));
  while (!arrived) {
    await send(data);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await reading;
  reader.releaseLock();
}
