// BullMQ: queues of jobs, with workers, schedulers, flows and events.
import assert from 'node:assert/strict';
import { FlowProducer, Queue, QueueEvents, UnrecoverableError, Worker } from 'bullmq';
import { connection, gated, range, run, sleep, until } from './steps.js';

const { equal, deepEqual, ok } = assert;

const name = 'paint';
const open = (close) => close(new Queue(name, { connection }));
const work = (close, job, options = {}) => close(new Worker(name, job, { connection, ...options }));

/** The events of the queue since its first one, each as `[event, details]`. */
function listen(close, ...events) {
  const source = close(new QueueEvents(name, { connection, lastEventId: '0-0' }));
  const seen = [];
  for (const event of events) source.on(event, (details) => seen.push([event, details]));
  return seen;
}

async function jobsAreAddedProcessedAndCompleted(close) {
  const queue = open(close);
  const seen = listen(close, 'added', 'active', 'completed');
  const jobs = await queue.addBulk(range(10, (n) => ({ name: 'square', data: { n } })));
  await sleep();
  equal(await queue.getWaitingCount(), 10);
  const gate = gated();
  work(close, async (job) => {
    if (job.data.n === 5) await gate.promise;
    await job.updateProgress(50);
    await job.log(`squared ${job.data.n}`);
    return job.data.n ** 2;
  });
  await until(async () => (await queue.getCompletedCount()) === 5);
  await sleep();
  gate.resolve();
  await until(async () => (await queue.getCompletedCount()) === 10);
  await sleep();
  jobs.push(await queue.add('square', { n: 10 }));
  await until(() => seen.filter(([event]) => event === 'completed').length === 11);
  for (const [n, job] of jobs.entries()) {
    const mine = seen.filter(([, details]) => details.jobId === job.id).map(([event]) => event);
    deepEqual(mine, ['added', 'active', 'completed'], `the events of job ${n}`);
    const stored = await queue.getJob(job.id);
    equal(stored.returnvalue, n ** 2);
    equal(stored.progress, 50);
    deepEqual((await queue.getJobLogs(job.id)).logs, [`squared ${n}`]);
  }
  deepEqual(await queue.getJobCounts('waiting', 'active', 'failed', 'completed'), {
    waiting: 0, active: 0, failed: 0, completed: 11,
  });
}


async function jobsAreAwaitedByTheirProducer(close) {
  const queue = open(close);
  const events = close(new QueueEvents(name, { connection }));
  work(close, async (job) => job.data.text.toUpperCase());
  const first = await queue.add('shout', { text: 'hello' });
  equal(await first.waitUntilFinished(events), 'HELLO');
  await sleep();
  const second = await queue.add('shout', { text: 'again' });
  equal(await second.waitUntilFinished(events), 'AGAIN');
}

async function delayedJobsWaitForTheirTime(close) {
  const queue = open(close);
  const ended = new Map();
  work(close, async (job) => ended.set(job.name, Date.now() - job.timestamp));
  const late = await queue.add('late', {}, { delay: 600 });
  const soon = await queue.add('soon', {}, { delay: 300 });
  await queue.add('now', {});
  await until(() => ended.has('now'));
  await sleep();
  await until(() => ended.size === 3);
  // On a busy machine the second one may have been added so late that it is due after the first.
  const order = soon.timestamp + 300 < late.timestamp + 600 ? ['soon', 'late'] : ['late', 'soon'];
  deepEqual([...ended.keys()].filter((name) => name !== 'now'), order);
  ok(ended.get('soon') >= 300 && ended.get('late') >= 600, `too early: ${[...ended]}`);
  const postponed = await queue.add('postponed', {}, { delay: 3_600_000 });
  await sleep();
  await postponed.promote();
  await until(() => ended.has('postponed'));
}

async function schedulersRepeatJobs(close) {
  const queue = open(close);
  let count = 0;
  work(close, async () => (count += 1));
  await queue.upsertJobScheduler('tick', { every: 50, limit: 6 }, { name: 'tick', data: { from: 'scheduler' } });
  await queue.upsertJobScheduler('yearly', { pattern: '0 0 0 1 1 *' }, { name: 'yearly' });
  await until(() => count >= 2);
  await sleep();
  await until(() => count === 6);
  ok((await queue.getJobSchedulers()).some(({ key }) => key === 'yearly'));
  ok(await queue.removeJobScheduler('yearly'));
  await sleep();
  equal(await queue.getDelayedCount(), 0);
}

async function prioritiesDecideTheOrder(close) {
  const queue = open(close);
  await queue.pause();
  const priorities = [5, 1, 4, 0, 2, 1, 3];
  for (const [n, priority] of priorities.entries()) await queue.add('job', { n }, { priority });
  await sleep();
  await (await queue.getJob('3')).changePriority({ priority: 10 });
  const order = [];
  work(close, async (job) => order.push(job.data.n));
  await queue.resume();
  await until(() => order.length === priorities.length);
  deepEqual(order, [3, 1, 5, 4, 6, 0, 2]);
}

async function aLimiterHoldsJobsBack(close) {
  const queue = open(close);
  const ends = [];
  const start = Date.now();
  work(close, async () => ends.push(Date.now() - start), { limiter: { max: 2, duration: 400 }, concurrency: 4 });
  await queue.addBulk(range(6, (n) => ({ name: 'call', data: { n } })));
  await until(() => ends.length === 2);
  await sleep();
  await until(() => ends.length === 6);
  for (const [n, end] of ends.entries()) ok(end >= 400 * Math.floor(n / 2), `more than two in a window: ${ends}`);
}

async function aWorkerLimitsItselfByHand(close) {
  const queue = open(close);
  let refusals = 0;
  const worker = work(close, async () => {
    if (refusals < 2) {
      refusals += 1;
      await queue.rateLimit(100);
      throw Worker.RateLimitError();
    }
    return 'done';
  });
  const job = await queue.add('call', {});
  await until(() => refusals === 1);
  await sleep();
  await until(async () => (await job.getState()) === 'completed');
  equal(refusals, 2);
  equal((await queue.getJob(job.id)).attemptsMade, 1);
  ok(worker.isRunning());
}

async function parentsWaitForTheirChildren(close) {
  const flow = close(new FlowProducer({ connection }));
  const queue = open(close);
  const tree = await flow.add({
    name: 'house',
    queueName: name,
    children: [
      { name: 'wall', queueName: name, data: { price: 3 } },
      { name: 'roof', queueName: name, data: { price: 5 }, children: [{ name: 'tile', queueName: name, data: { price: 7 } }] },
    ],
  });
  await sleep();
  equal(await tree.job.getState(), 'waiting-children');
  const order = [];
  work(close, async (job) => {
    order.push(job.name);
    if (job.name === 'roof') await sleep();
    const prices = Object.values(await job.getChildrenValues());
    return prices.reduce((sum, price) => sum + price, job.data.price ?? 0);
  });
  await until(async () => (await tree.job.getState()) === 'completed');
  equal((await queue.getJob(tree.job.id)).returnvalue, 15);
  equal(order.at(-1), 'house');
  ok(order.indexOf('tile') < order.indexOf('roof'));
  const { processed } = await tree.job.getDependencies();
  equal(Object.keys(processed).length, 2);
}

async function stalledJobsAreTakenOver(close) {
  const queue = open(close);
  const seen = listen(close, 'stalled', 'completed');
  // A worker that stops in the middle of a job: it renews no lock and never ends the job.
  const dead = new Worker(name, () => new Promise(() => {}), {
    connection, lockDuration: 200, skipLockRenewal: true, skipStalledCheck: true,
  });
  const job = await queue.add('long', {});
  await until(async () => (await job.getState()) === 'active');
  await dead.close(true);
  await sleep();
  work(close, async () => 'taken over', { stalledInterval: 150 });
  await until(async () => (await job.getState()) === 'completed');
  await until(() => seen.length === 2);
  deepEqual(seen.map(([event]) => event), ['stalled', 'completed']);
  equal((await queue.getJob(job.id)).returnvalue, 'taken over');
}

async function failedJobsAreTriedAgain(close) {
  const queue = open(close);
  const seen = listen(close, 'failed', 'retries-exhausted', 'completed');
  let tries = 0;
  work(close, async (job) => {
    if (job.name === 'hopeless') throw new UnrecoverableError('no');
    tries += 1;
    if (tries === 2) await sleep();
    if (tries < 3) throw new Error(`try ${tries}`);
    return tries;
  });
  const job = await queue.add('flaky', {}, { attempts: 4, backoff: { type: 'exponential', delay: 40 } });
  await until(async () => (await job.getState()) === 'completed');
  const stored = await queue.getJob(job.id);
  deepEqual([stored.returnvalue, stored.attemptsMade, stored.stacktrace.length], [3, 3, 2]);
  const hopeless = await queue.add('hopeless', {}, { attempts: 5 });
  await until(async () => (await hopeless.getState()) === 'failed');
  await sleep();
  equal((await queue.getJob(hopeless.id)).failedReason, 'no');
  await until(() => seen.some(([event, { jobId }]) => event === 'failed' && jobId === hopeless.id));
  await (await queue.getJob(hopeless.id)).retry();
  await until(async () => (await (await queue.getJob(hopeless.id)).getState()) === 'failed');
}

async function duplicatesAreDropped(close) {
  const queue = open(close);
  const seen = listen(close, 'deduplicated');
  const first = await queue.add('report', { n: 1 }, { deduplication: { id: 'daily', ttl: 60_000 } });
  await sleep();
  await queue.add('report', { n: 2 }, { deduplication: { id: 'daily', ttl: 60_000 } });
  await queue.add('report', { n: 3 }, { jobId: 'fixed' });
  await queue.add('report', { n: 4 }, { jobId: 'fixed' });
  equal(await queue.getWaitingCount(), 2);
  equal(await queue.getDeduplicationJobId('daily'), first.id);
  await until(() => seen.length === 1);
}

async function queuesAreEmptiedAndDeleted(close) {
  const queue = open(close);
  work(close, async (job) => job.data.n);
  await queue.addBulk(range(50, (n) => ({ name: 'job', data: { n } })));
  await until(async () => (await queue.getCompletedCount()) === 50);
  await sleep();
  equal((await queue.clean(0, 20, 'completed')).length, 20);
  equal(await queue.getCompletedCount(), 30);
  equal((await queue.getWorkers()).length, 1);
  await queue.pause();
  await queue.addBulk(range(20, (n) => ({ name: 'job', data: { n }, opts: { delay: n < 10 ? 0 : 60_000 } })));
  await queue.drain(true);
  await sleep();
  deepEqual(await queue.getJobCounts('paused', 'delayed'), { paused: 0, delayed: 0 });
  await queue.obliterate({ force: true });
  await sleep();
  deepEqual(await queue.getJobs(), []);
}

await run(
  jobsAreAddedProcessedAndCompleted,
  jobsAreAwaitedByTheirProducer,
  delayedJobsWaitForTheirTime,
  schedulersRepeatJobs,
  prioritiesDecideTheOrder,
  aLimiterHoldsJobsBack,
  aWorkerLimitsItselfByHand,
  parentsWaitForTheirChildren,
  stalledJobsAreTakenOver,
  failedJobsAreTriedAgain,
  duplicatesAreDropped,
  queuesAreEmptiedAndDeleted,
);
