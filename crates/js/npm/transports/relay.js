// What the ways to a relay have in common: its address, and what it says.

import { QuicError, invalid } from '../errors.js';

const NAMES = {
  1001: ['RelayClosedError', 'the relay was shut down'],
  1006: ['RelayClosedError', 'the connection to the relay was lost'],
  4403: ['RelayForbiddenError', 'the relay does not lead to this target'],
  4404: ['RelayUnresolvedError', 'the relay cannot resolve the target'],
  4408: ['RelayIdleError', 'the relay was not used for too long'],
  4429: ['RelayLimitError', 'the relay was asked for too much'],
};

/** The most that a relay may say that it takes, in bytes: UDP's. */
const MAX_DATAGRAM_BYTES = 65507;

/** What relays take that do not say, in bytes. */
const USUAL_DATAGRAM_BYTES = 1452;

/** The URL of the relay, with what it is to lead to, for a way that goes by `https:` or `wss:` (`secure`), and
 *  perhaps without encryption (`plain`). */
export function relayUrl(relay, { host, port }, { secure, plain }) {
  let url;
  try {
    url = new URL(relay, globalThis.location?.href);
  } catch (cause) {
    throw invalid(`\`relay\` is not a URL: ${relay}`, { cause });
  }
  const scheme = { 'https:': secure, 'wss:': secure, 'http:': plain, 'ws:': plain }[url.protocol];
  if (!scheme) throw invalid(`\`relay\` must be a URL with ${secure} for this, not ${url.protocol}`);
  url.protocol = scheme;
  // What WebSocket and WebTransport refuse.
  url.hash = '';
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

export function unreachable(relay, details) {
  return new QuicError('RelayUnreachableError', `cannot connect to the relay ${relay}`, details);
}

/** A message of the relay, as far as it makes sense: `error` and `message` (strings), `target` (address and
 *  port), `maxDatagramSize`. */
export function parse(text) {
  let said;
  try {
    said = JSON.parse(text);
  } catch {
    // Nothing, as if it were empty.
  }
  const { error, message, target, maxDatagramSize } = said ?? {};
  const string = (it) => (typeof it === 'string' && it !== '' ? it : undefined);
  return {
    error: string(error),
    message: string(message),
    target: targetOf(target),
    maxDatagramSize: Number.isInteger(maxDatagramSize)
      ? Math.min(maxDatagramSize, MAX_DATAGRAM_BYTES)
      : USUAL_DATAGRAM_BYTES,
  };
}

/** Address and port out of what the relay calls its target, an address that it has resolved. */
function targetOf(target) {
  const [, ipv6, ipv4, port] = /^(?:\[([\da-f:.]+)\]|([\d.]+)):(\d{1,5})$/i.exec(target) ?? [];
  if (!port || Number(port) > 65535) return undefined;
  return { address: ipv6 ?? ipv4, port: Number(port) };
}

/** What begins with something else than a target, or a refusal, is no relay. */
export function strange(relay) {
  return new QuicError('RelayProtocolError', `${relay} does not speak as a relay does`, {
    source: 'session',
  });
}

/** A transport that is bound nowhere that matters. */
export const anywhere = (address) => ({ address: address.includes(':') ? '::' : '0.0.0.0', port: 0 });
