// An event loop that is held up for seconds, as a tab in the background or a sleeping laptop is.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { hashOf, hq, nativeServer, quic, scratch, writeFile } from './helper.js';

/** Blocks everything in this process. */
const suspend = (milliseconds) =>
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);

test('a connection outlives a pause that is shorter than its idle timeout', async (t) => {
  const directory = scratch(t);
  const hash = writeFile(path.join(directory, 'file'), 2_000_000);
  const server = await nativeServer(t, 'smol', directory);
  const connection = await quic.connect(`https://127.0.0.1:${server.port}`, {
    ca: readFileSync(server.ca, 'utf8'),
    alpn: [hq.ALPN],
    keepAliveInterval: 100,
    maxIdleTimeout: 8000,
  });
  assert.equal(await hashOf(await hq.get(connection, '/file')), hash);
  suspend(5000);
  assert.equal(await hashOf(await hq.get(connection, '/file')), hash);
  connection.close();
  await connection.closed;
});

test('a pause in the middle of a transfer is not taken for loss', async (t) => {
  const directory = scratch(t);
  const hash = writeFile(path.join(directory, 'file'), 4_000_000);
  const server = await nativeServer(t, 'smol', directory);
  const connection = await quic.connect(`https://127.0.0.1:${server.port}`, {
    ca: readFileSync(server.ca, 'utf8'),
    alpn: [hq.ALPN],
    keepAliveInterval: 100,
  });
  const stream = await hq.get(connection, '/file');
  let paused = false;
  const held = stream.pipeThrough(
    new TransformStream({
      transform(chunk, controller) {
        if (!paused) {
          paused = true;
          suspend(2000);
        }
        controller.enqueue(chunk);
      },
    }),
  );
  assert.equal(await hashOf(held), hash);
  assert.ok(paused);
  // Everything that this side had sent was acknowledged while it was away, by datagrams that waited.
  const { packetsLost, smoothedRtt } = connection.getStats();
  assert.equal(packetsLost, 0);
  assert.ok(smoothedRtt < 500, `${smoothedRtt} ms: the pause was taken for a round trip`);
  connection.close();
  await connection.closed;
});
