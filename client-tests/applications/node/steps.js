// Runs the steps of an application, and puts the database to sleep beneath it. The runner's side of the protocol is
// described in client-tests/src/lib.rs.
import { Redis } from 'ioredis';

export const port = Number(process.env.DORMOUSE_TEST_PORT);
export const connection = { host: '127.0.0.1', port };
export const isDormouse = process.env.DORMOUSE_TEST_SERVER === 'dormouse';

/** A step takes seconds, besides a wait for quiet; a machine that is busy with a build may need far longer. */
const LIMIT_MS = 40_000 + 1000 * Number(process.env.DORMOUSE_TEST_QUIET_SECONDS ?? 0);
const CLOSE_LIMIT_MS = 5_000;
/** The time that a database is awake because it does not know the habits of idle workers yet. */
const LEARNING_MS = 30_000;

const operator = new Redis({ ...connection, protocol: 2 });

/** Puts the database to sleep from a connection of its own. */
export async function sleep() {
  if (!isDormouse) return;
  await until(async () => {
    try {
      return (await operator.call('DORMOUSE', 'SLEEP')) === 'OK';
    } catch (problem) {
      // A database that is written to in each round of its last checkpoint stays awake.
      if (!problem.message.startsWith('ERR clients go on writing')) throw problem;
      return false;
    }
  });
}

/**
 * Waits until the idle database has fallen asleep by itself, and checks that it stays asleep for a while, but for scripts of
 * idle workers that need data now and then: once they are known, each of these wakes it for less than a second.
 */
export async function quiet(wakesAMinute = 0) {
  if (!isDormouse) return;
  const state = async () => {
    const info = await operator.info('dormouse');
    const usage = await operator.call('DORMOUSE', 'USAGE');
    const meters = usage[usage.indexOf('meters') + 1];
    return { awake: info.includes('\nawake:1'), wakes: Number(meters[meters.indexOf('wakes') + 1]) };
  };
  await until(async () => !(await state()).awake);
  const { wakes } = await state();
  const seconds = Number(process.env.DORMOUSE_TEST_QUIET_SECONDS);
  const wakesMax = wakesAMinute * Math.ceil(seconds / 60);
  const end = Date.now() + 1000 * seconds;
  let [awakeMs, woke] = [0, 0];
  while (Date.now() < end) {
    const [start, now] = [Date.now(), await state()];
    woke = now.wakes - wakes;
    if ((now.awake && wakesMax === 0) || woke > wakesMax) throw new Error(`it woke up ${woke} times`);
    await pause(50);
    if (now.awake) awakeMs += Date.now() - start;
  }
  console.log(`asleep for ${Math.round(seconds - awakeMs / 1000)} of ${seconds} s, ${woke} wakes`);
  // Until their habits are known, it falls asleep when it has been idle for a second, and the keeper looks once a second.
  if (awakeMs > woke * 1000 + LEARNING_MS) throw new Error(`it was awake for ${awakeMs} ms`);
}

/** Waits until `condition` is true. */
export async function until(condition) {
  const deadline = Date.now() + LIMIT_MS;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`still not so: ${condition}`);
    await pause(5);
  }
}

/** A promise with its `resolve`. */
export function gated() {
  const gate = {};
  gate.promise = new Promise((resolve) => (gate.resolve = resolve));
  return gate;
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export const range = (count, make = (i) => i) => Array.from({ length: count }, (_, i) => make(i));

/** Runs each function of `steps` on an empty database; what it passes to its argument is closed afterwards, last first. */
export async function run(...steps) {
  let failed = 0;
  for (const step of steps) {
    const opened = [];
    const close = (thing) => opened.unshift(thing) && thing;
    let timer;
    const limit = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`the step still runs after ${LIMIT_MS} ms`)), LIMIT_MS);
    });
    const start = performance.now();
    try {
      await operator.flushall();
      await Promise.race([step(close), limit]);
      console.log(`ok ${step.name} (${Math.round(performance.now() - start)} ms)`);
    } catch (problem) {
      failed += 1;
      console.log(`not ok ${step.name}\n${problem.stack}`);
    }
    clearTimeout(timer);
    // A failed step may leave something open that never closes. The later steps must not fail for that.
    const closed = (async () => {
      for (const thing of opened) await thing.close();
    })();
    await Promise.race([closed, pause(CLOSE_LIMIT_MS)]);
  }
  console.log(`${steps.length - failed} passed, ${failed} failed`);
  process.exit(failed > 0 ? 1 : 0);
}
