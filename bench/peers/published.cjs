// Clients of the published npm SDK on one document. Each sets an attribute of its own element, and
// sets it again as soon as its neighbour shows the value. Arguments: the URL of the room's
// WebSocket, a token, the number of clients, the seconds.
"use strict";

const { MeshSchema, RoomClient, WebSocketClientProtocol } = require("@meshagent/meshagent");

const [url, token, count, seconds] = process.argv.slice(2);
const PATH = "published.bench";
const schema = MeshSchema.fromJson(JSON.parse(process.env.SCHEMA));

async function join() {
  const protocolFactory = WebSocketClientProtocol.createFactory({ url, token });
  const room = new RoomClient({ protocolFactory });
  await room.start();
  return room.sync.open(PATH, { create: true, schema });
}

async function until(isSo) {
  while (!isSo()) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function main() {
  const documents = [];
  for (let number = 0; number < Number(count); number += 1) {
    documents.push(await join());
  }
  const create = (document) => document.root.createChildElement("item", { number: 0 }).id;
  const ids = documents.map(create);
  const hasAll = (document) => ids.every((id) => document.root.getNodeByID(id) != null);
  await until(() => documents.every(hasAll));

  // The first second is a warm-up.
  const took = [];
  const start = performance.now() + 1000;
  const end = start + Number(seconds) * 1000;
  await Promise.all(
    documents.map(async (document, client) => {
      const own = document.root.getNodeByID(ids[client]);
      const neighbour = documents[(client + 1) % documents.length].root.getNodeByID(ids[client]);
      for (let number = 1; performance.now() < end; number += 1) {
        const began = performance.now();
        own.setAttribute("number", number);
        await until(() => neighbour.getAttribute("number") === number);
        if (began >= start) took.push(performance.now() - began);
      }
    }),
  );
  took.sort((a, b) => a - b);
  const at = (part) => took[Math.min(took.length - 1, Math.floor(took.length * part))];
  const per_second = took.length / Number(seconds);
  console.log(JSON.stringify({ per_second, p50: at(0.5), p99: at(0.99) }));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
