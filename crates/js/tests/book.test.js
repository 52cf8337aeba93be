// The code that the book's chapter on WebAssembly shows, run; and that it shows no other.

import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { MessageChannel } from 'node:worker_threads';

import { certificate } from './certificate.js';
import { quic, test } from './helper.js';
import { startRelay } from './relay.js';

const { connect, listen } = quic;
const { dataChannelTransport } = await import(
  `${process.env.POLYQUIC_PACKAGE}/examples/data-channel.js`
);

const CHAPTER = new URL('../../../docs/book/11-webassembly.md', import.meta.url);
const SOURCES = [import.meta.url, new URL('../npm/examples/data-channel.js', import.meta.url)];

async function startServer(t, cert, key, port = 0) {
  const server = await listen({ address: '127.0.0.1', port, cert, key, alpn: ['shout'] });
  (async () => {
    for await (const connection of server) serve(connection);
  })();
  t.after(() => server.close());
  return server.address.port;
}

async function serve(connection) {
  for await (const { readable, writable } of connection.incomingBidirectionalStreams) {
    readable
      .pipeThrough(new TextDecoderStream())
      .pipeThrough(new TransformStream({ transform: (text, out) => out.enqueue(text.toUpperCase()) }))
      .pipeThrough(new TextEncoderStream())
      .pipeTo(writable)
      .catch((error) => console.error(error.name));
  }
}

async function shout(connection, text) {
  const { readable, writable } = await connection.createBidirectionalStream();
  const writer = writable.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close(); // the server has all of it
  let answer = '';
  for await (const part of readable.pipeThrough(new TextDecoderStream())) answer += part;
  return answer;
}

test('a client, by UDP', async (t) => {
  const { cert, key } = certificate();
  const port = await startServer(t, cert, key);
  const ca = cert;
  const connection = await connect(`https://127.0.0.1:${port}`, { ca, alpn: ['shout'] });
  assert.equal(await shout(connection, 'hello'), 'HELLO');
  connection.close({ closeCode: 0, reason: 'done' });
});

test('a client, by a relay', async (t) => {
  const { cert, key } = certificate();
  const port = await startServer(t, cert, key);
  const { url: relay } = await startRelay(t);
  const hash = createHash('sha256').update(new X509Certificate(cert).raw).digest();
  const connection = await connect(`https://127.0.0.1:${port}`, {
    relay,
    serverCertificateHashes: [{ algorithm: 'sha-256', value: hash }],
    alpn: ['shout'],
    keepAliveInterval: 10_000,
  });
  assert.equal(await shout(connection, 'hello'), 'HELLO');
  connection.close();
});

/** Two ends of what looks like a data channel. */
function dataChannels() {
  const { port1, port2 } = new MessageChannel();
  const channel = (port) => ({
    bufferedAmount: 0,
    send: (data) => port.postMessage(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength)),
    close: () => port.close(),
    set onmessage(run) {
      port.on('message', (data) => run({ data }));
    },
    set onclose(run) {
      port.on('close', run);
    },
  });
  return [channel(port1), channel(port2)];
}

test('a client and a server, by a transport of their own', async (t) => {
  const { cert, key } = certificate();
  const [ours, theirs] = dataChannels();
  const server = await listen({ cert, key, alpn: ['shout'], transport: dataChannelTransport(theirs) });
  (async () => {
    for await (const connection of server) serve(connection);
  })();
  const transport = dataChannelTransport(ours);
  const connection = await connect('https://localhost', { ca: cert, alpn: ['shout'], transport });
  assert.equal(await shout(connection, 'x'.repeat(100_000)), 'X'.repeat(100_000));
  connection.close();
  await connection.closed;
  await server.close();
});

test('the chapter shows nothing but this', () => {
  const lines = (text) => text.split('\n').map((line) => line.trim());
  const sources = SOURCES.map((it) => `\n${lines(readFileSync(new URL(it), 'utf8')).join('\n')}\n`);
  const blocks = readFileSync(CHAPTER, 'utf8').matchAll(/```js\n(.*?)\n```/gs);
  const shown = [...blocks].map(([, code]) => lines(code).join('\n'));
  assert.ok(shown.length >= 4);
  for (const code of shown) {
    assert.ok(sources.some((it) => it.includes(`\n${code}\n`)), `no test runs:\n${code}`);
  }
});
