// Node's http, with keep-alive without end: the default closes connections after 5 idle seconds.

import http from 'node:http';
import { handler, server } from './contract.mjs';

const { port, execute } = server();
http.createServer({ keepAliveTimeout: 300_000 }, handler(execute)).listen(port, '0.0.0.0');
