// One side of a measurement, in JavaScript: what `benches/src/peer.rs` is in Rust, with the same command
// line and the same lines of JSON on standard output. `cargo xtask bench` builds what it needs, and says
// in the environment where that is.
//
// polyquic-wasm-node      both sides in Node, by its UDP sockets
// polyquic-wasm-browser   a page in Chromium, through `polyquic relay`, to a native server on `blocking`

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

import { Probe, measure, serve } from './workloads.js';

const NODE = 'polyquic-wasm-node';
const BROWSER = 'polyquic-wasm-browser';
/** The server that a browser talks to. */
const NATIVE = 'polyquic-blocking';
/** The kernel counts processor time in these, on every Linux. */
const TICKS_PER_SECOND = 100;
/** As in `benches/src/peer.rs`. */
const GROUP_PRIORITY = '-15';

const emit = (event, fields) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);

const [role] = process.argv.slice(2);
if (role === 'subjects') {
  console.log(`${NODE}\n${BROWSER}`);
} else {
  start().catch((error) => {
    emit('failed', { error: `${error?.name}: ${error?.message}` });
    process.exit(1);
  });
}

async function start() {
  const text = { type: 'string' };
  const { values: options } = parseArgs({
    args: process.argv.slice(3),
    options: {
      subject: text,
      workload: text,
      'packet-size': text,
      provider: text,
      workers: text,
      cores: text,
      identity: text,
      seconds: text,
      warmup: text,
      connect: text,
      listen: { ...text, default: '127.0.0.1:0' },
      detached: { type: 'boolean', default: false },
    },
  });
  if (role === 'server' && options.subject === BROWSER) return native();
  if (options.provider !== 'ring') {
    throw new Error(`WebAssembly has no ${options.provider}: \`--providers ring\``);
  }
  if (options.cores) {
    execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', options.cores, `${process.pid}`]);
  }
  try {
    writeFileSync('/proc/self/autogroup', GROUP_PRIORITY);
  } catch {
    // Not allowed here.
  }
  if (role === 'server') return server(options);
  return options.subject === NODE ? nodeClient(options) : browserClient(options);
}

/** The same on a native executor, which obeys the driver itself. */
async function native() {
  const args = process.argv.slice(2);
  args[args.indexOf('--subject') + 1] = NATIVE;
  const child = spawn(process.env.POLYQUIC_NATIVE, args, { stdio: 'inherit' });
  const [code] = await once(child, 'exit');
  process.exit(code ?? 1);
}

/** The certificate and key that the natives have made, in PEM. */
function identity({ identity: directory }) {
  const pem = (file, label) => {
    let der;
    try {
      der = readFileSync(path.join(directory, file));
    } catch (error) {
      throw new Error(`${error.message}; a native peer makes it when it is measured`);
    }
    const lines = der.toString('base64').match(/.{1,64}/g).join('\n');
    return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`;
  };
  return { cert: pem('certificate.der', 'CERTIFICATE'), key: pem('key.der', 'PRIVATE KEY') };
}

const transport = (options) => ({
  alpn: ['bench'],
  initialDatagramSize: Number(options['packet-size']),
});

/** Calls `obey` with each word of the driver, and ends with it. */
function listenToDriver({ detached }, obey) {
  if (detached) return;
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => obey(line.trim()));
  lines.on('close', () => process.exit(0));
}

/** Processor time of this process, in seconds, and its memory. */
function usage() {
  const { user, system } = process.cpuUsage();
  return { user: user / 1e6, system: system / 1e6, resident: process.memoryUsage.rss() };
}

async function server(options) {
  const quic = await import(path.join(process.env.POLYQUIC_PACKAGE, 'node.js'));
  const probe = new Probe();
  const [address, port] = options.listen.split(':');
  const listening = { address, port: Number(port), ...identity(options), ...transport(options) };
  const endpoint = await quic.listen(listening);
  listenToDriver(options, (word) => {
    if (word === 'snapshot') emit('snapshot', { snapshot: { ...probe.snapshot(), ...usage() } });
  });
  emit('ready', {
    address: `${endpoint.address.address}:${endpoint.address.port}`,
    settings: {
      tls: 'rustls, ring, ChaCha20-Poly1305 first',
      certificate: 'ECDSA P-256, self-signed, verified by the client',
      resumption: 'off',
      keep_alive: 'off',
      packet_size: Number(options['packet-size']),
      transport: "polyquic's own defaults",
      differs_by: 'WebAssembly, in one thread of Node on either side',
    },
  });
  for await (const connection of endpoint) {
    serve(options.workload, connection, probe).catch(() => {});
  }
}

const clock = ({ warmup, seconds }) => ({ warmup: Number(warmup), seconds: Number(seconds) });

async function nodeClient(options) {
  const quic = await import(path.join(process.env.POLYQUIC_PACKAGE, 'node.js'));
  const probe = new Probe((event, snapshot) => emit(event, { snapshot: { ...snapshot, ...usage() } }));
  listenToDriver(options, (word) => word === 'stop' && probe.stop());
  const to = { ca: identity(options).cert, serverName: 'localhost', ...transport(options) };
  const connect = () => quic.connect(`https://${options.connect}`, to);
  const done = await measure(options.workload, connect, probe, clock(options));
  emit('done', done);
}

async function browserClient(options) {
  const { chromium } = await import(process.env.POLYQUIC_PLAYWRIGHT);
  const relay = await startRelay(options.connect);
  const browser = await chromium.launch({
    executablePath: process.env.POLYQUIC_CHROMIUM,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--disable-quic',
    ],
  });
  const page = await browser.newPage();
  await page.exposeFunction('tell', (event, snapshot) =>
    // The relay is on the client's side, too.
    emit(event, { snapshot: { ...snapshot, ...usageOfDescendants() } }),
  );
  listenToDriver(options, (word) => word === 'stop' && page.evaluate('probe.stop()').catch(() => {}));
  await page.goto(`http://127.0.0.1:${relay.port}/page.html`);
  await page.waitForFunction('window.measure');
  const to = {
    relay: `ws://127.0.0.1:${relay.port}`,
    ca: identity(options).cert,
    serverName: 'localhost',
    ...transport(options),
  };
  const done = await page.evaluate(
    ([workload, url, to, clock]) => window.measure(workload, url, to, clock),
    [options.workload, `https://${options.connect}`, to, clock(options)],
  );
  await browser.close();
  relay.child.kill();
  emit('done', done);
}

async function startRelay(target) {
  const child = spawn(
    'setpriv',
    [
      // It must not outlive this process, however that ends.
      ...['--pdeathsig', 'KILL', process.env.POLYQUIC_PROGRAM, 'relay', '--quiet'],
      ...['--listen', '127.0.0.1:0', '--allow', target, '--files', process.env.POLYQUIC_SITE],
      ...['--max-clients', '5000', '--max-clients-per-address', '5000'],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  for await (const line of createInterface({ input: child.stdout })) {
    const port = /^listening on 127\.0\.0\.1:(\d+)/.exec(line)?.[1];
    if (port) {
      child.stdout.resume();
      return { child, port };
    }
  }
  throw new Error('the relay ended before it listened');
}

/** Processor time of all that this process has started and of what those have, in seconds. */
function usageOfDescendants() {
  const processes = new Map();
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
      // The name, in parentheses, may hold anything.
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
      const [parent, user, system] = [fields[1], fields[11], fields[12]].map(Number);
      processes.set(Number(pid), { parent, user, system });
    } catch {
      // It has ended in the meantime.
    }
  }
  let [user, system] = [0, 0];
  for (const [pid, times] of processes) {
    let ancestor = pid;
    while (ancestor && ancestor !== process.pid) ancestor = processes.get(ancestor)?.parent;
    if (ancestor === process.pid && pid !== process.pid) {
      user += times.user;
      system += times.system;
    }
  }
  return { user: user / TICKS_PER_SECOND, system: system / TICKS_PER_SECOND, resident: 0 };
}
