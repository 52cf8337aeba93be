// A session in a Web Worker: the page stays responsive, and a page in the background does not slow it down.
//
// In: { id, call, arguments }. Out: { id, progress }, { id, result } or { id, error }, and { stats },
// { ended } without being asked.

import { Session } from './session.js';

let session;

const calls = {
  async open(options) {
    session = await Session.open(options);
    const timer = setInterval(() => postMessage({ stats: session.stats() }), 500);
    const ended = (error) => {
      clearInterval(timer);
      postMessage({ ended: error && described(error) });
    };
    session.closed.then(() => ended(), ended);
    return { protocol: session.protocol };
  },
  download: (bytes, progress) => session.download(bytes, progress),
  upload: (bytes, progress) => session.upload(bytes, progress),
  fetch: (path, progress) => session.fetch(path, progress),
  async close() {
    session?.close();
  },
};

const described = (error) => ({ name: error.name, message: error.message });

onmessage = async ({ data: { id, call, argument } }) => {
  try {
    const progress = (bytes) => postMessage({ id, progress: bytes });
    postMessage({ id, result: await calls[call](argument, progress) });
  } catch (error) {
    postMessage({ id, error: described(error) });
  }
};
