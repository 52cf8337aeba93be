// The page of docs/browser in a real browser: through `polyquic relay` to native servers.
//
// `cargo xtask wasm --test` says where things are: the browser, what drives it, the page.

import assert from 'node:assert/strict';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before } from 'node:test';

import { EXECUTORS, scratch, test, writeFile } from '../helper.js';
import { PATIENCE_MS, launch, start } from './chromium.js';

const FILE_BYTES = 8_000_000;

let browser;

before(async () => (browser = await launch()));

after(() => browser?.close());

/** A server on a port that it can have again: none of those that the system gives to whoever asks for any. */
async function onFixedPort(startAt) {
  for (let tries = 0; ; tries++) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    try {
      return await startAt(port);
    } catch (error) {
      // Somebody has that one.
      if (tries === 9) throw error;
    }
  }
}

/** Servers, a relay that leads to them and has the page, and the page. */
async function open(t, executor = 'smol') {
  const directory = scratch(t);
  const files = scratch(t);
  const hash = writeFile(path.join(files, 'file.bin'), FILE_BYTES);
  const listen = ['--executor', executor, '--listen', '127.0.0.1:0'];
  const cas = ['perf-ca.pem', 'files-ca.pem'].map((name) => path.join(directory, name));
  const perf = await start(t, 'perf', 'server', ...listen, '--ca-out', cas[0]);
  const serve = await start(t, 'serve', ...listen, '--ca-out', cas[1], files);
  const servers = [perf, serve].map(({ port }) => `127.0.0.1:${port}`);

  const site = scratch(t);
  cpSync(process.env.POLYQUIC_SITE, site, { recursive: true });
  const demo = {
    ca: cas.map((file) => readFileSync(file, 'utf8')).join('\n'),
    servers: servers.map((at) => ({ name: at, url: `https://${at}` })),
    path: '/file.bin',
  };
  writeFileSync(path.join(site, 'demo.json'), JSON.stringify(demo));
  const allowed = servers.flatMap((at) => ['--allow', at]);
  const relayAt = (port) =>
    start(
      t,
      'relay',
      '--executor',
      executor,
      '--listen',
      `127.0.0.1:${port}`,
      ...allowed,
      '--files',
      site,
    );
  const relay = await onFixedPort(relayAt);

  const page = await browser.newPage({ viewport: { width: 1100, height: 1000 } });
  t.after(() => page.close());
  page.setDefaultTimeout(PATIENCE_MS);
  const errors = [];
  page.on('pageerror', (error) => errors.push(error));
  await page.goto(`http://127.0.0.1:${relay.port}/index.html`);
  await page.waitForSelector('body[data-ready]');
  return { page, errors, hash, servers, relay, restart: () => relayAt(relay.port) };
}

async function connect(page, { server, worker = false }) {
  await page.fill('#server', `https://${server}`);
  await page.setChecked('#worker', worker);
  await page.click('#connect');
  await page.waitForSelector('#status[data-state=open], #status[data-state=failed]');
  return page.textContent('#status');
}

/** Press `button`, and return what the page says about the transfer when it is over. */
async function transfer(page, button) {
  await page.click(button);
  await page.waitForSelector('#transfers li:first-child[data-state]');
  const state = await page.getAttribute('#transfers li:first-child', 'data-state');
  const text = await page.textContent('#transfers li:first-child');
  assert.equal(state, 'done', text);
  return text;
}

for (const executor of EXECUTORS) {
  test(`a page transfers both ways, through a relay and to servers on ${executor}`, async (t) => {
    const { page, errors, hash, servers } = await open(t, executor);
    for (const worker of [false, true]) {
      const connected = await connect(page, { server: servers[0], worker });
      assert.match(connected, worker ? /in a worker/ : /in this page/);
      await page.fill('#megabytes', '5');
      assert.match(await transfer(page, '#download'), /5\.0 MB/);
      assert.match(await transfer(page, '#upload'), /5\.0 MB/);
      await page.click('#close');
      await page.waitForSelector('#status[data-state=idle]');

      await connect(page, { server: servers[1], worker });
      assert.match(await transfer(page, '#fetch'), new RegExp(`8\\.0 MB.*${hash}`));
      await page.click('#close');
      await page.waitForSelector('#status[data-state=idle]');
    }
    assert.deepEqual(errors, []);
  });
}

test('progress is shown while there is any, and statistics', async (t) => {
  const { page, servers } = await open(t);
  await connect(page, { server: servers[0] });
  await page.fill('#megabytes', '900');
  await page.click('#download');
  // A part of it, and then more.
  const part = (least) => {
    const bar = document.querySelector('#transfers progress');
    return bar.value > least && bar.value < bar.max && bar.value;
  };
  const some = await (await page.waitForFunction(part, 0)).jsonValue();
  await page.waitForFunction(part, some);
  await page.waitForFunction(() => /round trip[\d.]+ ms/.test(document.querySelector('#stats').textContent));
  await page.click('#close');
  await page.waitForSelector('#transfers li:first-child[data-state=failed]');
});

for (const worker of [false, true]) {
  const where = worker ? 'a worker' : 'a page';
  test(`${where} is told that the relay went away, and connects again when it is back`, async (t) => {
    const { page, errors, servers, relay, restart } = await open(t);
    await connect(page, { server: servers[0], worker });
    await page.fill('#megabytes', '900');
    await page.click('#download');
    await page.waitForFunction(() => document.querySelector('#transfers progress').value > 0);
    assert.equal(await relay.end('SIGTERM'), 0);
    await page.waitForSelector('#status[data-state=failed]');
    assert.match(await page.textContent('#status'), /RelayClosedError/);
    await page.waitForSelector('#transfers li:first-child[data-state=failed]');
    assert.match(await page.textContent('#transfers li:first-child'), /RelayClosedError/);

    // While it is away. It has the worker's script, too.
    const away = worker ? /the worker cannot be started/ : /RelayUnreachableError/;
    assert.match(await connect(page, { server: servers[0], worker }), away);
    await restart();
    assert.match(await connect(page, { server: servers[0], worker }), /Connected/);
    await page.fill('#megabytes', '1');
    await transfer(page, '#download');
    assert.deepEqual(errors, []);
  });
}

test('what the relay does not allow is told', async (t) => {
  const { page } = await open(t);
  assert.match(await connect(page, { server: '127.0.0.1:9' }), /RelayForbiddenError/);
});

test('a certificate of somebody else is refused', async (t) => {
  const { page, servers } = await open(t);
  await page.evaluate(() => {
    const ca = document.getElementById('ca');
    ca.value = ca.value.split(/(?<=-----END CERTIFICATE-----)/)[1];
  });
  const text = await connect(page, { server: servers[0] });
  assert.match(text, /certificate/i);
  assert.doesNotMatch(text, /Relay/);
});
