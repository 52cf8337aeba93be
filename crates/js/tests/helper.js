// What the tests share. `cargo xtask wasm --test` says where the package and the program are.

import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { test as base } from 'node:test';
import { promisify } from 'node:util';

const packageDirectory = process.env.POLYQUIC_PACKAGE;
export const program = process.env.POLYQUIC_PROGRAM;

export const quic = await import(path.join(packageDirectory, 'node.js'));
export const hq = await import(path.join(packageDirectory, 'examples/hq.js'));

export const EXECUTORS = ['smol', 'smol-multi', 'tokio', 'blocking', 'glommio'];

/** Beyond what any test needs: one that takes longer hangs. */
const WATCHDOG_MS = 120_000;

/** A test that does not wait for ever. */
export const test = (name, body) => base(name, { timeout: WATCHDOG_MS }, body);

const execute = promisify(execFile);

/** What a program wrote. One that hangs is killed. */
export const run = (file, words, options) =>
  execute(file, words, { timeout: WATCHDOG_MS, killSignal: 'SIGKILL', ...options });

/** A directory that is gone after the test. */
export function scratch(t) {
  const directory = mkdtempSync(path.join(tmpdir(), 'polyquic-js-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Writes a file of `size` bytes, no two parts of which are equal, and returns its hash. */
export function writeFile(file, size) {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at + 4 <= size; at += 4) bytes.writeUInt32LE((at * 2654435761) >>> 0, at);
  writeFileSync(file, bytes);
  return sha256(bytes);
}

export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** The hash of what a stream brings. */
export async function hashOf(stream) {
  const hash = createHash('sha256');
  for await (const chunk of stream) hash.update(chunk);
  return hash.digest('hex');
}

/** `polyquic serve` on a free port of 127.0.0.1; ended with the test. */
export const nativeServer = (t, executor, directory) => native(t, ['serve'], executor, directory);

/** `polyquic perf server`, likewise. */
export const perfServer = (t, executor) => native(t, ['perf', 'server'], executor);

async function native(t, command, executor, ...rest) {
  const ca = path.join(scratch(t), 'ca.pem');
  const child = spawn(
    program,
    [...command, '--executor', executor, '--listen', '127.0.0.1:0', '--ca-out', ca, ...rest],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  t.after(async () => {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  });
  for await (const line of createInterface({ input: child.stdout })) {
    const port = /^listening on 127\.0\.0\.1:(\d+)/.exec(line)?.[1];
    if (port) return { port: Number(port), ca, child };
  }
  throw new Error('the server ended before it listened');
}
