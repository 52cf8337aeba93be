// A relay, as small as can be, for tests of its client: WebSocket on one side, UDP on the other.

import { createHash } from 'node:crypto';
import dgram from 'node:dgram';
import { once } from 'node:events';
import http from 'node:http';

const PROTOCOL = 'polyquic-relay.v1';

const frame = (opcode, data) => {
  const header =
    data.length < 126
      ? Buffer.from([0x80 | opcode, data.length])
      : Buffer.from([0x80 | opcode, 126, data.length >> 8, data.length & 255]);
  return Buffer.concat([header, data]);
};

/** `refuse` is `{ code, error, message }`, for every client; `hello` what is said instead of what should be. */
export async function startRelay(t, { refuse, hello } = {}) {
  const server = http.createServer();
  const clients = new Set();
  const says = new Set();
  const relay = { datagrams: 0, targets: [] };
  server.on('upgrade', (request, socket) => {
    const url = new URL(request.url, 'http://relay');
    const target = url.searchParams.get('target');
    const accept = createHash('sha1')
      .update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
      .digest('base64');
    const known = url.pathname === '/udp' && request.headers['sec-websocket-protocol'] === PROTOCOL;
    if (!known) return socket.destroy();
    socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
        `Sec-WebSocket-Protocol: ${PROTOCOL}\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
    );
    relay.targets.push(target);
    const udp = dgram.createSocket('udp4');
    const text = (message) => socket.write(frame(1, Buffer.from(JSON.stringify(message))));
    const close = (code, error, message) => {
      text({ error, message });
      socket.end(frame(8, Buffer.from([code >> 8, code & 255])));
    };
    clients.add(close);
    socket.on('error', () => {});
    socket.on('close', () => {
      clients.delete(close);
      udp.close();
    });
    if (refuse) return close(refuse.code, refuse.error, refuse.message);
    const [address, port] = target.split(':');
    says.add((words) => socket.writable && socket.write(frame(1, Buffer.from(words))));
    if (hello !== undefined) socket.write(frame(1, Buffer.from(hello)));
    else text({ target, maxDatagramSize: 1400 });
    udp.on('message', (data) => socket.writable && socket.write(frame(2, data)));
    let rest = Buffer.alloc(0);
    socket.on('data', (data) => {
      rest = Buffer.concat([rest, data]);
      for (;;) {
        if (rest.length < 2) return;
        const short = rest[1] & 127;
        const start = short === 126 ? 4 : 2;
        if (rest.length < start + 4) return;
        const length = short === 126 ? rest.readUInt16BE(2) : short;
        const end = start + 4 + length;
        if (rest.length < end) return;
        const mask = rest.subarray(start, start + 4);
        const body = Buffer.from(rest.subarray(start + 4, end));
        for (let i = 0; i < body.length; i++) body[i] ^= mask[i & 3];
        const opcode = rest[0] & 15;
        rest = rest.subarray(end);
        if (opcode === 2) {
          relay.datagrams += 1;
          udp.send(body, Number(port), address);
        } else if (opcode === 8 && socket.writable) {
          socket.end(frame(8, body));
        }
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  relay.url = `ws://127.0.0.1:${server.address().port}`;
  relay.clients = clients;
  relay.say = (words) => says.forEach((say) => say(words));
  relay.stop = (code, error, message) => clients.forEach((close) => close(code, error, message));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return relay;
}
