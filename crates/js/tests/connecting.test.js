// Attempts to connect that come to nothing, and what is left of them: nothing.

import assert from 'node:assert/strict';
import dns from 'node:dns/promises';
import { cpSync, renameSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import path from 'node:path';

import { quic, run, scratch, test } from './helper.js';
import { made, pair } from './pair.js';

/** A transport that counts how often it is closed. */
function counted() {
  const transport = quic.dgramTransport('127.0.0.1');
  const { close } = transport;
  transport.closed = 0;
  transport.close = function () {
    this.closed += 1;
    close();
  };
  return transport;
}

/** For a test: names have the addresses of `names`, after `delay` turns of the event loop. */
function resolveBy(t, names, meanwhile = () => {}) {
  const real = dns.lookup;
  dns.lookup = async (host) => {
    await meanwhile();
    const found = names[host];
    if (!found) throw new Error(`no ${host} here`);
    return found.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }));
  };
  syncBuiltinESMExports();
  t.after(() => {
    dns.lookup = real;
    syncBuiltinESMExports();
  });
}

test('a transport is closed, whatever an attempt fails by', async (t) => {
  resolveBy(t, {});
  const url = 'https://127.0.0.1:9';
  const ca = made.cert;
  const aborted = AbortSignal.abort();
  for (const [name, url_, options] of [
    ['AbortError', url, { ca, signal: aborted }],
    ['InvalidArgumentError', 'nonsense', { ca }],
    ['InvalidArgumentError', url, { ca, cert: made.cert }],
    ['InvalidArgumentError', url, { ca: 'no certificate' }],
    ['InvalidArgumentError', url, { ca, maxIdleTimeout: -1 }],
    ['UnresolvedError', 'https://nowhere.test', { ca }],
  ]) {
    const transport = counted();
    await assert.rejects(quic.connect(url_, { ...options, transport }), { name });
    // The last words of QUIC may take until the next turn.
    while (transport.closed === 0) await new Promise(setImmediate);
    assert.equal(transport.closed, 1, name);
  }
});

test('an attempt is given up at any point', async (t) => {
  const url = 'https://127.0.0.1:9';
  // With and without a name to look up after that.
  for (const target of [undefined, { address: '127.0.0.1', port: 9 }]) {
    const controller = new AbortController();
    let transport;
    const making = () => {
      controller.abort();
      return (transport = { ...counted(), target });
    };
    const { signal } = controller;
    await assert.rejects(quic.connect(url, { ca: made.cert, transport: making, signal }), { name: 'AbortError' });
    assert.equal(transport.closed, 1);
  }

  // While the name is looked up, which may take longer than anybody wants to wait.
  const second = new AbortController();
  resolveBy(t, {}, () => {
    second.abort();
    return new Promise(() => {});
  });
  const attempt = quic.connect('https://slow.test', { ca: made.cert, signal: second.signal });
  await assert.rejects(attempt, { name: 'AbortError' });
});

test('all addresses of a name are tried', async (t) => {
  const { listening } = await pair(t);
  // Nobody listens at the first, and the second cannot even be sent to.
  resolveBy(t, { 'many.test': ['::1', '2001:db8::1', '127.0.0.1'], 'six.test': ['::1'] });
  const options = { ca: made.cert, alpn: ['test'], serverName: 'localhost' };
  const url = `https://many.test:${listening.address.port}`;
  for (const localAddress of [undefined, { address: '127.0.0.1' }]) {
    const connection = await quic.connect(url, { ...options, localAddress });
    assert.equal(connection.remoteAddress.address, '127.0.0.1');
    connection.close();
  }
  // Who answers has answered.
  await assert.rejects(quic.connect(url, { ...options, serverName: 'elsewhere.test' }), { name: 'CertificateError' });
  await assert.rejects(
    quic.connect('https://six.test', { ...options, localAddress: { address: '127.0.0.1' } }),
    { name: 'InvalidArgumentError', message: /no address that can be reached from 127\.0\.0\.1/ },
  );
  // Which gives up all of them.
  const controller = new AbortController();
  resolveBy(t, { 'none.test': ['::1', '127.0.0.1'] });
  const attempt = quic.connect('https://none.test:9', { ...options, signal: controller.signal });
  setTimeout(() => controller.abort(), 300);
  await assert.rejects(attempt, { name: 'AbortError' });
});

test('a module that could not be had is asked for again', async (t) => {
  const copy = path.join(scratch(t), 'package');
  cpSync(process.env.POLYQUIC_PACKAGE, copy, { recursive: true });
  const [there, away] = ['polyquic_bg.wasm', 'away'].map((name) => path.join(copy, 'wasm', name));
  renameSync(there, away);
  const { QuicError, ready } = await import(path.join(copy, 'node.js'));
  await assert.rejects(ready(), (error) => {
    assert.ok(error instanceof QuicError);
    assert.deepEqual([error.name, error.cause.code], ['LoadError', 'ENOENT']);
    return true;
  });
  renameSync(away, there);
  await ready();
});

test('a transport that fails leaves no timer', async (t) => {
  const { listening } = await pair(t);
  const script = `
    import { connect, dgramTransport } from ${JSON.stringify(`${process.env.POLYQUIC_PACKAGE}/node.js`)};
    const [url, ca] = process.argv.slice(1);
    const transport = dgramTransport('127.0.0.1');
    const { start } = transport;
    let receiver;
    transport.start = (it) => start((receiver = it));
    const connection = await connect(url, { ca, alpn: ['test'], transport });
    const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
    const left = () => process.getActiveResourcesInfo().filter((it) => it === 'Timeout');
    // Until there is nothing to wait for but the idle timeout, in half a minute.
    await sleep(500);
    console.log(left().length);
    receiver.failed(new Error('for a test'));
    await connection.closed.catch((error) => console.log(error.name));
    for (let look = 0; look < 1000 && left().length > 0; look++) await sleep(5);
    console.log(left().length);
  `;
  const url = `https://127.0.0.1:${listening.address.port}`;
  const words = ['--input-type=module', '--eval', script, url, made.cert];
  const { stdout } = await run(process.execPath, words);
  assert.equal(stdout, '1\nTransportLostError\n0\n');
});

test('a transport that throws is not silent', async (t) => {
  const told = t.mock.method(console, 'warn', () => {});
  const transport = counted();
  const broken = new Error('broken');
  transport.send = transport.sendBatch = () => {
    throw broken;
  };
  await assert.rejects(
    quic.connect('https://127.0.0.1:9', { ca: made.cert, transport, maxIdleTimeout: 1000 }),
    { name: 'TimeoutError', cause: broken },
  );
  const said = told.mock.calls.map((it) => it.arguments[0]);
  assert.deepEqual(said, ['polyquic: the transport does not send: broken']);
});

test('a transport may call after it was closed, and fail by anything', async (t) => {
  const { listening } = await pair(t);
  const url = `https://127.0.0.1:${listening.address.port}`;
  for (const [why, expected] of [
    ['words', { name: 'TransportLostError', message: 'words', cause: 'words' }],
    [new Error('an error'), { name: 'TransportLostError', message: 'an error' }],
    [new quic.QuicError('RelayIdleError', 'of its own'), { name: 'RelayIdleError' }],
  ]) {
    const transport = counted();
    let receiver;
    const { start } = transport;
    transport.start = (it) => start((receiver = it));
    const connection = await quic.connect(url, { ca: made.cert, alpn: ['test'], transport });
    receiver.failed(why);
    await assert.rejects(connection.closed, expected);
    while (transport.closed === 0) await new Promise(setImmediate);
    receiver.datagram(new Uint8Array(1200), '127.0.0.1', 9);
    receiver.writable();
    receiver.failed(new Error('again'));
    await assert.rejects(connection.createUnidirectionalStream(), { name: expected.name });
  }
});
