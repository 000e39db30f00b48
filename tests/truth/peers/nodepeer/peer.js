// SPDX-License-Identifier: Apache-2.0
// A gRPC service of bytes, and a client of it (@grpc/grpc-js). Usage: peer.js server PORT | client PORT ROUNDS
'use strict'

const grpc = require('@grpc/grpc-js')

const same = bytes => bytes
const method = (name, requestStream, responseStream) => ({
  path: `/shop.v1.Basket/${name}`, requestStream, responseStream, requestSerialize: same, requestDeserialize: same,
  responseSerialize: same, responseDeserialize: same,
})
const METHODS = {
  One: method('One', false, false), Down: method('Down', false, true), Up: method('Up', true, false),
  Both: method('Both', true, true),
}

function serve (port) {
  const server = new grpc.Server()
  server.addService(METHODS, {
    One: (call, done) => call.request.equals(Buffer.from('bad'))
      ? done({ code: grpc.status.NOT_FOUND, details: 'no such thing' })
      : done(null, call.request),
    Down: call => {
      for (let i = 0; i < 5; i++) call.write(call.request)
      call.end()
    },
    Up: (call, done) => {
      let count = 0
      call.on('data', () => count++)
      call.on('end', () => done(null, Buffer.from(String(count))))
    },
    Both: call => {
      call.on('data', bytes => call.write(bytes))
      call.on('end', () => call.end())
    },
  })
  server.bindAsync(`127.0.0.1:${port}`, grpc.ServerCredentials.createInsecure(), error => { if (error) throw error })
}

async function ask (port, rounds) {
  const all = { ...METHODS, Nothing: method('Nothing', false, false) }
  const Client = grpc.makeGenericClientConstructor(all, 'Basket')
  const client = new Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure())
  const call = (name, bytes) => new Promise((resolve, reject) => {
    client[name](Buffer.from(bytes), (error, answer) => error ? reject(error) : resolve(answer))
  })
  const read = stream => new Promise((resolve, reject) => {
    let count = 0
    stream.on('data', () => count++).on('end', () => resolve(count)).on('error', reject)
  })
  for (let i = 0; i < rounds; i++) {
    await call('One', 'a')
    if (await read(client.Down(Buffer.from('b'))) !== 5) throw new Error('Down')
    await new Promise((resolve, reject) => {
      const stream = client.Up((error, answer) => error ? reject(error) : resolve(answer))
      for (const bytes of ['1', 'x'.repeat(100000), '3']) stream.write(Buffer.from(bytes))
      stream.end()
    })
    const both = client.Both()
    for (let n = 0; n < 4; n++) both.write(Buffer.from('c'))
    both.end()
    if (await read(both) !== 4) throw new Error('Both')
    for (const [name, bytes] of [['One', 'bad'], ['Nothing', '']]) {
      await call(name, bytes).then(() => { throw new Error(name) }, () => {})
    }
  }
  await Promise.all(Array.from({ length: 100 }, () => call('One', 'many')))
  client.close()
}

const [side, port, rounds] = process.argv.slice(2)
if (side === 'server') serve(port)
else ask(port, Number(rounds)).catch(error => { console.error(error); process.exit(1) })
