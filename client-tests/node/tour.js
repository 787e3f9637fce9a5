// Shared by both suites: the steps' runner and its side of the protocol in client-tests/src/lib.rs.
import fs from 'node:fs';
import readline from 'node:readline';
import { once } from 'node:events';

export const port = Number(process.env.DORMOUSE_TEST_PORT);
const authority = process.env.DORMOUSE_TEST_TLS_CA;
export const tls = authority && { ca: fs.readFileSync(authority) };
export const isDormouse = process.env.DORMOUSE_TEST_SERVER === 'dormouse';

/** Runs each step with a client from `connect`, on an empty server. */
export async function run(steps, connect) {
  let failed = 0;
  for (const step of steps) {
    const client = await connect();
    try {
      await client.sendOrCall('FLUSHALL');
      await withLimit(step(client));
      console.log(`ok ${step.name}`);
    } catch (error) {
      failed += 1;
      console.log(`not ok ${step.name}\n${error.stack}`);
    }
    await client.end();
  }
  console.log(`${steps.length - failed} passed, ${failed} failed`);
  process.exit(failed > 0 ? 1 : 0);
}

async function withLimit(promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('the step still runs after 60 s')), 60_000);
  });
  await Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

const input = readline.createInterface({ input: process.stdin, terminal: false });

export async function restartServer() {
  const answer = once(input, 'line');
  console.log('RESTART');
  const [line] = await answer;
  if (line !== 'RESTARTED') throw new Error(`the runner says ${line}`);
}

/** Asks `condition` until it is true. */
export async function until(condition) {
  const deadline = Date.now() + 10_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error('still not so after 10 s');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Collects what is pushed to it; `next` waits for it. */
export class Inbox {
  #waiting = [];
  #items = [];
  put = (...item) => {
    const taker = this.#waiting.shift();
    if (taker) taker(item);
    else this.#items.push(item);
  };
  next() {
    return this.#items.length > 0
      ? Promise.resolve(this.#items.shift())
      : new Promise((resolve) => this.#waiting.push(resolve));
  }
}

export const range = (count, make = (i) => i) => Array.from({ length: count }, (_, i) => make(i));
export const everyByte = Buffer.from(range(256));
export const oneMiB = Buffer.alloc(1 << 20, everyByte);
