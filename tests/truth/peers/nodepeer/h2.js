// SPDX-License-Identifier: Apache-2.0
// HTTP/2 without TLS (node:http2). Usage: h2.js server PORT | client URL COUNT, all of them at once
'use strict'

const http2 = require('node:http2')

function serve (port) {
  const server = http2.createServer((request, response) => {
    response.writeHead(request.url === '/missing' ? 404 : 200)
    request.resume().on('end', () => response.end(request.url))
  })
  server.listen(Number(port), '127.0.0.1')
}

async function ask (url, count) {
  const session = http2.connect(url)
  const get = path => new Promise((resolve, reject) => {
    session.request({ ':path': path }).on('error', reject).on('close', resolve).resume().end()
  })
  await Promise.all(Array.from({ length: count }, (_, i) => get(`/items/${i + 1}`)))
  session.close()
}

const [side, place, count] = process.argv.slice(2)
if (side === 'server') serve(place)
else ask(place, Number(count))
