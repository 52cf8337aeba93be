// node examples/serve.js DIRECTORY --cert FILE --key FILE [--address ADDRESS] [--port PORT]
//
// Serves the files of a directory to `polyquic get` and examples/get.js.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { listen } from '../node.js';
import { ALPN, serve } from './hq.js';

const { values, positionals } = parseArgs({
  options: {
    cert: { type: 'string' },
    key: { type: 'string' },
    address: { type: 'string', default: '::' },
    port: { type: 'string', default: '4433' },
  },
  allowPositionals: true,
});
const server = await listen({
  address: values.address,
  port: Number(values.port),
  cert: readFileSync(values.cert, 'utf8'),
  key: readFileSync(values.key, 'utf8'),
  alpn: [ALPN],
});
console.log(`listening on ${server.address.address} port ${server.address.port}`);
process.once('SIGINT', () => server.close({ reason: 'server is shutting down' }));
for await (const connection of server) serve(connection, positionals[0] ?? '.');
