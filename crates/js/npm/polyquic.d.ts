/**
 * QUIC in Node and in browsers. Names are WebTransport's where the thing is the same.
 *
 * ```js
 * import { connect } from 'polyquic';
 *
 * const connection = await connect('https://example.org:4433', { alpn: ['my-protocol'] });
 * const { readable, writable } = await connection.createBidirectionalStream();
 * const writer = writable.getWriter();
 * await writer.write(new TextEncoder().encode('hello'));
 * await writer.close(); // the peer has all of it
 * for await (const chunk of readable) console.log(chunk);
 * connection.close();
 * ```
 */

/** Connect to a server: to the host and the port (443 if there is none) of `url`. Its scheme and path
 *  do not matter.
 *
 *  In Node by UDP. In browsers, which have no UDP, by {@link ConnectOptions.relay} or
 *  {@link ConnectOptions.transport}. Rejects with a {@link QuicError}, or with the reason of the signal. */
export function connect(url: string | URL, options?: ConnectOptions): Promise<Connection>;

/** Accept connections. In Node only. */
export function listen(options: ListenOptions): Promise<Server>;

/** Load the WebAssembly module before it is needed. `connect` and `listen` do, if nobody did. What failed is
 *  tried anew at the next call. */
export function ready(): Promise<void>;

/** What there is here, and what there is not. */
export function capabilities(): Capabilities;

export interface Capabilities {
  /** Connections without a relay. */
  readonly udp: boolean;
  /** `listen` without a transport of one's own. */
  readonly listen: boolean;
  /** Congestion is told before packets are lost (RFC 9000 section 13.4). */
  readonly ecn: boolean;
  /** The system cuts large sends into datagrams. */
  readonly segmentationOffload: boolean;
  readonly threads: boolean;
  /** Key exchange that future quantum computers do not break. */
  readonly postQuantum: boolean;
  /** What {@link ConnectOptions.relayTransport} may be, without a `WebSocket` of one's own. Whether a relay
   *  speaks it is another question. */
  readonly relayTransports: readonly ('websocket' | 'webtransport')[];
}

/** What holds for each connection. */
export interface TransportOptions {
  /** Protocols to agree on by TLS (RFC 7301), the most wanted first. Servers usually insist on one. */
  alpn?: string[];
  /** Send something after this many milliseconds of silence, to keep the connection (and what is on its
   *  way) from giving it up. 0, and the default: never. */
  keepAliveInterval?: number;
  /** Give the connection up after this many milliseconds without anything from the peer, or after what
   *  the peer says, if that is shorter. 0: never. Default: 30 seconds. */
  maxIdleTimeout?: number;
  /** Streams that the peer may have open at once. Default: 100. */
  maxIncomingBidirectionalStreams?: number;
  /** Streams that the peer may have open at once. Default: 100. */
  maxIncomingUnidirectionalStreams?: number;
  /** Default: `"cubic"`. */
  congestionControl?: 'cubic' | 'bbr' | 'new-reno';
  /** The size of UDP datagrams to begin with, in bytes, where the path is known to carry more than the
   *  default of 1200. */
  initialDatagramSize?: number;
}

export interface ConnectOptions extends TransportOptions {
  /** Trust servers whose certificates these certificates signed, in PEM. Default in Node: the
   *  authorities that Node trusts. Browsers tell nobody whom they trust: there, this or
   *  {@link serverCertificateHashes} is needed. */
  ca?: string | string[];
  /** Trust the servers that have one of these certificates, whatever else the certificate says. Not
   *  together with {@link ca}. */
  serverCertificateHashes?: CertificateHash[];
  /** The name that the certificate must be for. Default: the host of the URL. */
  serverName?: string;
  /** The URL of a relay, `ws:` or `wss:` (`https:` for WebTransport), to reach the server by.
   *  `polyquic relay` is one. It sees encrypted packets only. */
  relay?: string | URL;
  /** How to speak to the relay. `"webtransport"` needs a relay that does (`polyquic relay --webtransport`,
   *  at an `https:` URL) and a browser whose WebTransport carries datagrams of 1200 bytes; lost packets
   *  then hold nothing up. Node has none, which is an `UnsupportedError`. `"auto"`: WebTransport if it comes
   *  about within three seconds, else a WebSocket at the same URL. Default: `"websocket"`. */
  relayTransport?: 'websocket' | 'webtransport' | 'auto';
  /** For `"webtransport"`: trust relays that have one of these certificates, which must be valid for at most
   *  14 days. Default: those that the browser trusts. */
  relayCertificateHashes?: CertificateHash[];
  /** What moves the datagrams of this connection, or what makes it. */
  transport?: Transport | ((at: { host: string; port: number }) => Transport | Promise<Transport>);
  /** In Node: which local address to send from. Of a server's addresses, those of its kind (IPv4 or IPv6)
   *  are tried. Default: any. */
  localAddress?: { address?: string; port?: number };
  /** Gives up an attempt to connect. */
  signal?: AbortSignal;
  /** For relays, where there is no global `WebSocket` (Node before version 22). */
  WebSocket?: typeof WebSocket;
}

export interface CertificateHash {
  algorithm: 'sha-256';
  /** Of the whole certificate, in DER. */
  value: BufferSource;
}

export interface ListenOptions extends TransportOptions {
  /** The certificate, and those between it and an authority, in PEM. */
  cert: string;
  /** The key of the certificate, in PEM. */
  key: string;
  /** The address to listen on. Default: all, `"::"`. */
  address?: string;
  /** Default: any that is free. */
  port?: number;
  /** Instead of a UDP socket. */
  transport?: Transport | (() => Transport | Promise<Transport>);
}

/** A server, from {@link listen}: `for await (const connection of server)` accepts, until it is closed. */
export class Server implements AsyncIterable<Connection> {
  private constructor();
  [Symbol.asyncIterator](): AsyncIterator<Connection, undefined>;
  /** What it listens on. */
  readonly address: Address;
  /** The next connection whose handshake is complete. */
  next(): Promise<IteratorResult<Connection, undefined>>;
  /** Accept no more, and close all connections, after what was finished has been delivered (for at most
   *  three seconds). The promise is kept when the peers know. */
  close(info?: Partial<CloseInfo>): Promise<void>;
}

/** A connection, from {@link connect} or a {@link Server}. */
export class Connection {
  private constructor();
  /** How it ended, if one of the two applications closed it. Rejects with a {@link QuicError} if it was
   *  lost. */
  readonly closed: Promise<CloseInfo>;
  readonly remoteAddress: Address;
  /** What the two sides agreed on, of {@link TransportOptions.alpn}; empty if nothing. */
  readonly protocol: string;
  /** Streams that the peer opens. Ends when the connection is closed. */
  readonly incomingBidirectionalStreams: ReadableStream<BidirectionalStream> &
    AsyncIterable<BidirectionalStream>;
  /** Streams that the peer opens. Ends when the connection is closed. */
  readonly incomingUnidirectionalStreams: ReadableStream<ReceiveStream> & AsyncIterable<ReceiveStream>;
  readonly datagrams: Datagrams;
  /** Open a stream, as soon as the peer allows one more. The peer learns of it with the first bytes. */
  createBidirectionalStream(options?: StreamOptions): Promise<BidirectionalStream>;
  /** Open a stream, as soon as the peer allows one more. The peer learns of it with the first bytes. */
  createUnidirectionalStream(options?: StreamOptions): Promise<SendStream>;
  /** Close at once. What was not acknowledged is lost: await the `close` of streams that matter. */
  close(info?: Partial<CloseInfo>): void;
  getStats(): ConnectionStats;
}

/** What an application says when it closes a connection. */
export interface CloseInfo {
  /** A whole number from 0 to 2^62 - 1, of the application's making. Default: 0. */
  closeCode: number;
  /** For people who debug. Default: empty. */
  reason: string;
}

export interface StreamOptions {
  /** Of several streams with something to send, those with the highest number go first. Default: 0. */
  sendOrder?: number;
}

export interface BidirectionalStream {
  readonly id: number;
  readonly readable: ReceiveStream;
  readonly writable: SendStream;
}

/** Bytes from the peer. Nothing is taken from QUIC before somebody reads, so that flow control holds the
 *  peer back. `cancel({ streamErrorCode })` asks the peer to stop. */
export type ReceiveStream = ReadableStream<Uint8Array> & AsyncIterable<Uint8Array>;

/** Bytes to the peer. `write` is done when QUIC has taken them, `close` when the peer has all of them.
 *  `abort({ streamErrorCode })` gives the stream up, whatever waits: a write or a close that does is rejected
 *  with what was passed to `abort`. A `pipeTo` that is given up by its signal writes what it has taken first, as
 *  the web platform has it, which may take until the peer reads: where that must not be, use a writer. */
export type SendStream = WritableStream<BufferSource>;

/** Messages that may be lost, or overtake each other. */
export interface Datagrams {
  readonly readable: ReadableStream<Uint8Array> & AsyncIterable<Uint8Array>;
  /** What is too large is dropped, and counted in {@link ConnectionStats.oversizedDatagrams}. */
  readonly writable: WritableStream<BufferSource>;
  /** Send one, when there is room for it. Rejects with a `DatagramTooLargeError` if it is too large. */
  send(data: BufferSource): Promise<void>;
  /** In bytes, at the moment; 0 if the peer takes none. */
  readonly maxDatagramSize: number;
}

/** Times are in milliseconds. */
export interface ConnectionStats {
  smoothedRtt: number;
  minRtt: number;
  bytesSent: number;
  bytesReceived: number;
  packetsSent: number;
  packetsLost: number;
  datagramsSent: number;
  datagramsReceived: number;
  congestionEvents: number;
  congestionWindow: number;
  pathMtu: number;
  /** What `datagrams.writable` was given and did not send: it was larger than `maxDatagramSize`. */
  oversizedDatagrams: number;
}

export interface Address {
  address: string;
  port: number;
}

/** What goes wrong, by `name`:
 *
 *  | name | |
 *  |---|---|
 *  | `ConnectionClosedError` | one of the two applications closed the connection: `closeCode`, `reason` |
 *  | `TimeoutError` | the peer, or the network, fell silent |
 *  | `ConnectionResetError` | the peer does not know the connection: it was restarted |
 *  | `ConnectionRefusedError` | the server does not want the connection |
 *  | `CertificateError` | the certificate was not accepted |
 *  | `TlsError` | TLS found no agreement, on a protocol for instance |
 *  | `TransportError` | one of the two sides broke the rules of QUIC: `transportErrorCode` |
 *  | `StreamResetError` | the peer gave the stream up: `streamErrorCode` |
 *  | `StreamStoppedError` | the peer does not want the stream: `streamErrorCode` |
 *  | `StreamClosedError` | the stream has ended |
 *  | `DatagramTooLargeError` | a datagram is larger than `maxDatagramSize` |
 *  | `DatagramsUnsupportedError` | the peer takes no datagrams |
 *  | `RelayForbiddenError` | the relay does not lead to this server |
 *  | `RelayUnresolvedError` | the relay does not find the server's name |
 *  | `RelayIdleError`, `RelayLimitError` | the relay was used too little, or too much |
 *  | `RelayClosedError` | the relay was shut down, or the connection to it was lost |
 *  | `RelayUnreachableError` | there is no relay |
 *  | `RelayProtocolError` | what is there is no relay |
 *  | `TransportLostError` | the transport failed |
 *  | `UnresolvedError` | the server's name has no address |
 *  | `LoadError` | the WebAssembly module cannot be had: `cause` |
 *  | `BindError` | the address to listen on is taken, or not this machine's: `code` |
 *  | `InvalidArgumentError` | an option makes no sense |
 *  | `UnsupportedError` | not in a browser, or not in this one |
 */
export class QuicError extends Error {
  /** For transports, whose errors connections end with. `details` become properties. */
  constructor(name: string, message: string, details?: object);
  /** Whether a connection has ended, or only a stream. */
  readonly source?: 'session' | 'stream';
  readonly closeCode?: number;
  readonly reason?: string;
  readonly streamErrorCode?: number;
  /** RFC 9000 section 20.1; from 0x100 on, alerts of TLS. */
  readonly transportErrorCode?: number;
  /** What the relay calls it. */
  readonly relayError?: string;
  /** What the system calls it. */
  readonly code?: string;
}

/** What moves datagrams. Write one to run QUIC over something of your own, a WebRTC data channel for
 *  instance. */
export interface Transport {
  /** Called once. Whatever arrives from now on goes to `receiver`. */
  start(receiver: TransportReceiver): void;
  /** Send one datagram. `false` says that there is no room, and that it was not sent: call
   *  `receiver.writable()` when there is. What cannot be sent for any other reason is lost, as datagrams
   *  may be; the first error that is thrown is written to the console, and is the `cause` of a
   *  `TimeoutError` that follows. The array may be kept.
   *
   *  It is called in the middle of things: the receiver may be called from it, but no connection, stream or
   *  server. */
  send(data: Uint8Array, address: string, port: number): boolean | void;
  /** Optional: send several at once, each `size` bytes long, except that the last may be shorter. */
  sendBatch?(data: Uint8Array, size: number, address: string, port: number): boolean | void;
  /** Called once, when nothing more will be sent or received. */
  close(): void;
  /** Any will do, where there is none. */
  readonly localAddress: Address;
  /** The longest datagram that can be sent, in bytes. QUIC needs 1200. */
  readonly maxDatagramSize: number;
  /** Whether datagrams may be fragmented on their way. If not, larger ones are tried (up to
   *  `maxDatagramSize`). Default: true. */
  readonly mayFragment?: boolean;
  /** Where the server is, if the transport knows. Default: what the URL says. */
  readonly target?: Address;
}

export interface TransportReceiver {
  /** Something has arrived. The array is not kept. */
  datagram(data: Uint8Array, address: string, port: number): void;
  /** There is room again. */
  writable(): void;
  /** Nothing will ever arrive again. Connections end with this error if it is a {@link QuicError}, else with
   *  a `TransportLostError` of which it is the `cause`. */
  failed(error: Error | string): void;
}

/** A WebSocket to a relay that has UDP, see {@link ConnectOptions.relay}. */
export function webSocketTransport(
  relay: string | URL,
  target: { host: string; port: number },
  options?: { signal?: AbortSignal; WebSocket?: typeof WebSocket },
): Promise<Transport>;

/** WebTransport to a relay that has UDP, see {@link ConnectOptions.relayTransport}. Rejects with an
 *  `UnsupportedError` if there is none (as in Node), or if its datagrams are too small. */
export function webTransportTransport(
  relay: string | URL,
  target: { host: string; port: number },
  options?: { signal?: AbortSignal; relayCertificateHashes?: CertificateHash[] },
): Promise<Transport>;

/** A UDP socket of Node's, bound when this returns. It has no ECN and no segmentation offload. Throws an
 *  `UnsupportedError` in browsers. */
export function dgramTransport(address?: string, port?: number): Transport;
