// A page that computes for seconds, or that is stopped, in the middle of transfers.

import assert from 'node:assert/strict';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before } from 'node:test';

import { perfServer, scratch, test } from '../helper.js';
import { PATIENCE_MS, inPage, launch, start } from './chromium.js';

const PAUSE_MS = 3000;

/** Above what a pause would add to it if it was taken for one round trip (RFC 9002 section 5.3: an eighth), and
 *  below that what a relay on a slow machine takes. */
const MAX_RTT_MS = PAUSE_MS / 10;

let browser;

before(async () => (browser = await launch()));
after(() => browser?.close());

/** A page with a connection to `polyquic perf server`, through a relay. */
async function open(t) {
  const server = await perfServer(t, 'smol');
  const at = `127.0.0.1:${server.port}`;
  const site = scratch(t);
  cpSync(process.env.POLYQUIC_SITE, site, { recursive: true });
  writeFileSync(path.join(site, 'empty.html'), '<!doctype html>');
  const relay = await start(t, 'relay', '--listen', '127.0.0.1:0', '--allow', at, '--files', site);
  const page = await browser.newPage();
  t.after(() => page.close());
  page.setDefaultTimeout(PATIENCE_MS);
  await page.goto(`http://127.0.0.1:${relay.port}/empty.html`);
  await inPage(
    page,
    async ([url, relay, ca]) => {
      const { connect } = await import('./polyquic/browser.js');
      const options = { relay, ca, alpn: ['polyquic-perf'], keepAliveInterval: 500, maxIdleTimeout: 8000 };
      window.connection = await connect(url, options);
      window.transfer = async (down, up, between) => {
        const { readable, writable } = await connection.createBidirectionalStream();
        const writer = writable.getWriter();
        const size = new DataView(new ArrayBuffer(8));
        size.setBigUint64(0, BigInt(down));
        await writer.write(size.buffer);
        const chunk = new Uint8Array(10_000);
        for (let sent = 0; sent < up; sent += chunk.length) {
          await writer.write(chunk);
          if (sent === up / 2) between();
        }
        const closed = writer.close();
        let got = 0;
        for await (const part of readable) {
          if (got < down / 2 && got + part.length >= down / 2) between();
          got += part.length;
        }
        await closed;
        return got;
      };
    },
    [`https://${at}`, `ws://127.0.0.1:${relay.port}`, readFileSync(server.ca, 'utf8')],
  );
  return page;
}

for (const [what, down, up] of [['a download', 4_000_000, 0], ['an upload', 0, 2_000_000]]) {
  test(`a page that is busy in the middle of ${what} goes on with it`, async (t) => {
    const page = await open(t);
    const { got, smoothedRtt } = await inPage(
        page,
      async ([down, up, pause]) => {
        const got = await transfer(down, up, () => {
          const end = performance.now() + pause;
          while (performance.now() < end);
        });
        // And after it.
        await transfer(100_000, 100_000, () => {});
        return { got, ...connection.getStats() };
      },
      [down, up, PAUSE_MS],
    );
    assert.equal(got, down);
    assert.ok(smoothedRtt < MAX_RTT_MS, `${smoothedRtt} ms: the pause was taken for a round trip`);
  });
}

test('what is sent before a pause is answered after it, and that was no round trip', async (t) => {
  const page = await open(t);
  const rtts = await inPage(page, async (pause) => {
    await transfer(100_000, 100_000, () => {});
    const rtts = [];
    for (let i = 0; i < 3; i++) {
      const { writable } = await connection.createBidirectionalStream();
      const writer = writable.getWriter();
      await writer.write(new Uint8Array(8));
      const closed = writer.close();
      // So that it has gone.
      await new Promise((resolve) => setTimeout(resolve, 1));
      const end = performance.now() + pause;
      while (performance.now() < end);
      await closed;
      rtts.push(connection.getStats().smoothedRtt);
    }
    return rtts;
  }, PAUSE_MS);
  assert.ok(Math.max(...rtts) < MAX_RTT_MS, `${rtts} ms: a pause was taken for a round trip`);
});

/** Stops the processes that pages run in, as a system that runs out of something does. */
async function suspended(milliseconds) {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  const renderers = processInfo.filter((it) => it.type === 'renderer').map((it) => it.id);
  assert.ok(renderers.length > 0);
  for (const id of renderers) process.kill(id, 'SIGSTOP');
  try {
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
  } finally {
    for (const id of renderers) process.kill(id, 'SIGCONT');
  }
  await session.detach();
}

test('a page that is stopped in the middle of downloads goes on with them', async (t) => {
  const page = await open(t);
  await inPage(page, () => {
    window.longest = 0;
    let last = performance.now();
    setInterval(() => {
      window.longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 10);
    window.got = 0;
    window.transferred = (async () => {
      // More than can be had before it is stopped.
      for (let i = 0; i < 20; i++) window.got += await transfer(2_000_000, 0, () => {});
    })();
  });
  await page.waitForFunction(() => got > 0);
  await suspended(PAUSE_MS);
  const { total, paused, smoothedRtt } = await inPage(page, async () => {
    await transferred;
    return { total: got, paused: longest, ...connection.getStats() };
  });
  assert.equal(total, 40_000_000);
  assert.ok(paused > PAUSE_MS / 2, `${paused} ms: it was not stopped`);
  assert.ok(smoothedRtt < MAX_RTT_MS, `${smoothedRtt} ms: the pause was taken for a round trip`);
});
