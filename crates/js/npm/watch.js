// What is between a transport and the module.

import { QuicError } from './errors.js';

/** `transport` as the module gets it: closed once, silent after that, and remembering why it failed, which
 *  says more than what QUIC makes of it. */
export function watched(transport) {
  const watch = {
    // Why the transport failed, what `send` threw first, and what a server said when it was closed.
    failure: undefined,
    thrown: undefined,
    closing: undefined,
  };
  let open = true;
  watch.transport = {
    localAddress: transport.localAddress,
    maxDatagramSize: transport.maxDatagramSize,
    mayFragment: transport.mayFragment,
    start(receiver) {
      transport.start({
        datagram(data, address, port) {
          if (open) receiver.datagram(data, address, port);
        },
        writable() {
          if (open) receiver.writable();
        },
        failed(error) {
          if (!open) return;
          watch.failure ??= lost(error);
          receiver.failed(watch.failure);
        },
      });
    },
    send(data, address, port) {
      try {
        return transport.send(data, address, port);
      } catch (error) {
        watch.thrown ??= error;
        throw error;
      }
    },
    close() {
      if (!open) return;
      open = false;
      transport.close();
    },
  };
  if (transport.sendBatch) {
    watch.transport.sendBatch = (data, size, address, port) => {
      try {
        return transport.sendBatch(data, size, address, port);
      } catch (error) {
        watch.thrown ??= error;
        throw error;
      }
    };
  }
  return watch;
}

const lost = (error) =>
  error instanceof QuicError
    ? error
    : new QuicError('TransportLostError', error?.message ?? String(error), {
        source: 'session',
        cause: error,
      });

/** Errors of the module, with what is known here in addition. `closing` returns what was said by whoever
 *  closed the connection on this side. */
export function translator(watch, closing) {
  return (error) => {
    if (watch.failure && error?.source === 'session') return watch.failure;
    if (error?.name === 'TimeoutError' && watch.thrown) error.cause = watch.thrown;
    if (error?.name === 'ConnectionClosedError' && error.closeCode === undefined) {
      Object.assign(error, closing());
    }
    return error;
  };
}
