// Node's http with a keep-alive agent, which retries nothing.

import http from 'node:http';
import { client } from './contract.mjs';

let agent;
let opened = 0;

function connect({ url, connections }) {
  agent = new http.Agent({ keepAlive: true, maxSockets: connections, maxFreeSockets: connections });
  return (method, path, data, first) => new Promise((resolve, reject) => {
    const request = http.request(url + path, { method, agent, timeout: 15_000 }, (answer) => {
      if (!request.reusedSocket) opened++;
      const parts = [];
      answer.on('data', (part) => { if (!parts.length) first(); parts.push(part); });
      answer.on('error', reject);
      answer.on('end', () => {
        resolve({ status: answer.statusCode, headers: answer.headers, got: Buffer.concat(parts) });
      });
    });
    request.on('timeout', () => request.destroy(new Error('no answer in 15 s')));
    request.on('error', reject);
    request.end(data);
  });
}

function finish({ connections }) {
  agent.destroy();
  return Math.max(0, opened - connections);
}

await client({ connect, finish });
