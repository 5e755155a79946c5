// Node's http2 in clear text.

import http2 from 'node:http2';
import { handler, server } from './contract.mjs';

const { port, execute } = server();
http2.createServer(handler(execute)).listen(port, '0.0.0.0');
