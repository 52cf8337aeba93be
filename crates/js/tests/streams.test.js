// Streams that are given up while something waits.

import assert from 'node:assert/strict';

import { quic, test } from './helper.js';
import { all, bytes, echo, first, pair, send, text } from './pair.js';

/** More than the peer takes if it does not read. */
const MUCH = new Uint8Array(10_000_000);

const PART = bytes('part');

test('a write that waits does not hold up an abort', async (t) => {
  const { connected, accepted } = await pair(t);
  const writer = (await connected.createUnidirectionalStream()).getWriter();
  await writer.write(PART);
  const writing = writer.write(MUCH);
  const reason = { streamErrorCode: 5 };
  const [written] = await Promise.allSettled([writing, writer.abort(reason)]);
  assert.deepEqual(written, { status: 'rejected', reason });
  await assert.rejects(writer.write(PART), (error) => error === reason);
  const stream = await first(accepted.incomingUnidirectionalStreams);
  await assert.rejects(all(stream), { name: 'StreamResetError', streamErrorCode: 5 });
});

test('a close that waits does not hold up an abort', async (t) => {
  let transport;
  const { connected } = await pair(t, {
    client: { maxIdleTimeout: 30_000, transport: () => (transport = quic.dgramTransport('127.0.0.1')) },
  });
  t.after(() => connected.close());
  const writer = (await connected.createUnidirectionalStream()).getWriter();
  // What is sent from now on is not acknowledged.
  transport.send = transport.sendBatch = () => true;
  await writer.write(PART);
  const closing = writer.close();
  const reason = new Error('no patience');
  const ends = await Promise.allSettled([closing, writer.abort(reason)]);
  // Not closed, so that nobody takes it for delivered.
  assert.deepEqual(ends.map((it) => it.reason), [reason, reason]);
});

test('a pipe that is given up ends when what it has taken is written', async (t) => {
  const { connected, accepted } = await pair(t);
  const writable = await connected.createUnidirectionalStream();
  let pulled = 0;
  const source = new ReadableStream({
    pull(controller) {
      pulled += 1;
      controller.enqueue(new Uint8Array(100_000));
    },
  });
  const controller = new AbortController();
  const piping = source.pipeTo(writable, { signal: controller.signal });
  const ping = await echo(connected, accepted);
  for (let before = -1; before !== pulled; ) {
    before = pulled;
    for (let i = 0; i < 50; i++) await ping();
  }
  assert.ok(pulled < 100, 'nothing held it back');
  controller.abort();
  const stream = await first(accepted.incomingUnidirectionalStreams);
  const reading = all(stream);
  await assert.rejects(piping, { name: 'AbortError' });
  await assert.rejects(reading, { name: 'StreamResetError', streamErrorCode: 0 });
});

test('a read that waits ends when the stream is cancelled', async (t) => {
  const { connected, accepted } = await pair(t);
  const ours = await connected.createBidirectionalStream();
  const writer = ours.writable.getWriter();
  await writer.write(PART);
  const theirs = await first(accepted.incomingBidirectionalStreams);
  const reader = theirs.readable.getReader();
  await reader.read();
  const reading = reader.read();
  await reader.cancel({ streamErrorCode: 9 });
  assert.equal((await reading).done, true);
  await assert.rejects(writer.closed, { name: 'StreamStoppedError', streamErrorCode: 9 });
  // The other half is another half.
  await send(theirs.writable, bytes('still here'));
  assert.equal(text(await all(ours.readable)), 'still here');
});

test('a stream that nobody wants any more is refused', async (t) => {
  const { connected, accepted } = await pair(t);
  const incoming = accepted.incomingUnidirectionalStreams.getReader();
  const waiting = incoming.read();
  await incoming.cancel();
  assert.equal((await waiting).done, true);
  const writer = (await connected.createUnidirectionalStream()).getWriter();
  writer.write(PART).catch(() => {});
  await assert.rejects(writer.closed, { name: 'StreamStoppedError', streamErrorCode: 0 });
});

test('a code that makes no sense ends the stream all the same', async (t) => {
  const { connected, accepted } = await pair(t);
  const invalid = { name: 'InvalidArgumentError' };
  for (const streamErrorCode of [-1, 0.5, 2 ** 62, 1n, 'one']) {
    const ours = await connected.createBidirectionalStream();
    const writer = ours.writable.getWriter();
    await writer.write(PART);
    const theirs = await first(accepted.incomingBidirectionalStreams);
    await assert.rejects(writer.abort({ streamErrorCode }), invalid);
    await assert.rejects(all(theirs.readable), { name: 'StreamResetError', streamErrorCode: 0 });
    await assert.rejects(ours.readable.cancel({ streamErrorCode }), invalid);
    const closed = theirs.writable.getWriter().closed;
    await assert.rejects(closed, { name: 'StreamStoppedError', streamErrorCode: 0 });
  }
});

test('what is no bytes is refused', async (t) => {
  const { connected } = await pair(t);
  const writer = (await connected.createUnidirectionalStream()).getWriter();
  await assert.rejects(writer.write('text'), { name: 'InvalidArgumentError' });
  await assert.rejects(connected.datagrams.send('text'), { name: 'InvalidArgumentError' });
});
