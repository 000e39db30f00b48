// SPDX-License-Identifier: Apache-2.0
// Node's http, as it comes, or https. Usage: node server.js PORT [PEM]
const [port, pem] = process.argv.slice(2);
const create = pem
  ? (answer) => require('https').createServer({ key: require('fs').readFileSync(pem), cert: require('fs').readFileSync(pem) }, answer)
  : require('http').createServer;

create((request, response) => {
  const path = request.url.split('?')[0];
  if (path === '/hello') response.end('hello\n');
  else if (path.startsWith('/users/')) response.end(JSON.stringify({ user: path.slice(7) }));
  else if (path === '/echo') request.pipe(response);
  else if (path === '/boom') { response.statusCode = 500; response.end('boom\n'); }
  else if (path === '/slow') setTimeout(() => response.end('at last\n'), 30);
  else if (path === '/stream') { for (let i = 0; i < 16; i++) response.write('x'.repeat(4096)); response.end(); }
  else { response.statusCode = 404; response.end('no such thing\n'); }
}).listen(Number(port), '127.0.0.1');
