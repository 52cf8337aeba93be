// Node against the native program, on every executor, both ways.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { writeFileSync } from 'node:fs';
import path from 'node:path';

import { certificate } from './certificate.js';
import { EXECUTORS, hashOf, hq, nativeServer, program, quic, run, scratch, sha256, test, writeFile } from './helper.js';

const SIZES = [0, 1, 3_000_000];

for (const executor of EXECUTORS) {
  test(`files come whole from a native server on ${executor}`, async (t) => {
    const directory = scratch(t);
    const hashes = SIZES.map((size) => writeFile(path.join(directory, `${size}`), size));
    const server = await nativeServer(t, executor, directory);
    const connection = await quic.connect(`https://127.0.0.1:${server.port}`, {
      ca: readFileSync(server.ca, 'utf8'),
      alpn: [hq.ALPN],
    });
    assert.equal(connection.protocol, hq.ALPN);
    const got = await Promise.all(
      SIZES.map(async (size) => hashOf(await hq.get(connection, `/${size}`))),
    );
    assert.deepEqual(got, hashes);
    await assert.rejects(hashOf(await hq.get(connection, '/missing')), {
      name: 'StreamResetError',
      streamErrorCode: 2,
    });
    connection.close();
    assert.deepEqual(await connection.closed, { closeCode: 0, reason: '' });
  });

  test(`files go whole to a native client on ${executor}`, async (t) => {
    const [directory, output] = [scratch(t), scratch(t)];
    const hashes = SIZES.map((size) => writeFile(path.join(directory, `${size}`), size));
    const made = certificate();
    const ca = path.join(output, 'ca.pem');
    writeFileSync(ca, made.cert);
    const server = await quic.listen({ address: '127.0.0.1', ...made, alpn: [hq.ALPN] });
    t.after(() => server.close());
    const serving = (async () => {
      for await (const connection of server) await hq.serve(connection, directory);
    })();
    const urls = SIZES.map((size) => `https://127.0.0.1:${server.address.port}/${size}`);
    await run(program, ['get', '--executor', executor, '--ca', ca, '--output', output, ...urls]);
    const got = SIZES.map((size) => sha256(readFileSync(path.join(output, `${size}`))));
    assert.deepEqual(got, hashes);
    await assert.rejects(
      run(program, ['get', '--ca', ca, '--output', output, `${urls[0]}-missing`]),
      /the server has no such file/,
    );
    await server.close();
    await serving;
  });
}

test('a native server that shuts down is a clean end', async (t) => {
  const server = await nativeServer(t, 'smol', scratch(t));
  const connection = await quic.connect(`https://127.0.0.1:${server.port}`, {
    ca: readFileSync(server.ca, 'utf8'),
    alpn: [hq.ALPN],
  });
  server.child.kill('SIGTERM');
  assert.deepEqual(await connection.closed, { closeCode: 0, reason: 'server is shutting down' });
  for await (const _ of connection.incomingUnidirectionalStreams) assert.fail('none was opened');
});

test('a certificate of somebody else is refused', async (t) => {
  const server = await nativeServer(t, 'smol', scratch(t));
  await assert.rejects(
    quic.connect(`https://127.0.0.1:${server.port}`, { ca: certificate().cert, alpn: [hq.ALPN] }),
    { name: 'CertificateError', source: 'session' },
  );
  await assert.rejects(
    quic.connect(`https://127.0.0.1:${server.port}`, {
      ca: readFileSync(server.ca, 'utf8'),
      alpn: ['something else'],
    }),
    { name: 'TlsError', source: 'session' },
  );
});
