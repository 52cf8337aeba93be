// The page: what is typed, shown and pressed. What QUIC does is in `session.js`, here or in a worker.

import { FILES, PERF, Session } from './session.js';

const SHOWN_TRANSFERS = 6;

const at = (id) => document.getElementById(id);

/** A session in a worker, with the methods of one in the page. */
class Remote {
  #worker = new Worker('worker.js', { type: 'module' });
  #waiting = new Map();
  #stats = {};
  #next = 0;

  static async open(options) {
    const remote = new Remote();
    try {
      Object.assign(remote, await remote.#call('open', options));
    } catch (error) {
      remote.#worker.terminate();
      throw error;
    }
    return remote;
  }

  constructor() {
    this.closed = new Promise((resolve, reject) => {
      const lost = (error) => {
        this.#waiting.forEach((it) => it.reject(error));
        // What is still on its way from the worker is too late.
        this.#waiting.clear();
        reject(error);
      };
      this.#worker.onerror = (event) => lost(new Error(event.message || 'the worker cannot be started'));
      this.#worker.onmessage = ({ data }) => {
        if (data.stats) this.#stats = data.stats;
        else if ('ended' in data) {
          data.ended ? lost(revived(data.ended)) : resolve();
          // What ended with it has been said by then.
          setTimeout(() => this.#worker.terminate(), 1000);
        } else this.#answer(data);
      };
    });
    this.closed.catch(() => {});
  }

  #answer({ id, progress, result, error }) {
    const waiting = this.#waiting.get(id);
    if (progress !== undefined) return waiting?.progress?.(progress);
    this.#waiting.delete(id);
    if (error) waiting?.reject(revived(error));
    else waiting?.resolve(result);
  }

  #call(call, argument, progress) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, progress });
      this.#worker.postMessage({ id, call, argument });
    });
  }

  download = (bytes, progress) => this.#call('download', bytes, progress);
  upload = (bytes, progress) => this.#call('upload', bytes, progress);
  fetch = (path, progress) => this.#call('fetch', path, progress);
  close = () => void this.#call('close');
  stats = () => this.#stats;
}

const revived = ({ name, message }) => Object.assign(new Error(message), { name });

let session;
let ticking;

function status(state, text) {
  at('status').dataset.state = state;
  at('status').textContent = text;
}

function controls(open) {
  at('connect').disabled = open;
  at('close').disabled = !open;
  at('measure').disabled = !(open && session?.protocol === PERF);
  at('files').disabled = !(open && session?.protocol === FILES);
}

/** Errors of this package have names that say what to do; those of others do not matter here. */
const words = (error) => `${error.name}: ${error.message}`;

async function open(event) {
  event.preventDefault();
  const options = {
    server: at('server').value.trim(),
    relay: at('relay').value.trim(),
    ca: at('ca').value.trim(),
  };
  const where = at('worker').checked ? Remote : Session;
  status('idle', `Connecting to ${options.server} …`);
  at('connect').disabled = true;
  const started = performance.now();
  try {
    session = await where.open(options);
  } catch (error) {
    session = undefined;
    controls(false);
    return status('failed', words(error));
  }
  const took = (performance.now() - started).toFixed(0);
  const place = where === Remote ? 'in a worker' : 'in this page';
  status('open', `Connected ${place} after ${took} ms, protocol ${session.protocol}.`);
  controls(true);
  ticking = setInterval(showStats, 500);
  const ended = (state, text) => {
    clearInterval(ticking);
    showStats();
    session = undefined;
    controls(false);
    status(state, text);
  };
  session.closed.then(
    () => ended('idle', 'Closed.'),
    (error) => ended('failed', words(error)),
  );
}

const kb = (bytes) => `${(bytes / 1000).toFixed(0)} kB`;

function showStats() {
  const stats = session?.stats() ?? {};
  if (stats.smoothedRtt === undefined) return;
  const rows = {
    'round trip': `${stats.smoothedRtt.toFixed(1)} ms`,
    'congestion window': kb(stats.congestionWindow),
    'path MTU': `${stats.pathMtu} bytes`,
    'packets sent': stats.packetsSent,
    'packets lost': stats.packetsLost,
    received: kb(stats.bytesReceived),
    sent: kb(stats.bytesSent),
  };
  at('stats').replaceChildren(
    ...Object.entries(rows).map(([name, value]) => {
      const row = document.createElement('div');
      const [dt, dd] = [document.createElement('dt'), document.createElement('dd')];
      dt.textContent = name;
      dd.textContent = value;
      row.append(dt, dd);
      return row;
    }),
  );
}

/** Show a transfer of `total` bytes, if that is known, while `run` does it. */
async function transfer(name, total, run) {
  const row = document.createElement('li');
  row.innerHTML = '<p><span></span><span></span></p><progress></progress>';
  const [title, figure] = row.querySelectorAll('span');
  const bar = row.querySelector('progress');
  title.textContent = name;
  if (total) bar.max = total;
  at('transfers').prepend(row);
  [...at('transfers').children].slice(SHOWN_TRANSFERS).forEach((it) => it.remove());
  const started = performance.now();
  const show = (bytes) => {
    const seconds = (performance.now() - started) / 1000;
    if (total) bar.value = bytes;
    figure.textContent = `${(bytes / 1e6).toFixed(1)} MB, ${((bytes * 8) / 1e6 / seconds).toFixed(0)} Mbit/s`;
  };
  try {
    const { bytes, hash } = await run(show);
    bar.max = bar.value = Math.max(bytes, 1);
    show(bytes);
    row.dataset.state = 'done';
    if (hash) {
      const line = document.createElement('code');
      line.textContent = `SHA-256 ${hash}`;
      row.append(line);
    }
  } catch (error) {
    row.dataset.state = 'failed';
    figure.textContent = words(error);
  }
}

const megabytes = () => Math.max(1, Number(at('megabytes').value)) * 1e6;

at('connection').addEventListener('submit', open);
at('close').addEventListener('click', () => session?.close());
at('download').addEventListener('click', () => {
  const total = megabytes();
  transfer('download', total, (progress) => session.download(total, progress));
});
at('upload').addEventListener('click', () => {
  const total = megabytes();
  transfer('upload', total, (progress) => session.upload(total, progress));
});
at('fetch').addEventListener('click', () => {
  const path = at('path').value;
  transfer(path, undefined, (progress) => session.fetch(path, progress));
});

// `cargo xtask wasm --demo` says here what it started.
at('relay').value = new URL('/udp', location.href.replace(/^http/, 'ws')).href;
const demo = await fetch('demo.json').then((it) => (it.ok ? it.json() : undefined), () => undefined);
if (demo) {
  at('ca').value = demo.ca ?? '';
  at('server').value = demo.servers[0].url;
  at('path').value = demo.path ?? '/';
  at('servers').replaceChildren(
    ...demo.servers.map(({ name, url }) => Object.assign(document.createElement('option'), { value: url, label: name })),
  );
}
document.body.dataset.ready = 'true';
