// What the tests in a browser share.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

import { program } from '../helper.js';

const { chromium } = await import(process.env.POLYQUIC_PLAYWRIGHT);

/** Longer than anything takes here, so that a page that hangs says where. */
export const PATIENCE_MS = 60_000;

/** What `run` returns in `page`, which may hang: Playwright would wait for ever. */
export async function inPage(page, run, argument) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the page hangs in ${run}`)), PATIENCE_MS);
  });
  try {
    return await Promise.race([page.evaluate(run, argument), late]);
  } finally {
    clearTimeout(timer);
  }
}

export const launch = () =>
  chromium.launch({
    executablePath: process.env.POLYQUIC_CHROMIUM,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });

/** A command of the program that listens; its first address, and that of its WebTransport if it was to have
 *  one. Ended with the test. */
export async function start(t, ...words) {
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'inherit'] });
  const end = async (signal = 'SIGKILL') => {
    child.kill(signal);
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    return child.exitCode;
  };
  t.after(() => end());
  const ports = [];
  const wanted = words.includes('--webtransport') ? 2 : 1;
  for await (const line of createInterface({ input: child.stdout })) {
    const port = /^listening on 127\.0\.0\.1:(\d+)/.exec(line)?.[1];
    if (port) ports.push(Number(port));
    if (ports.length === wanted) {
      child.stdout.resume();
      return { port: ports[0], webtransport: ports[1], end };
    }
  }
  throw new Error(`it ended before it listened: ${words.join(' ')}`);
}
