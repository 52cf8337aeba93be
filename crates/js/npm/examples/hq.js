// hq-interop, the protocol of `polyquic serve` and `polyquic get`: a client sends `GET /path` on a
// stream of its own, and the server answers with the bytes of the file.

import { createReadStream } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';

export const ALPN = 'hq-interop';

const MAX_REQUEST_BYTES = 8 * 1024;

/** Codes of refusals. */
const BAD_REQUEST = 1;
const NOT_FOUND = 2;

/** The bytes of the file at `where`, as a stream. */
export async function get(connection, where) {
  const { readable, writable } = await connection.createBidirectionalStream();
  const writer = writable.getWriter();
  await writer.write(new TextEncoder().encode(`GET ${where}\r\n`));
  // Kept when the server has the request; the answer may come earlier.
  writer.close().catch(() => {});
  return readable;
}

/** Answer the requests of one client with the files of `directory`. */
export async function serve(connection, directory) {
  const root = await realpath(directory);
  for await (const stream of connection.incomingBidirectionalStreams) {
    answer(stream, root).catch(() => {
      // The client's affair: it has gone, or does not want the file any more.
    });
  }
}

async function answer({ readable, writable }, root) {
  let request = '';
  for await (const chunk of readable) {
    request += new TextDecoder('latin1').decode(chunk);
    if (request.length > MAX_REQUEST_BYTES) break;
  }
  const where = /^GET (\/\S*)/.exec(request)?.[1];
  if (!where) return writable.abort({ streamErrorCode: BAD_REQUEST });
  const file = await find(root, where).catch(() => undefined);
  if (!file) return writable.abort({ streamErrorCode: NOT_FOUND });
  return Readable.toWeb(createReadStream(file)).pipeTo(writable);
}

/** The file, if it is one and inside of `root`, wherever links lead. */
async function find(root, where) {
  const file = await realpath(path.join(root, decodeURIComponent(where.split('?')[0])));
  const inside = file.startsWith(root + path.sep);
  return inside && (await stat(file)).isFile() ? file : undefined;
}
