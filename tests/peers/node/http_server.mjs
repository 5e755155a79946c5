// Node's http. By itself it closes a connection that was idle for five seconds.

import http from 'node:http';
import { handler, server } from './contract.mjs';

const { port, execute } = server();
http.createServer(handler(execute)).listen(port, '0.0.0.0');
