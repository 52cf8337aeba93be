/** An error of QUIC. `name` says which one, see polyquic.d.ts for the list. */
export class QuicError extends Error {
  constructor(name, message, details = {}) {
    super(message);
    Object.assign(this, details);
    // Not enumerable, as with the errors of the language.
    Object.defineProperty(this, 'name', { value: name, configurable: true, writable: true });
  }
}
