// Datagrams of a connection.

import { bytesOf } from './errors.js';
import { sequence } from './streams.js';

export class Datagrams {
  #raw;
  #translate;

  /** `oversized` is called for each that `writable` drops. */
  constructor(raw, translate, oversized) {
    this.#raw = raw;
    this.#translate = translate;
    this.readable = sequence(() => raw.readDatagram(), (data) => data, translate);
    this.writable = this.#writable(oversized);
  }

  get maxDatagramSize() {
    return this.#raw.maxDatagramSize ?? 0;
  }

  async send(data) {
    try {
      await this.#raw.sendDatagram(bytesOf(data));
    } catch (error) {
      throw this.#translate(error);
    }
  }

  #writable(oversized) {
    let reject;
    const failed = (error) => {
      // The datagram's affair. An error here would end the stream of them.
      if (error?.name !== 'DatagramTooLargeError') throw this.#translate(error);
      oversized();
    };
    return new WritableStream({
      start(controller) {
        controller.signal.addEventListener('abort', () => reject?.(controller.signal.reason));
      },
      write: (chunk) => {
        let sent;
        try {
          sent = this.#raw.sendDatagram(bytesOf(chunk));
        } catch (error) {
          return failed(error);
        }
        if (sent === undefined) return undefined;
        // Waits for room, or to be given up.
        return new Promise((resolve, rejects) => {
          reject = rejects;
          sent.catch(failed).then(resolve, rejects);
        });
      },
    });
  }
}
