// Datagrams by Node's UDP sockets. They have no ECN, no segmentation offload, and do not forbid
// fragmentation; the system's socket buffers are as large as the system allows.

import dgram from 'node:dgram';
import { isIP, isIPv6 } from 'node:net';

import { QuicError, invalid } from '../errors.js';

/** For the system's buffers; it may allow less. */
const SOCKET_BUFFER_BYTES = 4 << 20;

/** What Node may hold back when the system's buffer is full, in bytes, before QUIC is told to wait. */
const MAX_QUEUED_BYTES = 256 * 1024;

/** Addresses are numbers already. Answering at once keeps sends and `bind` from waiting a turn. */
const lookup = (address, options, done) => {
  if (typeof options === 'function') done = options;
  done(null, address, isIPv6(address) ? 6 : 4);
};

/** A transport on a UDP socket that is bound to a local address, when this returns. */
export function dgramTransport(address = '0.0.0.0', port = 0) {
  const ipv6 = isIPv6(address);
  if (!isIP(address)) throw invalid(`not an IP address: ${address}`);
  // Node takes what is left of it in 16 bits.
  if (!(Number.isInteger(port) && port >= 0 && port < 65536)) throw invalid(`not a port: ${port}`);
  const socket = dgram.createSocket({ type: ipv6 ? 'udp6' : 'udp4', lookup });
  let failure;
  socket.on('error', (error) => (failure = error));
  try {
    // Exclusive, since workers of a cluster would otherwise ask their parent, which takes a while.
    socket.bind({ address, port, exclusive: true });
  } catch (error) {
    failure = error;
  }
  if (failure) {
    socket.close();
    throw new QuicError('BindError', failure.message, { code: failure.code, cause: failure });
  }
  for (const set of ['setRecvBufferSize', 'setSendBufferSize']) {
    try {
      socket[set](SOCKET_BUFFER_BYTES);
    } catch {
      // Not allowed here: what there is must do.
    }
  }
  let receiver;
  let waiting = false;
  const full = () => {
    if (socket.getSendQueueSize() <= MAX_QUEUED_BYTES) return false;
    if (!waiting) {
      waiting = true;
      setImmediate(look);
    }
    return true;
  };
  const look = () => {
    waiting = false;
    if (receiver && !full()) receiver.writable();
  };
  const named = (to) => (ipv6 && !to.includes(':') ? `::ffff:${to}` : to);
  const local = socket.address();
  return {
    localAddress: { address: local.address, port: local.port },
    maxDatagramSize: 65507,
    start(it) {
      receiver = it;
      socket.on('message', (data, from) => receiver.datagram(data, from.address, from.port));
    },
    send(data, to, toPort) {
      if (full()) return false;
      socket.send(data, toPort, named(to));
      return true;
    },
    sendBatch(data, size, to, toPort) {
      if (full()) return false;
      to = named(to);
      for (let at = 0; at < data.length; at += size) {
        socket.send(data, at, Math.min(size, data.length - at), toPort, to);
      }
      return true;
    },
    close() {
      receiver = undefined;
      socket.removeAllListeners('message');
      socket.close();
    },
  };
}
