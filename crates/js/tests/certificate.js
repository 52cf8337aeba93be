// A self-signed certificate for tests, made on the spot. Node can sign, but not write certificates.

import { createHash, generateKeyPairSync, sign } from 'node:crypto';

const tlv = (tag, ...parts) => {
  const body = Buffer.concat(parts.map((it) => Buffer.from(it)));
  const length =
    body.length < 128
      ? [body.length]
      : body.length < 256
        ? [0x81, body.length]
        : [0x82, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
};
const sequence = (...parts) => tlv(0x30, ...parts);
const oid = (hex) => tlv(0x06, Buffer.from(hex, 'hex'));
const time = (date) => {
  const digits = date.toISOString().replace(/[-:T]/g, '').slice(0, 14);
  return tlv(0x18, Buffer.from(`${digits}Z`));
};
const pem = (label, der) =>
  `-----BEGIN ${label}-----\n${der.toString('base64').replace(/.{64}/g, '$&\n')}\n-----END ${label}-----\n`;

/** `{ cert, key, hash }`: PEM, PEM, and the SHA-256 hash of the certificate. */
export function certificate({ names = ['localhost'], addresses = ['127.0.0.1'], days = 7 } = {}) {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const ecdsaWithSha256 = sequence(oid('2a8648ce3d040302'));
  const name = sequence(
    tlv(0x31, sequence(oid('550403'), tlv(0x0c, Buffer.from('polyquic test')))),
  );
  const now = Date.now();
  const alternatives = sequence(
    ...names.map((it) => tlv(0x82, Buffer.from(it))),
    ...addresses.map((it) => tlv(0x87, Buffer.from(it.split('.').map(Number)))),
  );
  const toSign = sequence(
    tlv(0xa0, tlv(0x02, [2])),
    tlv(0x02, [1]),
    ecdsaWithSha256,
    name,
    sequence(time(new Date(now - 3600e3)), time(new Date(now + days * 24 * 3600e3))),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    tlv(0xa3, sequence(sequence(oid('551d11'), tlv(0x04, alternatives)))),
  );
  const signature = sign('sha256', toSign, privateKey);
  const der = sequence(toSign, ecdsaWithSha256, tlv(0x03, [0], signature));
  return {
    cert: pem('CERTIFICATE', der),
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }),
    hash: createHash('sha256').update(der).digest(),
  };
}
