// A page that reaches a native server through the relay's WebTransport.

import assert from 'node:assert/strict';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before } from 'node:test';

import { certificate } from '../certificate.js';
import { EXECUTORS, nativeServer, scratch, test, writeFile } from '../helper.js';
import { PATIENCE_MS, inPage, launch, start } from './chromium.js';

const FILE_BYTES = 4_000_000;

let browser;

before(async () => (browser = await launch()));
after(() => browser?.close());

/** A server with a file, a relay that leads to it, and a page. */
async function open(t, executor, { days = 7, allow } = {}) {
  const files = scratch(t);
  const hash = writeFile(path.join(files, 'file.bin'), FILE_BYTES);
  const server = await nativeServer(t, executor, files);
  const made = certificate({ days });
  const [cert, key] = ['relay.pem', 'relay.key'].map((name) => path.join(scratch(t), name));
  writeFileSync(cert, made.cert);
  writeFileSync(key, made.key);
  const at = `127.0.0.1:${server.port}`;
  const local = ['--executor', executor, '--listen', '127.0.0.1:0'];
  const relay = await start(
    t,
    ...['relay', ...local, '--webtransport', '127.0.0.1:0', '--cert', cert, '--key', key],
    ...['--allow', allow ?? at],
  );
  const site = scratch(t);
  cpSync(process.env.POLYQUIC_SITE, site, { recursive: true });
  writeFileSync(path.join(site, 'empty.html'), '<!doctype html>');
  const pages = await start(t, 'relay', ...local, '--allow', at, '--files', site);
  const page = await browser.newPage();
  t.after(() => page.close());
  page.setDefaultTimeout(PATIENCE_MS);
  await page.goto(`http://127.0.0.1:${pages.port}/empty.html`);
  const options = {
    relay: `https://127.0.0.1:${relay.webtransport}`,
    relayTransport: 'webtransport',
    ca: readFileSync(server.ca, 'utf8'),
    alpn: ['hq-interop'],
  };
  return { page, hash, relay, url: `https://${at}`, options, fingerprint: [...made.hash] };
}

/** Connects and fetches in the page; the hash, or the error's name and message. */
const fetched = ({ page, url, options, fingerprint }, hold = false) =>
  inPage(
    page,
    async ([url, options, fingerprint, hold]) => {
      const { connect } = await import('./polyquic/browser.js');
      const value = new Uint8Array(fingerprint);
      const told = (error) => ({ error: error.name, message: error.message, code: error.relayError });
      let connection;
      try {
        connection = await connect(url, {
          ...options,
          relayCertificateHashes: [{ algorithm: 'sha-256', value }],
        });
        const { readable, writable } = await connection.createBidirectionalStream();
        const writer = writable.getWriter();
        await writer.write(new TextEncoder().encode('GET /file.bin\r\n'));
        writer.close().catch(() => {});
        const parts = [];
        for await (const part of readable) parts.push(part);
        const bytes = await new Blob(parts).arrayBuffer();
        const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
        const { pathMtu } = connection.getStats();
        if (hold) window.ended = connection.closed.then(() => 'closed', told);
        else connection.close();
        const hash = [...digest].map((it) => it.toString(16).padStart(2, '0')).join('');
        return { hash, pathMtu };
      } catch (error) {
        return told(error);
      }
    },
    [url, options, fingerprint, hold],
  );

for (const executor of EXECUTORS) {
  test(`a page fetches through WebTransport, and a relay on ${executor}`, async (t) => {
    const opened = await open(t, executor);
    const { hash, pathMtu, ...error } = await fetched(opened);
    assert.deepEqual(error, {});
    assert.equal(hash, opened.hash);
    assert.ok(pathMtu >= 1200 && pathMtu < 1300, `${pathMtu}`);
  });
}

test('a page takes WebTransport by itself, and says what there is', async (t) => {
  const opened = await open(t, 'smol');
  const options = { ...opened.options, relayTransport: 'auto' };
  const { hash, pathMtu } = await fetched({ ...opened, options });
  assert.equal(hash, opened.hash);
  assert.ok(pathMtu >= 1200 && pathMtu < 1300, `${pathMtu}: that is a WebSocket's`);
  const has = await inPage(opened.page, async () => (await import('./polyquic/browser.js')).capabilities());
  assert.equal(has.udp, false);
  assert.deepEqual(has.relayTransports, ['websocket', 'webtransport']);
});

test('a page is told that the relay went away', async (t) => {
  const opened = await open(t, 'smol');
  assert.equal((await fetched(opened, true)).hash, opened.hash);
  await opened.relay.end('SIGTERM');
  const { error, code } = await inPage(opened.page, 'window.ended');
  assert.deepEqual([error, code], ['RelayClosedError', 'shutting-down']);
});

test('what the relay does not allow is told', async (t) => {
  const opened = await open(t, 'smol', { allow: '127.0.0.1:9' });
  const { error, code, message } = await fetched(opened);
  assert.deepEqual([error, code], ['RelayForbiddenError', 'not-allowed']);
  assert.match(message, /does not allow 127\.0\.0\.1/);
});

test('a relay with the wrong certificate, or none, is not reached', async (t) => {
  const opened = await open(t, 'smol');
  const wrong = opened.fingerprint.map((it) => it ^ 1);
  assert.equal((await fetched({ ...opened, fingerprint: wrong })).error, 'RelayUnreachableError');
  const { error } = await fetched({ ...opened, options: { ...opened.options, relay: 'https://127.0.0.1:9' } });
  assert.equal(error, 'RelayUnreachableError');
});
