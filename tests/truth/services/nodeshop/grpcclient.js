// SPDX-License-Identifier: Apache-2.0
// A program that calls with @grpc/grpc-js, eight at once. Usage: node grpcclient.js PLAN (plain|tls)
// PLAN and what is printed are as grpc_client.py has them.
const fs = require('fs');
const grpc = require('@grpc/grpc-js');

const [plan, how] = process.argv.slice(2);
const same = (bytes) => bytes;
const message = Buffer.from('some message');
const clients = {};

function client(target) {
  const credentials = how === 'tls'
    ? grpc.credentials.createSsl(fs.readFileSync(process.env.SSL_CERT_FILE)) : grpc.credentials.createInsecure();
  return (clients[target] ||= new grpc.Client(target, credentials));
}

function call(number, target, method, messages) {
  const path = `/shop.Shop/${method}`;
  const metadata = new grpc.Metadata();
  metadata.set('x-number', String(number));
  return new Promise((resolve) => {
    const done = (error) => resolve(error ? error.code : 0);
    const read = (stream) => stream.on('data', () => {}).on('error', () => {}).on('status', (s) => resolve(s.code));
    const write = (stream) => { for (let i = 0; i < messages; i++) stream.write(message); stream.end(); };
    if (method === 'Many') read(client(target).makeServerStreamRequest(path, same, same, message, metadata));
    else if (method === 'Gather') write(client(target).makeClientStreamRequest(path, same, same, metadata, done));
    else if (method === 'Echo') {
      const stream = client(target).makeBidiStreamRequest(path, same, same, metadata);
      read(stream);
      write(stream);
    } else client(target).makeUnaryRequest(path, same, same, message, metadata, done);
  });
}

async function main() {
  const lines = fs.readFileSync(plan, 'utf8').trim().split('\n').map(JSON.parse);
  const one = async () => {
    for (let line = lines.shift(); line; line = lines.shift()) {
      console.log(`[${line[0]}, ${await call(...line)}]`);
    }
  };
  await Promise.all(Array.from({ length: 8 }, one));
  Object.values(clients).forEach((each) => each.close());
}

main();
