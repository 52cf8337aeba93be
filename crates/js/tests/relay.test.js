// Connections through a relay, over WebSocket.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { hashOf, hq, nativeServer, quic, scratch, writeFile } from './helper.js';
import { startRelay } from './relay.js';

async function connected(t, relay) {
  const directory = scratch(t);
  const hash = writeFile(path.join(directory, 'file'), 2_000_000);
  const server = await nativeServer(t, 'smol', directory);
  const connection = await quic.connect(`https://127.0.0.1:${server.port}`, {
    ca: readFileSync(server.ca, 'utf8'),
    alpn: [hq.ALPN],
    relay: relay.url,
  });
  return { server, connection, hash };
}

test('a file comes whole through a relay', async (t) => {
  const relay = await startRelay(t);
  const { server, connection, hash } = await connected(t, relay);
  assert.deepEqual(relay.targets, [`127.0.0.1:${server.port}`]);
  assert.equal(await hashOf(await hq.get(connection, '/file')), hash);
  assert.ok(relay.datagrams > 10);
  assert.ok(connection.getStats().pathMtu <= 1400);
  connection.close();
  assert.deepEqual(await connection.closed, { closeCode: 0, reason: '' });
});

test('a relay that shuts down is an error that says so', async (t) => {
  const relay = await startRelay(t);
  const { connection } = await connected(t, relay);
  const stream = await connection.createBidirectionalStream();
  const reading = stream.readable.getReader().read();
  relay.stop(1001, 'shutting-down', 'the relay is being restarted');
  const error = { name: 'RelayClosedError', source: 'session', relayError: 'shutting-down' };
  await assert.rejects(connection.closed, error);
  await assert.rejects(reading, error);
  await assert.rejects(connection.createBidirectionalStream(), error);
});

test('a relay that refuses is an error that says why', async (t) => {
  for (const [code, name] of [
    [4403, 'RelayForbiddenError'],
    [4404, 'RelayUnresolvedError'],
    [4408, 'RelayIdleError'],
    [4429, 'RelayLimitError'],
  ]) {
    const relay = await startRelay(t, { refuse: { code, error: 'no', message: 'not you' } });
    await assert.rejects(
      quic.connect('https://127.0.0.1:9', { relay: relay.url }),
      { name, relayError: 'no', message: `${relay.url}: not you` },
    );
  }
});

test('a relay that is not there is an error, too', async () => {
  await assert.rejects(quic.connect('https://127.0.0.1:9', { relay: 'ws://127.0.0.1:9' }), {
    name: 'RelayUnreachableError',
  });
});
