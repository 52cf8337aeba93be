// Connections through a relay, over WebSocket.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';

import { hashOf, hq, nativeServer, quic, scratch, test, writeFile } from './helper.js';
import { startRelay } from './relay.js';

async function connected(t, relay, options) {
  const directory = scratch(t);
  const hash = writeFile(path.join(directory, 'file'), 2_000_000);
  const server = await nativeServer(t, 'smol', directory);
  const connection = await quic.connect(`https://127.0.0.1:${server.port}`, {
    ca: readFileSync(server.ca, 'utf8'),
    alpn: [hq.ALPN],
    relay: relay.url,
    ...options,
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

test('what does not speak as a relay does is none', async (t) => {
  for (const hello of ['null', '7', '{', '{}', '{"target":7}', '{"target":"localhost:1"}', '{"target":"127.0.0.1:99999"}']) {
    const relay = await startRelay(t, { hello });
    await assert.rejects(quic.connect('https://127.0.0.1:9', { relay: relay.url }), (error) => {
      assert.ok(error instanceof quic.QuicError);
      assert.equal(error.name, 'RelayProtocolError', hello);
      return true;
    });
    while (relay.clients.size > 0) await new Promise(setImmediate);
  }
});

test('a relay that says strange things does no harm', async (t) => {
  const relay = await startRelay(t);
  const { connection, hash } = await connected(t, relay);
  for (const words of ['null', '7', '{', '[]', '{"error":{}}']) relay.say(words);
  assert.equal(await hashOf(await hq.get(connection, '/file')), hash);
  relay.say('{"error":7,"message":["no"]}');
  relay.stop(1001, 'shutting-down', 'done');
  await assert.rejects(connection.closed, { name: 'RelayClosedError', message: `${relay.url}: done` });
});

/** Relays with encryption, as those of tests have none. */
class Encrypted extends (globalThis.WebSocket ?? class {}) {
  constructor(url, protocol) {
    assert.equal(url.protocol, 'wss:');
    super(String(url).replace('wss:', 'ws:'), protocol);
  }
}

test('a WebSocket is taken where WebTransport does not come about', async (t) => {
  const relay = await startRelay(t);
  let tried = 0;
  const fails = (ready) =>
    class {
      closed = new Promise(() => {});
      ready = ready;
      constructor(url) {
        tried += 1;
        assert.match(String(url), /^https:.*target=127/);
      }
      close() {}
    };
  const refused = Promise.reject(new Error('no'));
  refused.catch(() => {});
  const never = new Promise(() => {});
  const options = { relayTransport: 'auto', WebSocket: Encrypted, relay: relay.url.replace('ws:', 'https:') };
  for (const ready of [refused, never]) {
    const { connection, hash } = await connected(t, relay, { ...options, WebTransport: fails(ready) });
    assert.equal(await hashOf(await hq.get(connection, '/file')), hash);
    connection.close();
  }
  // Not tried where it cannot be.
  const { connection } = await connected(t, relay, { relayTransport: 'auto', WebTransport: fails(never) });
  connection.close();
  assert.equal(tried, 2);
  // And where there is none.
  (await connected(t, relay, options)).connection.close();

  const controller = new AbortController();
  const attempt = connected(t, relay, { ...options, WebTransport: fails(never), signal: controller.signal });
  setTimeout(() => controller.abort(), 100);
  await assert.rejects(attempt, { name: 'AbortError' });
  const socket = { ...options, WebSocket: class { constructor() { throw new Error('insecure'); } } };
  await assert.rejects(connected(t, relay, socket), { name: 'RelayUnreachableError' });
});

/** A WebSocket that sends nothing, and the timers that were set meanwhile. */
async function stuck(t) {
  let socket;
  class Socket {
    readyState = 1;
    bufferedAmount = 0;
    constructor() {
      socket = this;
      queueMicrotask(() => this.onmessage({ data: '{"target":"127.0.0.1:9"}' }));
    }
    send() {
      this.bufferedAmount = 1e6;
    }
    close() {
      this.readyState = 3;
    }
  }
  const options = { WebSocket: Socket };
  const transport = await quic.webSocketTransport('ws://relay', { host: '127.0.0.1', port: 9 }, options);
  const timers = new Map();
  t.mock.method(globalThis, 'setTimeout', (run) => {
    timers.set(run, run);
    return run;
  });
  t.mock.method(globalThis, 'clearTimeout', (timer) => timers.delete(timer));
  const got = [];
  const receiver = {
    datagram: (data) => got.push(data),
    writable: () => got.push('writable'),
    failed: (error) => got.push(error.name),
  };
  const fire = () => {
    const due = [...timers.values()];
    timers.clear();
    due.forEach((run) => run());
  };
  return { socket, transport, receiver, timers, fire, got };
}

test('a socket that is full is looked at until it is not, or is lost', async (t) => {
  const { socket, transport, receiver, timers, fire, got } = await stuck(t);
  transport.start(receiver);
  const full = () => {
    assert.notEqual(transport.send(new Uint8Array(1)), false);
    assert.equal(transport.send(new Uint8Array(1)), false);
    assert.equal(transport.send(new Uint8Array(1)), false);
    assert.equal(timers.size, 1);
  };
  full();
  fire();
  assert.equal(timers.size, 1, 'it was still full');
  socket.bufferedAmount = 0;
  fire();
  assert.deepEqual([got, timers.size], [['writable'], 0]);

  // Whatever arrives is an occasion to look, before the timer.
  full();
  socket.bufferedAmount = 0;
  socket.onmessage({ data: new ArrayBuffer(3) });
  assert.deepEqual([got.length, got.at(-1), timers.size], [3, 'writable', 0]);

  full();
  socket.readyState = 3;
  socket.onclose({ code: 1006, reason: '' });
  assert.deepEqual([got.at(-1), timers.size], ['RelayClosedError', 0]);
  assert.notEqual(transport.send(new Uint8Array(1)), false, 'lost, as datagrams may be');
  assert.equal(timers.size, 0);
});

test('a socket that is lost without a word is not looked at for ever', async (t) => {
  const { socket, transport, receiver, timers, fire } = await stuck(t);
  transport.start(receiver);
  transport.send(new Uint8Array(1));
  assert.equal(transport.send(new Uint8Array(1)), false);
  socket.readyState = 2;
  fire();
  assert.equal(timers.size, 0);
});

test('what arrives before and after anybody is interested is bounded', async (t) => {
  const { socket, transport, receiver, got } = await stuck(t);
  for (let i = 0; i < 1000; i++) socket.onmessage({ data: new ArrayBuffer(1) });
  transport.start(receiver);
  assert.equal(got.length, 64);
  transport.close();
  assert.equal(socket.onmessage, null);
});
