// The global fetch, which is undici.

import { client } from './contract.mjs';

function connect({ url }) {
  return async (method, path, data, first) => {
    const answer = await fetch(url + path, { method, body: data, signal: AbortSignal.timeout(15_000) });
    const parts = [];
    for await (const part of answer.body ?? []) {
      if (!parts.length) first();
      parts.push(part);
    }
    const headers = Object.fromEntries(answer.headers);
    return { status: answer.status, headers, got: Buffer.concat(parts) };
  };
}

await client({ connect, finish: () => 0 });
