// SPDX-License-Identifier: Apache-2.0
// A program that talks over WebSockets with ws. Usage: node socketclient.js PLAN -
// PLAN and what is printed are as requests_client.py has them; on each connection messages go to and fro.
const fs = require('fs');
const WebSocket = require('ws');

function talk([number, , url]) {
  return new Promise((resolve, reject) => {
    const began = process.hrtime.bigint();
    const socket = new WebSocket(url.replace(/^http/, 'ws'));
    let left = 20;
    const next = () => (left-- ? socket.send(left % 2 ? 'GET /frame HTTP/1.1\r\n\r\n' : 'x'.repeat(3000)) : socket.close());
    socket.on('open', next).on('message', next).on('error', reject);
    socket.on('close', () => resolve(`[${number}, 101, 0, ${process.hrtime.bigint() - began}]`));
  });
}

async function main() {
  for (const line of fs.readFileSync(process.argv[2], 'utf8').trim().split('\n')) console.log(await talk(JSON.parse(line)));
}

main();
