// polyquic.d.ts: what it declares is there, and programs that should compile do; others do not.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { quic, run, test } from './helper.js';

const directory = process.env.POLYQUIC_PACKAGE;
const project = fileURLToPath(new URL('types', import.meta.url));

test('what is declared is there, in Node and in browsers', async () => {
  const declarations = readFileSync(path.join(directory, 'polyquic.d.ts'), 'utf8');
  const declared = [...declarations.matchAll(/^export (?:class|function) (\w+)/gm)].map(([, name]) => name);
  assert.ok(declared.length > 5);
  for (const file of ['node.js', 'browser.js']) {
    const exported = Object.keys(await import(path.join(directory, file)));
    assert.deepEqual(exported.sort(), declared.toSorted(), file);
  }
});

test('what is not to be had in a browser says so', async () => {
  const { dgramTransport, listen } = await import(path.join(directory, 'browser.js'));
  assert.throws(() => dgramTransport(), { name: 'UnsupportedError' });
  await assert.rejects(listen(), { name: 'UnsupportedError' });
  const relay = quic.webTransportTransport('https://127.0.0.1:9', { host: '127.0.0.1', port: 9 });
  await assert.rejects(relay, { name: 'UnsupportedError' });
});

test('the types compile, and refuse what they should', async () => {
  await run(process.execPath, [process.env.POLYQUIC_TSC, '--project', project]).catch((error) =>
    assert.fail(error.stdout || error.message),
  );
});
