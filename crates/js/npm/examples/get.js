// node examples/get.js URL OUTPUT [--ca FILE]
//
// Downloads a file from `polyquic serve` or examples/serve.js.

import { createWriteStream, readFileSync } from 'node:fs';
import { Writable } from 'node:stream';
import { parseArgs } from 'node:util';

import { connect } from '../node.js';
import { ALPN, get } from './hq.js';

const { values, positionals } = parseArgs({
  options: { ca: { type: 'string' } },
  allowPositionals: true,
});
const [url, output] = positionals;
const connection = await connect(url, {
  alpn: [ALPN],
  ...(values.ca && { ca: readFileSync(values.ca, 'utf8') }),
});
const body = await get(connection, new URL(url).pathname);
await body.pipeTo(Writable.toWeb(createWriteStream(output)));
console.log(connection.getStats());
connection.close();
