// SPDX-License-Identifier: Apache-2.0
// A program that asks with Node. Usage: node client.js PLAN (fetch|http|http2)
// PLAN and what is printed are as requests_client.py has them. http: http and https, kept alive, by the URL's scheme.
const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const https = require('https');

const [plan, how] = process.argv.slice(2);
const agents = { 'http:': new http.Agent({ keepAlive: true }), 'https:': new https.Agent({ keepAlive: true }) };
const sessions = {};

async function byFetch(method, url, body, headers) {
  const response = await fetch(url, { method, headers, body, redirect: 'manual' });
  await response.arrayBuffer();
  return response.status;
}

function byHttp(method, url, body, headers) {
  const { protocol } = new URL(url);
  return new Promise((resolve, reject) => {
    const of = protocol === 'https:' ? https : http;
    const length = body ? { 'content-length': body.length } : {};
    const request = of.request(url, { method, headers: { ...headers, ...length }, agent: agents[protocol] }, (response) => {
      response.resume().on('end', () => resolve(response.statusCode));
    });
    request.on('error', reject).end(body);
  });
}

function byHttp2(method, url, body, headers) {
  const { origin, pathname, search } = new URL(url);
  sessions[origin] ||= http2.connect(origin);
  return new Promise((resolve, reject) => {
    let status = 0;
    const stream = sessions[origin].request({ ':method': method, ':path': pathname + search, ...headers });
    stream.on('response', (fields) => { status = fields[':status']; });
    stream.on('error', reject).on('end', () => resolve(status)).resume();
    stream.end(body);
  });
}

async function main() {
  const ask = { fetch: byFetch, http: byHttp, http2: byHttp2 }[how];
  const lines = fs.readFileSync(plan, 'utf8').trim().split('\n').map(JSON.parse);
  const one = async () => {
    for (let line = lines.shift(); line; line = lines.shift()) {
      const [number, method, url, size, headers] = line;
      const start = BigInt(Date.now()) * 1000000n;
      const began = process.hrtime.bigint();
      const status = await ask(method, url, size ? 'b'.repeat(size) : undefined, headers);
      console.log(`[${number}, ${status}, ${start}, ${process.hrtime.bigint() - began}]`);
    }
  };
  await Promise.all(Array.from({ length: 8 }, one));
  Object.values(agents).forEach((agent) => agent.destroy());
  Object.values(sessions).forEach((session) => session.close());
}

main().catch((error) => { console.error(error); process.exit(1); });
