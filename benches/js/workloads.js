// The workloads of `benches/src/workload.rs` on the JavaScript package, for both sides. They run in Node
// and, the client's, in a page. Sizes and meanings are those of `benches/src/{server,client}.rs`.

const CHUNK_BYTES = 64 * 1024;
const REQUEST_BYTES = 128;
const RESPONSE_BYTES = 1024;
const PING_BYTES = 64;

/** What one side counts, and the clock of a client. `tell(event, snapshot)` passes it on. */
export class Probe {
  bytes = 0;
  operations = 0;
  measuring = false;
  stopped = false;
  #tell;
  #watched;
  #resume;

  constructor(tell) {
    this.#tell = tell;
  }

  /** Whose packets have the size that snapshots tell; the last of several counts. */
  watch(connection) {
    this.#watched = connection;
  }

  snapshot() {
    return {
      elapsed: performance.now() / 1000,
      bytes: this.bytes,
      operations: this.operations,
      packet_size: this.#watched?.getStats().pathMtu ?? null,
    };
  }

  /** Begin after `warmup` seconds, end after `seconds` more, and go on until the driver has looked at
   *  the server, which must be under load still. */
  async run({ warmup, seconds }) {
    await pause(warmup);
    this.measuring = true;
    await this.#tell('begin', this.snapshot());
    await pause(seconds);
    this.measuring = false;
    const seen = new Promise((resolve) => (this.#resume = resolve));
    await this.#tell('end', this.snapshot());
    await Promise.race([seen, pause(2)]);
    this.stopped = true;
  }

  /** The driver has seen enough. */
  stop() {
    this.#resume?.();
  }
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

const filled = (bytes) => new Uint8Array(bytes).fill(0x5a);

/** Runs `workload` against a server, and returns what only the client knows.
 *  `connect` makes a connection; `clock` is how long it takes, in seconds. */
export async function measure(workload, connect, probe, clock) {
  const run = CLIENTS[workload];
  if (!run) throw new Error(`JavaScript has no ${workload}`);
  return run(connect, probe, (tasks) => Promise.all([probe.run(clock), ...tasks]));
}

const CLIENTS = {
  download: (...it) => bulk(1, drain, ...it),
  'download-streams': (...it) => bulk(16, drain, ...it),
  upload: (...it) => bulk(1, fill, ...it),
  'upload-streams': (...it) => bulk(16, fill, ...it),
  requests: (...it) => exchanges(64, request, ...it),
  latency: (...it) => exchanges(1, ping, ...it),

  async handshakes(connect, probe, together) {
    const durations = [];
    const loop = async () => {
      while (!probe.stopped) {
        const started = performance.now();
        const connection = await connect();
        if (probe.measuring) durations.push(performance.now() - started);
        probe.operations += 1;
        connection.close();
      }
    };
    await together(Array.from({ length: 16 }, loop));
    return percentiles(durations);
  },
};

async function bulk(streams, move, connect, probe, together) {
  const connection = await connect();
  probe.watch(connection);
  await together(Array.from({ length: streams }, () => move(connection, probe)));
  return {};
}

async function drain(connection, probe) {
  const { readable, writable } = await connection.createBidirectionalStream();
  // The peer does not know of a stream before something has been sent on it.
  await writable.getWriter().write(filled(1));
  for await (const chunk of readable) {
    probe.bytes += chunk.length;
    if (probe.stopped) return;
  }
  throw new Error('the server ended the stream');
}

async function fill(connection, probe) {
  const { writable } = await connection.createBidirectionalStream();
  const writer = writable.getWriter();
  const chunk = filled(CHUNK_BYTES);
  while (!probe.stopped) {
    await writer.ready;
    // Whoever waits for `ready` learns of failures there.
    writer.write(chunk).catch(() => {});
  }
}

/** So many loops of `exchange` on one connection. */
async function exchanges(count, exchange, connect, probe, together) {
  const connection = await connect();
  const durations = [];
  const loop = async () => {
    const once = await exchange(connection);
    while (!probe.stopped) {
      const started = performance.now();
      await once();
      if (probe.measuring) durations.push(performance.now() - started);
      probe.operations += 1;
    }
  };
  await together(Array.from({ length: count }, loop));
  return percentiles(durations);
}

async function request(connection) {
  const question = filled(REQUEST_BYTES);
  return async () => {
    const { readable, writable } = await connection.createBidirectionalStream();
    const writer = writable.getWriter();
    writer.write(question).catch(() => {});
    // Kept when the server has all of it; the answer says so earlier.
    writer.close().catch(() => {});
    let bytes = 0;
    for await (const chunk of readable) bytes += chunk.length;
    if (bytes !== RESPONSE_BYTES) throw new Error(`a response of ${bytes} bytes`);
  };
}

async function ping(connection) {
  const { readable, writable } = await connection.createBidirectionalStream();
  const [writer, reader] = [writable.getWriter(), readable.getReader()];
  const question = filled(PING_BYTES);
  return async () => {
    writer.write(question).catch(() => {});
    for (let missing = PING_BYTES; missing > 0; ) {
      const { done, value } = await reader.read();
      if (done) throw new Error('the server ended the stream');
      missing -= value.length;
    }
  };
}

/** In microseconds. */
function percentiles(durations) {
  durations.sort((a, b) => a - b);
  const at = (percent) =>
    durations[Math.min(Math.floor((durations.length * percent) / 100), durations.length - 1)] * 1000;
  return { samples: durations.length, p50: at(50), p99: at(99) };
}

/** The server's part, for one connection. */
export async function serve(workload, connection, probe) {
  probe.operations += workload === 'handshakes' ? 1 : 0;
  if (workload.startsWith('download')) probe.watch(connection);
  const answer = ANSWERS[workload] ?? echo;
  for await (const stream of connection.incomingBidirectionalStreams) {
    // A stream that fails has lost its client, which will say so if that was unexpected.
    answer(stream, probe).catch(() => {});
  }
}

const ANSWERS = {
  download: source,
  'download-streams': source,
  upload: sink,
  'upload-streams': sink,
  requests: respond,
};

async function source({ writable }) {
  const writer = writable.getWriter();
  const chunk = filled(CHUNK_BYTES);
  for (;;) {
    await writer.ready;
    writer.write(chunk).catch(() => {});
  }
}

async function sink({ readable }, probe) {
  for await (const chunk of readable) probe.bytes += chunk.length;
}

async function respond({ readable, writable }, probe) {
  let bytes = 0;
  for await (const chunk of readable) bytes += chunk.length;
  if (bytes !== REQUEST_BYTES) throw new Error(`a request of ${bytes} bytes`);
  const writer = writable.getWriter();
  writer.write(filled(RESPONSE_BYTES)).catch(() => {});
  probe.operations += 1;
  await writer.close();
}

async function echo({ readable, writable }) {
  const writer = writable.getWriter();
  for await (const chunk of readable) await writer.write(chunk);
}
