// Compiled, never run. A line after `@ts-expect-error` must not compile.

import {
  capabilities,
  connect,
  Connection,
  dgramTransport,
  listen,
  QuicError,
  ready,
  Server,
  webSocketTransport,
  webTransportTransport,
  type BidirectionalStream,
  type Capabilities,
  type CloseInfo,
  type ConnectOptions,
  type ListenOptions,
  type Transport,
  type TransportReceiver,
} from '../../npm/polyquic.js';

async function client(signal: AbortSignal): Promise<CloseInfo> {
  await ready();
  const options: ConnectOptions = {
    alpn: ['one'],
    relay: new URL('wss://relay.example.org'),
    relayTransport: 'auto',
    serverCertificateHashes: [{ algorithm: 'sha-256', value: new Uint8Array(32) }],
    congestionControl: 'bbr',
    signal,
  };
  const connection: Connection = await connect('https://example.org', options);
  const { id, readable, writable }: BidirectionalStream = await connection.createBidirectionalStream({
    sendOrder: id0(),
  });
  const writer = writable.getWriter();
  await writer.write(new TextEncoder().encode(`${id.toFixed()}`));
  await writer.abort({ streamErrorCode: 1 });
  for await (const chunk of readable) chunk.byteLength;
  for await (const stream of connection.incomingUnidirectionalStreams) {
    for await (const chunk of stream) chunk.subarray(1);
  }
  const sent: Promise<void> = connection.datagrams.send(new ArrayBuffer(connection.datagrams.maxDatagramSize));
  await sent;
  const { oversizedDatagrams, smoothedRtt } = connection.getStats();
  connection.close({ closeCode: oversizedDatagrams + smoothedRtt });
  connection.closed.catch((error: unknown) => {
    if (error instanceof QuicError && error.source === 'session') return error.closeCode?.toFixed();
  });
  return connection.closed;
}

const id0 = (): number => 0;

async function server(options: ListenOptions): Promise<void> {
  const server: Server = await listen({ ...options, port: 4433, transport: () => dgramTransport('::', 0) });
  for await (const connection of server) connection.remoteAddress.port.toFixed();
  const next: IteratorResult<Connection, undefined> = await server.next();
  if (!next.done) next.value.protocol.length;
  await server.close({ reason: 'done' });
}

const mine: Transport = {
  localAddress: { address: '0.0.0.0', port: 0 },
  maxDatagramSize: 1200,
  start(receiver: TransportReceiver) {
    receiver.failed(new QuicError('TransportLostError', 'for a test', { code: 'ETEST' }));
  },
  send: (data, address, port) => data.length + address.length + port > 0,
  close() {},
};

async function transports(): Promise<Transport[]> {
  const at = { host: 'example.org', port: 443 };
  return [
    mine,
    dgramTransport(),
    await webSocketTransport('wss://relay.example.org', at, { WebSocket }),
    await webTransportTransport('https://relay.example.org', at),
  ];
}

function wrong(connection: Connection, has: Capabilities): void {
  // @ts-expect-error: connections come from `connect`
  new Connection();
  // @ts-expect-error: and servers from `listen`
  new Server();
  // @ts-expect-error: a server needs a certificate
  listen({ alpn: ['one'] });
  // @ts-expect-error: there is no such way
  connect('https://example.org', { relayTransport: 'pigeon' });
  // @ts-expect-error: bytes, not text
  connection.datagrams.send('text');
  // @ts-expect-error: not to be changed
  has.udp = true;
  // @ts-expect-error: there is no such number
  connection.getStats().luck;
}

export { client, server, transports, wrong };
void capabilities().relayTransports.includes('webtransport');
