// Reads the server id out of QUIC connection ids (draft-ietf-quic-load-balancers-21), for nginx's
// stream module.

import configs from 'quic_lb_config.js';

const BLOCK = 16;

// Sets $quic_lb_server by the first datagram of a flow; leaves it if that names no server.
function route(s) {
    s.on('upstream', async function (datagram, flags) {
        // Only the first.
        s.off('upstream');
        try {
            const server = await serverOf(datagram);
            if (server) {
                s.variables.quic_lb_server = server;
            }
        } catch (error) {
            s.error(`quic_lb: ${error.message}`);
        }
        s.done();
    });
}

// The address of the server that a datagram is for, or undefined.
async function serverOf(datagram) {
    const cid = destinationId(datagram);
    if (!cid || cid.length == 0) {
        return undefined;
    }
    const config = configs[cid[0] >> 5];
    if (!config || cid.length < 1 + config.serverId + config.nonce) {
        return undefined;
    }
    let body = cid.slice(1, 1 + config.serverId + config.nonce);
    if (config.key) {
        const key = await crypto.subtle.importKey('raw', Buffer.from(config.key, 'hex'),
            {name: 'AES-CBC'}, false, ['encrypt', 'decrypt']);
        const decrypt = body.length == BLOCK ? decryptBlock : fourPasses;
        body = await decrypt(key, body);
    }
    return config.servers[Buffer.from(body.slice(0, config.serverId)).toString('hex')];
}

// The destination connection id. A short header does not tell its length: all that follows.
function destinationId(datagram) {
    const bytes = new Uint8Array(datagram);
    if (bytes.length == 0) {
        return undefined;
    }
    if (!(bytes[0] & 0x80)) {
        return bytes.slice(1);
    }
    const end = 6 + bytes[5];
    return bytes.length < end ? undefined : bytes.slice(6, end);
}

// The Feistel network of section 5.4.2, backwards. A middle byte is shared: its high bits end the left
// side, its low bits begin the right one.
async function fourPasses(key, body) {
    const odd = body.length % 2;
    const half = (body.length + odd) / 2;
    const left = body.slice(0, half);
    const right = body.slice(body.length - half);
    clearShared(left, right, odd);
    await pass(key, right, left, body.length, 4);
    clearShared(left, right, odd);
    await pass(key, left, right, body.length, 3);
    clearShared(left, right, odd);
    await pass(key, right, left, body.length, 2);
    clearShared(left, right, odd);
    await pass(key, left, right, body.length, 1);
    clearShared(left, right, odd);
    const plain = new Uint8Array(body.length);
    plain.set(right, body.length - half);
    if (odd) {
        left[half - 1] |= right[0];
    }
    plain.set(left);
    return plain;
}

function clearShared(left, right, odd) {
    if (odd) {
        left[left.length - 1] &= 0xf0;
        right[0] &= 0x0f;
    }
}

async function pass(key, from, to, length, number) {
    const block = new Uint8Array(BLOCK);
    block.set(from);
    block[14] = length;
    block[15] = number;
    const mask = await encryptBlock(key, block);
    for (let i = 0; i < to.length; i++) {
        to[i] ^= mask[i];
    }
}

// One block of AES. WebCrypto has no ECB, but CBC with an initial vector of zeros begins with it.
async function encryptBlock(key, block) {
    const out = await crypto.subtle.encrypt({name: 'AES-CBC', iv: new Uint8Array(BLOCK)}, key, block);
    return new Uint8Array(out).slice(0, BLOCK);
}

// CBC wants padding at the end: a second block that decrypts to sixteen bytes of value 16.
async function decryptBlock(key, block) {
    const padding = new Uint8Array(BLOCK);
    for (let i = 0; i < BLOCK; i++) {
        padding[i] = block[i] ^ BLOCK;
    }
    const blocks = new Uint8Array(2 * BLOCK);
    blocks.set(block);
    const second = await encryptBlock(key, padding);
    blocks.set(second, BLOCK);
    const out = await crypto.subtle.decrypt({name: 'AES-CBC', iv: new Uint8Array(BLOCK)}, key, blocks);
    return new Uint8Array(out);
}

export default {route};
