// Node against Node, in one process: everything that a connection can do.

import assert from 'node:assert/strict';

import { quic, run, sha256, test } from './helper.js';
import { all, bytes, echo, eventually, first, made, pair, send, text } from './pair.js';

test('a bidirectional stream carries both ways', async (t) => {
  const { connected, accepted } = await pair(t);
  const ours = await connected.createBidirectionalStream();
  await ours.writable.getWriter().write(bytes('hello'));
  const theirs = await first(accepted.incomingBidirectionalStreams);
  assert.equal(theirs.id, ours.id);
  assert.equal(text((await theirs.readable.getReader().read()).value), 'hello');
  await send(theirs.writable, bytes('and back'));
  assert.equal(text(await all(ours.readable)), 'and back');
});

test('unidirectional streams go both ways, and end', async (t) => {
  const { connected, accepted } = await pair(t);
  for (const [from, to] of [[connected, accepted], [accepted, connected]]) {
    const [, received] = await Promise.all([
      from.createUnidirectionalStream({ sendOrder: 1 }).then((it) => send(it, bytes('one way'))),
      first(to.incomingUnidirectionalStreams).then(all),
    ]);
    assert.equal(text(received), 'one way');
  }
});

test('megabytes arrive as they were sent', async (t) => {
  const { connected, accepted } = await pair(t);
  const data = Buffer.alloc(5_000_000);
  for (let at = 0; at + 4 <= data.length; at += 4) data.writeUInt32LE((at * 40503) >>> 0, at);
  const [, received] = await Promise.all([
    connected.createUnidirectionalStream().then((it) => send(it, data)),
    first(accepted.incomingUnidirectionalStreams).then(all),
  ]);
  assert.equal(sha256(received), sha256(data));
});

test('a reader that does not read holds the writer back', async (t) => {
  const { connected, accepted } = await pair(t);
  const writer = (await connected.createUnidirectionalStream()).getWriter();
  let written = 0;
  const chunk = new Uint8Array(100_000);
  const writing = (async () => {
    while (written < 100 * chunk.length) {
      await writer.ready;
      await writer.write(chunk);
      written += chunk.length;
    }
    await writer.close();
  })();
  const stream = await first(accepted.incomingUnidirectionalStreams);
  // The stream's window is 1,250,000 bytes. Messages that make the way there and back show that no more
  // comes while nobody reads.
  const ping = await echo(connected, accepted);
  let before = -1;
  while (before !== written) {
    before = written;
    for (let i = 0; i < 50; i++) await ping();
  }
  assert.ok(written < 5_000_000, `${written} bytes were written`);
  assert.equal((await all(stream)).length, 100 * chunk.length);
  await writing;
});

test('a stream that is aborted or cancelled says so with its code', async (t) => {
  const { connected, accepted } = await pair(t);
  const ours = await connected.createBidirectionalStream();
  await ours.writable.getWriter().write(bytes('part'));
  const theirs = await first(accepted.incomingBidirectionalStreams);
  const reader = theirs.readable.getReader();
  await reader.read();

  await theirs.writable.abort({ streamErrorCode: 77 });
  await assert.rejects(all(ours.readable), { name: 'StreamResetError', streamErrorCode: 77, source: 'stream' });

  const writable = (await connected.createUnidirectionalStream()).getWriter();
  await writable.write(bytes('part'));
  const other = await first(accepted.incomingUnidirectionalStreams);
  await other.cancel({ streamErrorCode: 78 });
  await assert.rejects(writable.closed, { name: 'StreamStoppedError', streamErrorCode: 78 });
  await assert.rejects(writable.write(bytes('more')), { name: 'StreamStoppedError' });
});

test('a buffer of the reader can be filled', async (t) => {
  const { connected, accepted } = await pair(t);
  const [, result] = await Promise.all([
    connected.createUnidirectionalStream().then((it) => send(it, bytes('0123456789'))),
    (async () => {
      const reader = (await first(accepted.incomingUnidirectionalStreams)).getReader({ mode: 'byob' });
      let got = '';
      for (;;) {
        const { done, value } = await reader.read(new Uint8Array(4));
        if (done) return got;
        got += text(value);
      }
    })(),
  ]);
  assert.equal(result, '0123456789');
});

test('datagrams go both ways', async (t) => {
  const { connected, accepted } = await pair(t);
  const size = connected.datagrams.maxDatagramSize;
  assert.ok(size > 1000 && size < 1500, `${size}`);
  const writer = connected.datagrams.writable.getWriter();
  await eventually(accepted, bytes('ping'), (it) => writer.write(it));
  await eventually(connected, bytes('pong'), (it) => accepted.datagrams.send(it));
  await eventually(accepted, bytes('a buffer').buffer, (it) => connected.datagrams.send(it));
});

test('a datagram that is too large is lost, and no other', async (t) => {
  const { connected, accepted } = await pair(t);
  const large = new Uint8Array(connected.datagrams.maxDatagramSize + 1);
  const writer = connected.datagrams.writable.getWriter();
  await writer.write(large);
  await writer.write(large);
  assert.equal(connected.getStats().oversizedDatagrams, 2);
  await eventually(accepted, bytes('after'), (it) => writer.write(it));

  await assert.rejects(connected.datagrams.send(large), { name: 'DatagramTooLargeError' });
  await eventually(accepted, bytes('and after'), (it) => connected.datagrams.send(it));
  assert.equal(connected.getStats().oversizedDatagrams, 2);

  accepted.close({ closeCode: 3, reason: 'no more' });
  const lost = { name: 'ConnectionClosedError', closeCode: 3, reason: 'no more' };
  await connected.closed;
  await assert.rejects(connected.datagrams.send(bytes('late')), lost);
  await assert.rejects(writer.write(bytes('late')), lost);
});

test('closing tells code and reason to both sides', async (t) => {
  const { connected, accepted } = await pair(t);
  const stream = await connected.createBidirectionalStream();
  const blocked = stream.readable.getReader().read();
  accepted.close({ closeCode: 4242, reason: 'enough' });
  assert.deepEqual(await connected.closed, { closeCode: 4242, reason: 'enough' });
  assert.deepEqual(await accepted.closed, { closeCode: 4242, reason: 'enough' });
  const lost = { name: 'ConnectionClosedError', source: 'session', closeCode: 4242, reason: 'enough' };
  await assert.rejects(blocked, lost);
  await assert.rejects(connected.createUnidirectionalStream(), lost);
  for await (const _ of connected.incomingBidirectionalStreams) assert.fail('none was opened');
});

test('each side is told what was said by whoever closed', async (t) => {
  const { listening, connected, accepted } = await pair(t);
  for (const closeCode of [-1, 0.5, 2 ** 62, 1n, 'one']) {
    assert.throws(() => connected.close({ closeCode }), { name: 'InvalidArgumentError' });
  }
  const waiting = accepted.createBidirectionalStream();
  const read = (await waiting).readable.getReader().read();
  connected.close({ closeCode: 5, reason: 'valid' });
  connected.close({ closeCode: 6, reason: 'too late' });
  const said = { closeCode: 5, reason: 'valid' };
  assert.deepEqual(await connected.closed, said);
  // Who closes when told that it is closed has not closed it.
  await assert.rejects(read.finally(() => accepted.close({ closeCode: 7 })), said);
  assert.deepEqual(await accepted.closed, said);
  await assert.rejects(connected.createUnidirectionalStream(), { name: 'ConnectionClosedError', ...said });
  await listening.close();
});

test('a server says to all what it closes with', async (t) => {
  const { listening, connected, accepted } = await pair(t);
  await assert.rejects(listening.close({ closeCode: -1 }), { name: 'InvalidArgumentError' });
  const said = { closeCode: 8, reason: 'closing time' };
  await listening.close(said);
  assert.deepEqual(await accepted.closed, said);
  assert.deepEqual(await connected.closed, said);
});

test('a server is iterated over until it is closed', async (t) => {
  const server = await quic.listen({ address: '127.0.0.1', ...made, alpn: ['test'] });
  const url = `https://127.0.0.1:${server.address.port}`;
  const clients = [];
  const more = async () => {
    clients.push(await quic.connect(url, { ca: made.cert, alpn: ['test'] }));
  };
  let count = 0;
  await more();
  for await (const connection of server) {
    assert.equal(connection.remoteAddress.address, '127.0.0.1');
    count += 1;
    if (count < 5) await more();
    else server.close({ closeCode: 1, reason: 'closing time' });
  }
  assert.equal(count, 5);
  for (const client of clients) {
    assert.deepEqual(await client.closed, { closeCode: 1, reason: 'closing time' });
  }
});

test('a server on all addresses is reached by IPv4 and by IPv6', async (t) => {
  const server = await quic.listen({ ...made, alpn: ['test'] });
  t.after(() => server.close());
  assert.equal(server.address.address, '::');
  const hash = [{ algorithm: 'sha-256', value: made.hash }];
  for (const host of ['127.0.0.1', '[::1]']) {
    const [client, { value: accepted }] = await Promise.all([
      quic.connect(`https://${host}:${server.address.port}`, {
        serverCertificateHashes: hash,
        alpn: ['test'],
      }),
      server.next(),
    ]);
    assert.equal(`[${client.remoteAddress.address}]`.replace(/^\[(127.*)\]$/, '$1'), host);
    assert.equal(accepted.remoteAddress.address, client.remoteAddress.address);
    await send(await client.createUnidirectionalStream(), bytes(host));
    assert.equal(text(await all(await first(accepted.incomingUnidirectionalStreams))), host);
    client.close();
    await accepted.closed;
  }
});

test('a process ends when all is closed, and not before', async () => {
  const script = `
    import { connect, listen } from ${JSON.stringify(`${process.env.POLYQUIC_PACKAGE}/node.js`)};
    const { cert, key } = JSON.parse(process.argv[1]);
    const server = await listen({ address: '127.0.0.1', cert, key, alpn: ['test'] });
    const url = 'https://127.0.0.1:' + server.address.port;
    const client = await connect(url, { ca: cert, alpn: ['test'] });
    const { value: accepted } = await server.next();
    const ended = accepted.closed.then((info) => console.log(info.reason));
    client.close({ reason: 'the end' });
    await ended;
    await server.close();
    // What is still there would keep the process until the client's idle timeout.
    const left = () => process.getActiveResourcesInfo().filter((it) => /Timeout|UDP/.test(it));
    for (let look = 0; look < 1000 && left().length > 0; look++) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    console.log(left().join() || 'nothing left');
  `;
  const { cert, key } = made;
  const { stdout } = await run(process.execPath, [
    '--input-type=module',
    '--eval',
    script,
    JSON.stringify({ cert, key }),
  ]);
  assert.equal(stdout, 'the end\nnothing left\n');
});

test('a certificate is accepted by its hash, and no other is', async (t) => {
  const hash = (value) => ({ serverCertificateHashes: [{ algorithm: 'sha-256', value }], ca: undefined });
  const { connected, listening } = await pair(t, { client: hash(made.hash) });
  assert.equal(connected.protocol, 'test');
  const wrong = new Uint8Array(made.hash);
  wrong[0] ^= 1;
  const url = `https://127.0.0.1:${listening.address.port}`;
  await assert.rejects(quic.connect(url, { ...hash(wrong), alpn: ['test'] }), {
    name: 'CertificateError',
  });
});

test('a name is resolved, and is the one that the certificate must be for', async (t) => {
  const { listening } = await pair(t);
  // Wherever localhost is first, which the server may not listen on.
  const url = `https://localhost:${listening.address.port}`;
  const client = await quic.connect(url, { ca: made.cert, alpn: ['test'] });
  assert.equal(client.remoteAddress.address, '127.0.0.1');
  await assert.rejects(
    quic.connect(`https://127.0.0.1:${listening.address.port}`, {
      ca: made.cert,
      alpn: ['test'],
      serverName: 'elsewhere.example',
    }),
    { name: 'CertificateError' },
  );
  await assert.rejects(quic.connect('https://no.such.name.invalid/', { ca: made.cert }), {
    name: 'UnresolvedError',
  });
});

test('what makes no sense is refused with a name', async () => {
  const invalid = { name: 'InvalidArgumentError' };
  await assert.rejects(quic.connect('nonsense', {}), invalid);
  await assert.rejects(quic.connect('https://127.0.0.1:1', { ca: 'no certificate' }), invalid);
  await assert.rejects(quic.connect('https://127.0.0.1:1', { ca: made.cert, alpn: [7] }), invalid);
  await assert.rejects(
    quic.connect('https://127.0.0.1:1', { ca: made.cert, congestionControl: 'none' }),
    invalid,
  );
  const hashes = [{ algorithm: 'sha-256', value: made.hash }];
  for (const options of [
    { ca: made.cert, serverCertificateHashes: hashes },
    { serverCertificateHashes: 'hash' },
    { serverCertificateHashes: [null] },
    { serverCertificateHashes: [{ algorithm: 'sha-256', value: 'hash' }] },
    { ca: made.cert, cert: made.cert, key: made.key },
    { ca: made.cert, localAddress: { address: '::1' } },
    { ca: made.cert, localAddress: { address: 'nowhere' } },
    { ca: made.cert, relay: 'nowhere' },
    { ca: made.cert, relay: 'ftp://127.0.0.1:9' },
    { ca: made.cert, relay: 'ws://127.0.0.1:9', relayTransport: 'pigeon' },
  ]) {
    const attempt = quic.connect('https://127.0.0.1:1', options);
    await assert.rejects(attempt, (error) => {
      assert.ok(error instanceof quic.QuicError, error.stack);
      assert.equal(error.name, 'InvalidArgumentError', error.message);
      return true;
    });
  }
  const relay = { relay: 'https://127.0.0.1:9', relayTransport: 'webtransport' };
  await assert.rejects(quic.connect('https://127.0.0.1:1', relay), { name: 'UnsupportedError' });
  await assert.rejects(quic.listen(), invalid);
  await assert.rejects(quic.listen({ address: '127.0.0.1', key: made.key }), invalid);
  await assert.rejects(quic.listen({ address: '127.0.0.1', cert: made.cert }), invalid);
  await assert.rejects(quic.listen({ address: 'nowhere', ...made }), invalid);
  await assert.rejects(quic.listen({ address: '127.0.0.1', port: 70_000, ...made }), invalid);
  await assert.rejects(quic.listen({ address: '203.0.113.1', ...made }), {
    name: 'BindError',
    code: 'EADDRNOTAVAIL',
  });
});

test('an attempt can be given up', async (t) => {
  const { listening } = await pair(t);
  await listening.close();
  const controller = new AbortController();
  // Nobody answers there any more.
  const attempt = quic.connect(`https://127.0.0.1:${listening.address.port}`, {
    ca: made.cert,
    alpn: ['test'],
    signal: controller.signal,
  });
  setImmediate(() => controller.abort());
  await assert.rejects(attempt, { name: 'AbortError' });
});

test('a peer that falls silent is a timeout', async (t) => {
  let transport;
  const { connected } = await pair(t, {
    client: {
      maxIdleTimeout: 2000,
      transport: () => (transport = quic.dgramTransport('127.0.0.1')),
    },
  });
  // From now on nothing gets out.
  transport.send = transport.sendBatch = () => true;
  await assert.rejects(connected.closed, { name: 'TimeoutError', source: 'session' });
});

test('a keep-alive interval of zero is none', async (t) => {
  const { connected, accepted } = await pair(t, { client: { keepAliveInterval: 0 } });
  await (await echo(connected, accepted))();
  const other = await pair(t);
  const ping = await echo(other.connected, other.accepted);
  for (let i = 0; i < 500; i++) await ping();
  const { packetsSent } = connected.getStats();
  assert.ok(packetsSent < 100, `${packetsSent} packets to say nothing`);
});

test('it is told what there is', () => {
  const { relayTransports, ...rest } = quic.capabilities();
  assert.deepEqual(rest, {
    udp: true,
    listen: true,
    ecn: false,
    segmentationOffload: false,
    threads: false,
    postQuantum: false,
  });
  // The tests have `--experimental-websocket`.
  assert.deepEqual(relayTransports, ['websocket']);
});
