// What the ways to a relay have in common: its address, and what it says when it ends.

import { QuicError } from '../errors.js';

const NAMES = {
  1001: ['RelayClosedError', 'the relay was shut down'],
  1006: ['RelayClosedError', 'the connection to the relay was lost'],
  4403: ['RelayForbiddenError', 'the relay does not lead to this target'],
  4404: ['RelayUnresolvedError', 'the relay cannot resolve the target'],
  4408: ['RelayIdleError', 'the relay was not used for too long'],
  4429: ['RelayLimitError', 'the relay was asked for too much'],
};

/** The URL of the relay, with what it is to lead to. */
export function relayUrl(relay, { host, port }) {
  const url = new URL(relay);
  if (url.pathname === '/') url.pathname = '/udp';
  url.searchParams.set('target', host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`);
  return url;
}

/** Why a relay closed: `said` is its last message, if there was one. */
export function relayError(relay, code, reason, said) {
  const [name, words] = NAMES[code] ?? ['RelayClosedError', 'the relay closed'];
  return new QuicError(name, `${relay}: ${said?.message ?? (reason || words)}`, {
    source: 'session',
    ...(said?.error && { relayError: said.error }),
  });
}

export function unreachable(relay) {
  return new QuicError('RelayUnreachableError', `cannot connect to the relay ${relay}`);
}

/** A message of the relay, or nothing. */
export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

/** Address and port out of what the relay calls its target. */
export function targetOf(hello) {
  const separator = hello.target.lastIndexOf(':');
  return {
    address: hello.target.slice(0, separator).replace(/^\[|\]$/g, ''),
    port: Number(hello.target.slice(separator + 1)),
  };
}

/** A transport that is bound nowhere that matters. */
export const anywhere = (address) => ({ address: address.includes(':') ? '::' : '0.0.0.0', port: 0 });
