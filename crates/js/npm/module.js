// The WebAssembly module.

import { QuicError } from './errors.js';
import * as wasm from './wasm/polyquic.js';

let loading;

/** Compile and start the module, once. What failed is tried anew by the next. */
export function load(source) {
  loading ??= start(source).catch((cause) => {
    loading = undefined;
    throw new QuicError('LoadError', `the WebAssembly module is not to be had: ${cause?.message ?? cause}`, {
      cause,
    });
  });
  return loading;
}

async function start(source) {
  await wasm.default({ module_or_path: await source() });
  wasm.initialize((name, message, details) => new QuicError(name, message, details));
}
