/** An error of QUIC. `name` says which one, see polyquic.d.ts for the list. */
export class QuicError extends Error {
  constructor(name, message, details = {}) {
    super(message);
    Object.assign(this, details);
    // Not enumerable, as with the errors of the language.
    Object.defineProperty(this, 'name', { value: name, configurable: true, writable: true });
  }
}

export const invalid = (message, details) => new QuicError('InvalidArgumentError', message, details);

/** `value` as bytes, without a copy. */
export function bytesOf(value) {
  if (value instanceof Uint8Array) return value;
  if (ArrayBuffer.isView(value)) {
    return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  }
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  throw invalid('bytes must be an ArrayBuffer or a view of one');
}

/** `code`, if QUIC can send it. */
export function codeOf(code) {
  if (Number.isInteger(code) && code >= 0 && code < 2 ** 62) return code;
  throw invalid('a code must be a whole number from 0 to 2^62 - 1');
}

/** `promise`, unless `signal` is aborted first. */
export function unlessAborted(promise, signal) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort);
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
