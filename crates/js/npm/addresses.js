// Which address of a server's: the first that answers (RFC 8305).

/** How long an address has for itself before the next is tried as well, in milliseconds. */
const HEAD_START_MS = 250;

/** Somebody answered, so that other addresses would say the same; or it does not depend on the address. */
const FINAL = ['CertificateError', 'TlsError', 'ConnectionClosedError', 'InvalidArgumentError'];

/** The first connection of those that `attempt(address, signal)` promises. The other attempts are given up. */
export function anyOf(addresses, attempt, signal) {
  if (addresses.length === 1) return attempt(addresses[0], signal);
  return new Promise((resolve, reject) => {
    const controllers = [];
    let tried = 0;
    let failed = 0;
    let first;
    let over = false;
    let timer;
    const end = () => {
      over = true;
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
      controllers.forEach((it) => it.abort());
    };
    const abort = () => {
      end();
      reject(signal.reason);
    };
    const next = () => {
      clearTimeout(timer);
      if (over || tried === addresses.length) return;
      const controller = new AbortController();
      controllers.push(controller);
      attempt(addresses[tried++], controller.signal).then(
        (connection) => {
          // Two may have been quick.
          if (over) return connection.close();
          end();
          resolve(connection);
        },
        (error) => {
          if (over) return;
          first ??= error;
          failed += 1;
          const final = FINAL.includes(error?.name);
          if (final || failed === addresses.length) {
            end();
            reject(final ? error : first);
          } else {
            next();
          }
        },
      );
      timer = setTimeout(next, HEAD_START_MS);
    };
    signal?.addEventListener('abort', abort);
    next();
  });
}
