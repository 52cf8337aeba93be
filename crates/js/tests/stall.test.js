// An event loop that is held up for seconds, as a tab in the background or a sleeping laptop is.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';

import { certificate } from './certificate.js';
import { hashOf, hq, nativeServer, perfServer, quic, scratch, test, writeFile } from './helper.js';

const PAUSE_MS = 5000;

/** Blocks everything in this process. */
const suspend = (milliseconds) =>
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);

async function connected(t, size, options) {
  const directory = scratch(t);
  const hash = writeFile(path.join(directory, 'file'), size);
  const server = await nativeServer(t, 'smol', directory);
  const connection = await quic.connect(`https://127.0.0.1:${server.port}`, {
    ca: readFileSync(server.ca, 'utf8'),
    alpn: [hq.ALPN],
    keepAliveInterval: 100,
    ...options,
  });
  t.after(() => connection.close());
  return { connection, hash };
}

test('a connection outlives a pause that is shorter than its idle timeout', async (t) => {
  const { connection, hash } = await connected(t, 2_000_000, { maxIdleTimeout: 8000 });
  assert.equal(await hashOf(await hq.get(connection, '/file')), hash);
  // Something is under way when it begins, and is acknowledged before it is over.
  const { readable, writable } = await connection.createBidirectionalStream();
  const writer = writable.getWriter();
  writer.write(new TextEncoder().encode('GET /f'));
  await new Promise(setImmediate);
  const { datagramsReceived } = connection.getStats();
  suspend(PAUSE_MS);
  // The acknowledgement waited. It is not taken for late, or else the pause for a round trip.
  while (connection.getStats().datagramsReceived === datagramsReceived && !t.signal.aborted) {
    await new Promise(setImmediate);
  }
  const { packetsLost, smoothedRtt } = connection.getStats();
  assert.equal(packetsLost, 0);
  // One round trip of that length would have brought an eighth of it (RFC 9002 section 5.3).
  assert.ok(smoothedRtt < PAUSE_MS / 16, `${smoothedRtt} ms: the pause was taken for a round trip`);
  assert.equal(await hashOf(await hq.get(connection, '/file')), hash);
  await writer.abort();
  await readable.cancel();
});

/** Takes all of `stream` with a pause in the middle, and returns its hash. */
async function hashWithPause(stream, milliseconds) {
  let paused = false;
  const held = stream.pipeThrough(
    new TransformStream({
      transform(chunk, controller) {
        if (!paused) {
          paused = true;
          suspend(milliseconds);
        }
        controller.enqueue(chunk);
      },
    }),
  );
  const hash = await hashOf(held);
  assert.ok(paused);
  return hash;
}

test('a pause in the middle of a download does no harm to it', async (t) => {
  const { connection, hash } = await connected(t, 4_000_000);
  const stream = await hq.get(connection, '/file');
  assert.equal(await hashWithPause(stream, 2000), hash);
  // What was on its way when it began is not taken for a round trip of two seconds.
  const { smoothedRtt } = connection.getStats();
  assert.ok(smoothedRtt < 2000 / 16, `${smoothedRtt} ms: the pause was taken for a round trip`);
});

test('a pause in the middle of an upload does no harm to it', async (t) => {
  const server = await perfServer(t, 'smol');
  const connection = await quic.connect(`https://127.0.0.1:${server.port}`, {
    ca: readFileSync(server.ca, 'utf8'),
    alpn: ['polyquic-perf'],
  });
  t.after(() => connection.close());
  const { readable, writable } = await connection.createBidirectionalStream();
  const writer = writable.getWriter();
  // How many bytes to send back: none.
  await writer.write(new Uint8Array(8));
  const chunk = new Uint8Array(64 * 1024);
  for (let i = 0; i < 64; i++) {
    await writer.write(chunk);
    if (i === 32) suspend(2000);
  }
  await writer.close();
  for await (const _ of readable) assert.fail('nothing was asked for');
  const { packetsLost, packetsSent, smoothedRtt } = connection.getStats();
  assert.ok(packetsSent > 1000, `${packetsSent}`);
  // The server's socket may have been too small for some, but not for a window of them.
  assert.ok(packetsLost < packetsSent / 10, `${packetsLost} of ${packetsSent} packets were taken for lost`);
  assert.ok(smoothedRtt < 2000 / 16, `${smoothedRtt} ms: the pause was taken for a round trip`);
});

test('who calls first after a pause does not end it', async (t) => {
  const { connection, hash } = await connected(t, 2_000_000, { maxIdleTimeout: 8000 });
  // So that something waits to be acknowledged.
  const writer = (await connection.createBidirectionalStream()).writable.getWriter();
  writer.write(new TextEncoder().encode('GET /f'));
  await new Promise(setImmediate);
  suspend(PAUSE_MS);
  // Asks for the time before the event loop has come round.
  const other = quic.connect('https://127.0.0.1:9', { ca: certificate().cert });
  other.catch(() => {});
  assert.equal(await hashOf(await hq.get(connection, '/file')), hash);
  assert.ok(connection.getStats().smoothedRtt < PAUSE_MS / 16);
  await writer.abort();
});

test('timers that fire once a second, as in a tab in the background, do no harm', async (t) => {
  const real = globalThis.setTimeout;
  let rounded = 0;
  globalThis.setTimeout = (run, delay, ...rest) => {
    rounded += 1;
    return real(run, Math.max(1, Math.ceil(delay / 1000)) * 1000, ...rest);
  };
  t.after(() => (globalThis.setTimeout = real));
  const { connection, hash } = await connected(t, 2_000_000, {
    keepAliveInterval: 1000,
    maxIdleTimeout: 4000,
  });
  assert.equal(await hashOf(await hq.get(connection, '/file')), hash);
  // Silence, but for what keeps the connection from being given up by either side.
  await new Promise((resolve) => real(resolve, 2 * PAUSE_MS));
  assert.equal(await hashOf(await hq.get(connection, '/file')), hash);
  // Acknowledgements were in time; that the timers were late was not taken for losses.
  assert.equal(connection.getStats().packetsLost, 0);
  assert.ok(rounded > 2, 'the connection asked for timers of somebody else');
});
