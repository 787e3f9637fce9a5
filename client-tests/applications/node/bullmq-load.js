// Jobs of BullMQ through add, process and complete, as fast as one process can. `cargo xtask bench applications` runs
// it: it says the name of each phase at its end, with the CPU seconds that this process has used in it, and waits for a
// line before the next one.
import { once } from 'node:events';
import readline from 'node:readline';
import { Queue, Worker } from 'bullmq';

const connection = { host: '127.0.0.1', port: Number(process.argv[2]) };
const jobs = Number(process.argv[3]);

/** Commands that wait for their replies at any time. */
const IN_FLIGHT = 50;

const input = readline.createInterface({ input: process.stdin, terminal: false });
const queue = new Queue('load', { connection, defaultJobOptions: { removeOnComplete: 1000 } });

async function add(count) {
  let next = 0;
  const one = async () => {
    while (next < count) await queue.add('job', { n: next++, text: 'x'.repeat(100) });
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, one));
}

async function work(count) {
  let done = 0;
  let finished;
  const all = new Promise((resolve) => (finished = resolve));
  const worker = new Worker('load', async (job) => job.data.n, { connection, concurrency: IN_FLIGHT });
  worker.on('completed', () => (done += 1) === count && finished());
  await all;
  await worker.close();
}

async function phase(name, run) {
  const go = once(input, 'line');
  console.log(`ready ${name}`);
  await go;
  const cpu = process.cpuUsage();
  const start = performance.now();
  await run();
  const seconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  console.log(`done ${seconds} ${(user + system) / 1e6}`);
}

// The scripts are loaded, and the program is compiled, before anything is measured.
await add(500);
await work(500);
await phase('add', () => add(jobs));
await phase('work', () => work(jobs));
await queue.close();
process.exit(0);
