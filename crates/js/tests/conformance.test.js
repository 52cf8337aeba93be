// The conformance suite that every executor is put to, on Node's event loop, over real UDP sockets. Each
// promise has an instance of the module of its own: a failed assertion ends the instance.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';

import { quic } from './helper.js';

const directory = process.env.POLYQUIC_CONFORMANCE;

/** Beyond what any promise needs: one that takes longer hangs. */
const WATCHDOG_MS = 90_000;

/** What cannot be had here, by group or by promise. */
const WITHOUT = {
  udp: 'sockets of the operating system',
  shards: 'several sockets on one address',
  threads: 'threads',
  shutdown: 'an executor that ends',
  'liveness::offloaded_results_come_back': 'panics that can be caught',
  'handshake::a_panicking_lookup_fails_one_handshake': 'panics that can be caught',
};

const module = await WebAssembly.compile(
  await readFile(path.join(directory, 'conformance_bg.wasm')),
);
let instances = 0;

// The executor is never shut down: what the suite leaves behind (idle connections, for instance) would keep
// the process for half a minute.
after(() => setTimeout(() => process.exit(), 100).unref());

async function instance() {
  instances += 1;
  const glue = await import(`${path.join(directory, 'conformance.js')}?${instances}`);
  await glue.default({ module_or_path: module });
  glue.initialize((address, port) => quic.dgramTransport(address, port));
  return glue;
}

for (const name of (await instance()).promises()) {
  const missing = WITHOUT[name] ?? WITHOUT[name.split('::')[0]];
  // Left out, not skipped: there is nothing to be done about them here.
  if (missing) continue;
  test(name, { timeout: WATCHDOG_MS }, async () => (await instance()).run(name));
}

test('an application that knows no executor runs unchanged', async () => {
  assert.equal(await (await instance()).echo(), 'hello, whoever runs this');
});
