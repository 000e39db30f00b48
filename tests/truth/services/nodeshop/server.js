// SPDX-License-Identifier: Apache-2.0
// Node's http, https and http2, as they come. Usage: node server.js PORT [http|https|http2|h2c CERTIFICATE KEY]
const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const https = require('https');

const [port, kind = 'http', cert, key] = process.argv.slice(2);
const options = cert ? { cert: fs.readFileSync(cert), key: fs.readFileSync(key), allowHTTP1: true } : {};
const create = {
  http: (f) => http.createServer(f),
  https: (f) => https.createServer(options, f),
  http2: (f) => http2.createSecureServer(options, f),
  h2c: (f) => http2.createServer(f),
}[kind];

create((request, response) => {
  console.log(`"${request.method} ${request.url} HTTP/${request.httpVersion}"`);
  const path = request.url.split('?')[0];
  if (path === '/hello') response.end('hello\n');
  else if (path.startsWith('/users/')) response.end(JSON.stringify({ user: path.slice(7) }));
  else if (path === '/echo') request.pipe(response);
  else if (path === '/boom') { response.statusCode = 500; response.end('boom\n'); }
  else if (path === '/slow') setTimeout(() => response.end('at last\n'), 30);
  else if (path === '/stream') { for (let i = 0; i < 16; i++) response.write('x'.repeat(4096)); response.end(); }
  else { response.statusCode = 404; response.end('no such thing\n'); }
}).listen(Number(port), '127.0.0.1');
