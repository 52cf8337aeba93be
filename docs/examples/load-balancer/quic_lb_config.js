// By configuration id (the first three bits of a connection id): lengths in bytes, the key if there is
// one, and the servers by their ids. Servers have the same lengths and key, see QuicLbConfig.
//
// These keys are public. Make your own: openssl rand -hex 16

export default {
    // Plain text.
    0: {
        serverId: 2,
        nonce: 8,
        servers: {'0001': '127.0.0.1:5001', '0002': '127.0.0.1:5002'}
    },
    // Encrypted in a single pass: server id and nonce have 16 bytes together.
    1: {
        serverId: 2,
        nonce: 14,
        key: '8f95f09245765f80256934e50c66207f',
        servers: {'a001': '127.0.0.1:5001', 'a002': '127.0.0.1:5002'}
    },
    // Encrypted in four passes: any other length.
    2: {
        serverId: 2,
        nonce: 5,
        key: 'fdf726a9893ec05c0632d3956680baf0',
        servers: {'b001': '127.0.0.1:5001', 'b002': '127.0.0.1:5002'}
    }
};
