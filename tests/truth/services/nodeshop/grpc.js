// SPDX-License-Identifier: Apache-2.0
// A server of @grpc/grpc-js, whose messages are bytes. Usage: node grpc.js PORT [CERTIFICATE KEY]
const fs = require('fs');
const grpc = require('@grpc/grpc-js');

const [port, cert, key] = process.argv.slice(2);
const same = (bytes) => bytes;
const said = (name, call) => console.log(`"POST /shop.Shop/${name}?n=${call.metadata.get('x-number')[0]} HTTP/2"`);

const answers = {
  Unary: (call, done) => done(null, call.request),
  Missing: (call, done) => done({ code: grpc.status.NOT_FOUND, details: 'as asked' }),
  Boom: (call, done) => done({ code: grpc.status.INTERNAL, details: 'as asked' }),
  Many: (call) => { for (let i = 0; i < 5; i++) call.write(call.request); call.end(); },
  Gather: (call, done) => call.on('data', () => {}).on('end', () => done(null, Buffer.from('all'))),
  Echo: (call) => call.on('data', (message) => call.write(message)).on('end', () => call.end()),
};
const methods = {};
const handlers = {};
for (const [name, answer] of Object.entries(answers)) {
  methods[name] = {
    path: `/shop.Shop/${name}`,
    requestStream: ['Gather', 'Echo'].includes(name),
    responseStream: ['Many', 'Echo'].includes(name),
    requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same,
  };
  handlers[name] = (call, done) => { said(name, call); answer(call, done); };
}
const credentials = cert
  ? grpc.ServerCredentials.createSsl(null, [{ cert_chain: fs.readFileSync(cert), private_key: fs.readFileSync(key) }])
  : grpc.ServerCredentials.createInsecure();
const server = new grpc.Server();
server.addService(methods, handlers);
server.bindAsync(`127.0.0.1:${port}`, credentials, (error) => { if (error) throw error; });
