// What every Node peer shares: bodies, command lines, and the summary of a client.
// The contract itself is in ../README.md.

import { appendFileSync, openSync } from 'node:fs';
import { parseArgs } from 'node:util';

export const SIZES = [0, 1, 100, 1000, 10_000, 100_000];
export const SLOW = 90_000;
export const PAUSE = 100;
const PIECES = 30;
const KINDS = 'body,chunked,head,post,status,slow';

export const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time));

const bodies = new Map();

/** Byte by byte what a body of this size is. */
export function body(size) {
  if (!bodies.has(size)) {
    const bytes = Buffer.alloc(size);
    for (let i = 0; i < size; i++) bytes[i] = (i * 31 + size) % 251;
    bodies.set(size, bytes);
  }
  return bodies.get(size);
}

/** The body in as many pieces as a slow answer has. */
export function pieces(size) {
  const parts = [];
  const step = Math.max(1, Math.floor(size / PIECES));
  for (let at = 0; at < size; at += step) parts.push(body(size).subarray(at, at + step));
  return parts;
}

/** `--port` and a function that executes a POST: its id, on a line of its own. */
export function server() {
  const options = { port: { type: 'string' }, executed: { type: 'string' } };
  const { values } = parseArgs({ options });
  const file = openSync(values.executed, 'a');
  return { port: Number(values.port), execute: (id) => appendFileSync(file, `${id}\n`) };
}

/** Answers by the contract; the same for HTTP/1.1 and HTTP/2, whose interfaces are alike in Node. */
export function handler(execute) {
  return async (request, response) => {
    const [, kind, what] = request.url.split('/');
    const size = Number(what);
    switch (kind) {
      case 'body':
        response.setHeader('Content-Length', size);
        response.end(request.method === 'HEAD' ? undefined : body(size));
        break;
      case 'chunked':
        for (const piece of pieces(size)) response.write(piece);
        response.end();
        break;
      case 'slow':
        response.setHeader('Content-Length', size);
        for (const piece of pieces(size)) {
          response.write(piece);
          await sleep(PAUSE);
        }
        response.end();
        break;
      case 'count':
        for await (const _ of request);
        execute(what);
        response.end(what);
        break;
      default:
        response.statusCode = size;
        response.end();
    }
  };
}

/** A response that is complete and not right. */
class Wrong extends Error {}

const tally = {
  responses: 0, bad: [], bad_count: 0, errors: [], error_count: 0, refused: 0, reconnects: 0,
  posts: { sent: 0, answered: 0 },
};
/** A request that was never sent, by the library's own word, is sent again. */
export function refused() {
  tally.refused++;
}

let stop = false;
let enough = false;

/** Runs a client. `ask(method, path, data, first)` resolves to status, headers and body, and calls
 *  `first` when the body begins; `finish` closes what is open and returns how many connections there
 *  were beyond the first of each worker, if it knows. */
export async function client({ connect, finish }) {
  const options = {
    url: { type: 'string' },
    connections: { type: 'string', default: '4' },
    warm: { type: 'string', default: '1000' },
    kinds: { type: 'string', default: KINDS },
  };
  const { values } = parseArgs({ options });
  const args = {
    url: values.url,
    connections: Number(values.connections),
    warm: Number(values.warm),
    kinds: values.kinds.split(','),
  };
  process.on('SIGTERM', () => { stop = true; });
  const ask = connect(args);
  const workers = [];
  for (let index = 0; index < args.connections; index++) workers.push(worker(args, index, ask));
  await Promise.all(workers);
  tally.reconnects = (await finish(args)) ?? 0;
  console.log(JSON.stringify(tally));
  process.exit(0);
}

async function worker(args, index, ask) {
  const mix = requests(args.kinds);
  let slowWaits = index === 0 && args.kinds.includes('slow');
  for (let at = 0; !stop; at = (at + 1) % mix.length) {
    if (slowWaits && enough) {
      slowWaits = false;
      await one(args, ask, 'GET', 'slow', SLOW, () => console.log('warm'));
    }
    await one(args, ask, ...mix[at]);
    if (args.connections > 1 && index === args.connections - 1) await rest(1500);
    else if (index > 0 && enough) await sleep(2);
  }
}

/** A pause that ends when the client does. */
async function rest(time) {
  for (let left = time; left > 0 && !stop; left -= 50) await sleep(50);
}

async function one(args, ask, method, kind, what, first = () => {}) {
  let data;
  if (kind === 'count') {
    what = `${process.pid}-${++tally.posts.sent}`;
    data = body(1000);
  }
  try {
    check(method, kind, what, await ask(method, `/${kind}/${what}`, data, first));
  } catch (error) {
    const text = `${method} /${kind}/${what}: ${error.code ?? error.name}: ${error.message} ${error.cause ?? ''}`;
    const [list, count] = error instanceof Wrong ? ['bad', 'bad_count'] : ['errors', 'error_count'];
    tally[count]++;
    if (tally[list].length < 5) tally[list].push(text);
    await sleep(50);
    return;
  }
  if (kind === 'count') tally.posts.answered++;
  if (++tally.responses === args.warm) {
    enough = true;
    if (!args.kinds.includes('slow')) console.log('warm');
  }
}

/** (method, kind, last part of the path) in the usual mix. */
function requests(kinds) {
  const mix = [];
  for (const size of SIZES) {
    if (kinds.includes('body')) mix.push(['GET', 'body', size]);
    if (kinds.includes('chunked')) mix.push(['GET', 'chunked', size]);
    if (kinds.includes('head')) mix.push(['HEAD', 'body', size]);
    if (kinds.includes('post')) mix.push(['POST', 'count', null]);
  }
  if (kinds.includes('status')) mix.push(['GET', 'status', 204], ['GET', 'status', 304]);
  return mix;
}

function check(method, kind, what, { status, headers, got }) {
  if (kind === 'status') {
    if (status !== what || got.length) throw new Wrong(`${status} with ${got.length} bytes`);
    return;
  }
  if (status !== 200) throw new Wrong(`status ${status}`);
  if (method === 'HEAD') {
    const announced = headers['content-length'] ?? 0;
    if (Number(announced) !== what || got.length) throw new Wrong(`HEAD: ${announced}, ${got.length} sent`);
  } else if (kind === 'count') {
    if (got.toString().trim() !== what) throw new Wrong(`POST answered ${got.subarray(0, 40)}`);
  } else if (!got.equals(body(what))) {
    throw new Wrong(`${got.length} bytes instead of ${what}, or others`);
  }
}
