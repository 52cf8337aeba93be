// Node against Node, in one process: everything that a connection can do.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { certificate } from './certificate.js';
import { quic, run, sha256 } from './helper.js';

const made = certificate();
const text = (bytes) => new TextDecoder().decode(bytes);
const bytes = (string) => new TextEncoder().encode(string);

async function pair(t, { client = {}, server = {} } = {}) {
  const listening = await quic.listen({ address: '127.0.0.1', ...made, alpn: ['test'], ...server });
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

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function send(writable, data) {
  const writer = writable.getWriter();
  await writer.write(data);
  await writer.close();
}

const first = async (sequence) => (await sequence.getReader().read()).value;

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
  const there = connected.datagrams.readable.getReader();
  const back = accepted.datagrams.writable.getWriter();
  let before = -1;
  while (before !== written) {
    before = written;
    for (let i = 0; i < 50; i++) {
      await back.write(bytes('x'));
      await there.read();
    }
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
  const reader = accepted.datagrams.readable.getReader();
  await writer.write(bytes('ping'));
  assert.equal(text((await reader.read()).value), 'ping');
  await accepted.datagrams.writable.getWriter().write(bytes('pong'));
  assert.equal(text(await first(connected.datagrams.readable)), 'pong');
  await assert.rejects(writer.write(new Uint8Array(size + 500)), { name: 'DatagramTooLargeError' });
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
  assert.throws(() => connected.close({ closeCode: -1 }), { name: 'InvalidArgumentError' });
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
    accepted.closed.then((info) => {
      console.log(info.reason);
      server.close();
    });
    client.close({ reason: 'the end' });
  `;
  const { cert, key } = made;
  const { stdout } = await run(process.execPath, [
    '--input-type=module',
    '--eval',
    script,
    JSON.stringify({ cert, key }),
  ]);
  assert.equal(stdout, 'the end\n');
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
  const url = `https://localhost:${listening.address.port}`;
  const localAddress = { address: '127.0.0.1' };
  const lookup = await quic
    .connect(url, { ca: made.cert, alpn: ['test'], localAddress })
    .catch((error) => error);
  // Where localhost is ::1 first, nobody listens there; that it was resolved is what matters.
  if (!(lookup instanceof Error)) lookup.close();
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
  await assert.rejects(quic.listen({ address: '127.0.0.1', cert: made.cert }), invalid);
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
      maxIdleTimeout: 200,
      transport: () => (transport = quic.dgramTransport('127.0.0.1')),
    },
  });
  // From now on nothing gets out.
  transport.send = transport.sendBatch = () => true;
  await assert.rejects(connected.closed, { name: 'TimeoutError', source: 'session' });
});
