// QUIC over a data channel of WebRTC, or over anything with `send` and `message`: a transport of one's own.
//
// Make the channel with `{ ordered: false, maxRetransmits: 0 }`: QUIC repeats what is lost by itself.

/** What the channel may hold back, in bytes, before QUIC is told to wait. */
const MAX_BUFFERED_BYTES = 256 * 1024;

/** Nobody else is there, so that any address will do. */
const PEER = { address: '192.0.2.1', port: 1 };

export function dataChannelTransport(channel) {
  channel.binaryType = 'arraybuffer';
  channel.bufferedAmountLowThreshold = MAX_BUFFERED_BYTES / 4;
  return {
    target: PEER,
    localAddress: { address: '0.0.0.0', port: 0 },
    maxDatagramSize: 1200,
    start(receiver) {
      channel.onmessage = ({ data }) =>
        receiver.datagram(new Uint8Array(data), PEER.address, PEER.port);
      channel.onbufferedamountlow = () => receiver.writable();
      channel.onclose = () => receiver.failed(new Error('the data channel was closed'));
    },
    send(data) {
      if (channel.bufferedAmount > MAX_BUFFERED_BYTES) return false;
      channel.send(data);
      return true;
    },
    close() {
      channel.close();
    },
  };
}
