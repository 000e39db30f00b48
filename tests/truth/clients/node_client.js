// SPDX-License-Identifier: Apache-2.0
// A program that asks with Node's https, over connections that it keeps. Usage: node node_client.js PLAN
// PLAN and what is printed are as requests_client.py has them; it has no clock of its own.
const https = require('https');
const agent = new https.Agent({ keepAlive: true, maxSockets: 4 });
const lines = require('fs').readFileSync(process.argv[2], 'utf8').trim().split('\n');

for (const line of lines) {
  const [number, method, url, size, headers] = JSON.parse(line);
  const body = 'b'.repeat(size);
  if (size) headers['Content-Length'] = size;
  const request = https.request(url, { agent, method, headers }, (response) => {
    response.resume();
    response.on('end', () => console.log(JSON.stringify([number, response.statusCode, 0, 0])));
  });
  request.end(body);
}
