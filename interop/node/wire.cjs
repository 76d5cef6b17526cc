// A bare WebSocket that speaks packets and messages, driven by one JSON request per line on stdin: for
// what the SDKs of other languages put on the wire, and for what no SDK would.

"use strict";

const WebSocket = require("ws");
const { serve } = require("./lines.cjs");

const PACKET_BYTES = 1024;

let socket = null;
let ended = null;
const received = [];
let wake = () => {};

/** The packets of one message; the id's 64 bits are given as they go on the wire. */
function packets({ message_id: id, kind, header, payload = "" }) {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64BE(BigInt(text.length));
  const body = Buffer.concat([length, text, Buffer.from(payload, "base64")]);
  const total = Math.ceil(body.length / PACKET_BYTES);
  const head = (index) => {
    const bytes = Buffer.alloc(12);
    bytes.writeBigUInt64BE(BigInt(id));
    bytes.writeUInt32BE(index, 8);
    return bytes;
  };
  const count = Buffer.alloc(4);
  count.writeUInt32BE(total);
  const result = [Buffer.concat([head(0), count, Buffer.from(kind)])];
  for (let index = 0; index < total; index += 1) {
    const part = body.subarray(index * PACKET_BYTES, (index + 1) * PACKET_BYTES);
    result.push(Buffer.concat([head(index + 1), part]));
  }
  return result;
}

/** Puts packets together into messages. */
function assembler(onMessage) {
  let kind = "";
  let total = 0;
  let parts = [];
  return (packet) => {
    const index = packet.readUInt32BE(8);
    if (index === 0) {
      total = packet.readUInt32BE(12);
      kind = packet.subarray(16).toString();
      parts = [];
    } else {
      parts.push(packet.subarray(12));
    }
    if (parts.length === total) {
      const body = Buffer.concat(parts);
      const length = body.length < 8 ? 0 : Number(body.readBigUInt64BE(0));
      onMessage({
        message_id: Number(packet.readBigUInt64BE(0)),
        kind,
        header: length === 0 ? null : JSON.parse(body.subarray(8, 8 + length).toString()),
        payload: body.subarray(8 + length).toString("base64"),
      });
    }
  };
}

function connect({ url, headers = {}, protocols = [] }) {
  ended = null;
  received.length = 0;
  return new Promise((resolve, reject) => {
    socket = new WebSocket(url, protocols, { headers });
    const handle = assembler((message) => {
      received.push(message);
      wake();
    });
    socket.on("message", (data) => handle(data));
    socket.on("open", () => resolve({ status: 101, protocol: socket.protocol }));
    socket.on("unexpected-response", (request, response) => {
      resolve({ status: response.statusCode });
      request.destroy();
    });
    // Code 1006 stands for a connection that ended without a close frame.
    socket.on("close", (code, reason) => {
      ended = { code, reason: reason.toString() };
      wake();
    });
    socket.on("error", reject);
  });
}

/** The next message, `{"ended"}` when there will be none, null when none came in time. */
async function receive({ timeout_ms: limit = 30000 }) {
  const deadline = Date.now() + limit;
  while (received.length === 0) {
    if (ended != null) {
      return { ended };
    }
    const left = deadline - Date.now();
    if (left <= 0) {
      return null;
    }
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, left);
    });
  }
  return received.shift();
}

void serve({
  connect,
  receive,
  async send(request) {
    for (const packet of packets(request)) {
      socket.send(packet);
    }
  },
  /** Packets as they are, base64. */
  send_packets: async ({ list }) => {
    for (const packet of list) {
      socket.send(Buffer.from(packet, "base64"));
    }
  },
  close: async () => socket.close(1000),
  /** Drops the connection without a word. */
  drop: async () => socket.terminate(),
});
