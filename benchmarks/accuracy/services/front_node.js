// SPDX-License-Identifier: Apache-2.0
// `front_node.js PORT LEAF keep|close http|undici`: node:http as the server; calls by node:http or undici, awaits deep.
'use strict';
const http = require('node:http');
const { setTimeout: wait } = require('node:timers/promises');

const [port, leaf, keep, kind] = process.argv.slice(2);
const origin = `http://127.0.0.1:${leaf}`;

function byHttp() {
  const agent = new http.Agent({ keepAlive: keep === 'keep' });
  return (path, headers) =>
    new Promise((resolve, reject) => {
      const request = http.get(origin + path, { agent, headers }, (response) => {
        response.resume();
        response.on('end', () => resolve(response.statusCode));
      });
      request.on('error', reject);
    });
}

function byUndici() {
  const { Agent, request } = require('undici');
  const dispatcher = new Agent({ connections: null, pipelining: keep === 'keep' ? 1 : 0 });
  return async (path, headers) => {
    const { statusCode, body } = await request(origin + path, { dispatcher, headers });
    await body.dump();
    return statusCode;
  };
}

const get = kind === 'undici' ? byUndici() : byHttp();

async function call(number, which, what) {
  return get(`/leaf/${number}/${which}` + (what ? `?do=${what}` : ''), { 'x-truth': `${number}/${which}` });
}

// As a cache is asked before the call: other requests have their turn meanwhile.
async function lookedUp(number) {
  await wait(1);
  return number;
}

async function work(number, shape) {
  const known = await lookedUp(number);
  if (shape === 'seq') return [await call(known, 1), await call(known, 2)];
  if (shape === 'par') return Promise.all([call(known, 1), call(known, 2)]);
  if (shape === 'retry') {
    const status = await call(known, 1, 'fail');
    return [status === 503 ? await call(await lookedUp(known), 1, 'fail') : status];
  }
  return [await call(known, 1, shape === 'slow' ? 'slow' : '')];
}

async function front(request, response) {
  const url = new URL(request.url, origin);
  const number = url.pathname.split('/').pop();
  let status = 502;
  try {
    const statuses = await work(number, url.searchParams.get('mode'));
    if (statuses.every((s) => s === 200)) status = 200;
  } catch (error) {
    console.error(error);
  }
  const body = `${number}\n`;
  response.writeHead(status, { 'Content-Length': body.length });
  response.end(body);
}

const server = http.createServer(front);
server.keepAliveTimeout = 60000;
server.listen({ port: Number(port), host: '127.0.0.1', backlog: 1024 });
