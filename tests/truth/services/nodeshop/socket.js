// SPDX-License-Identifier: Apache-2.0
// A WebSocket server of ws, which sends back what it gets. Usage: node socket.js PORT [CERTIFICATE KEY]
const fs = require('fs');
const http = require('http');
const https = require('https');
const { WebSocketServer } = require('ws');

const [port, cert, key] = process.argv.slice(2);
const server = cert
  ? https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) }) : http.createServer();
new WebSocketServer({ server }).on('connection', (socket, request) => {
  console.log(`"GET ${request.url} HTTP/1.1"`);
  socket.on('message', (message, binary) => socket.send(message, { binary }));
});
server.listen(Number(port), '127.0.0.1');
