// Increments a counter once, by the defaults of a library. client-tests/src/held.rs describes what is printed.
import { Redis } from 'ioredis';
import { createClient } from 'redis';

const [library, counter] = process.argv.slice(2);
const port = Number(process.env.DORMOUSE_TEST_PORT);

const libraries = {
  ioredis: () => {
    const client = new Redis(port);
    return [client, () => client.disconnect()];
  },
  'node-redis': () => {
    const client = createClient({ socket: { port } });
    client.on('error', () => {});
    return [client, () => client.destroy()];
  },
};

const [client, end] = libraries[library]();
try {
  if (library === 'node-redis') await client.connect();
  console.log('reply', await client.incr(counter));
} catch (problem) {
  console.log('error', problem.message);
}
end();
