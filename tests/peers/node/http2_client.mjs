// Node's http2: two sessions, each replaced when the server says goodbye, as its users do by hand. They also
// have to send a request again that Node refuses itself: one that was begun in the same turn of the event
// loop in which GOAWAY was read. It was never sent, so this is safe (RFC 9113, section 8.7); it is counted.

import http2 from 'node:http2';
import { client, refused } from './contract.mjs';

const SESSIONS = 2;
const sessions = [];
let opened = 0;
let next = 0;

/** A session that takes new streams. */
function session(url) {
  next = (next + 1) % SESSIONS;
  const old = sessions[next];
  if (old && !old.closed && !old.destroyed) return old;
  const fresh = http2.connect(url);
  opened++;
  // After GOAWAY a session of Node is closed: its streams end, and new ones are refused.
  fresh.on('error', () => {});
  sessions[next] = fresh;
  return fresh;
}

function connect({ url }) {
  return async (...request) => {
    for (;;) {
      try {
        return await ask(url, ...request);
      } catch (error) {
        if (!error.message.includes('NGHTTP2_REFUSED_STREAM')) throw error;
        refused();
      }
    }
  };
}

function ask(url, method, path, data, first) {
  return new Promise((resolve, reject) => {
    const headers = { ':method': method, ':path': path };
    const stream = session(url).request(headers, { endStream: !data });
    stream.setTimeout(15_000, () => reject(new Error('no answer in 15 s')));
    let head;
    const parts = [];
    stream.on('response', (fields) => { head = fields; });
    stream.on('data', (part) => { if (!parts.length) first(); parts.push(part); });
    stream.on('error', reject);
    stream.on('aborted', () => reject(new Error('aborted')));
    stream.on('close', () => {
      if (!head) reject(new Error(`closed without an answer, code ${stream.rstCode}`));
      else resolve({ status: head[':status'], headers: head, got: Buffer.concat(parts) });
    });
    if (data) stream.end(data);
  });
}

function finish() {
  sessions.forEach((session) => session.close());
  return opened - SESSIONS;
}

await client({ connect, finish });
