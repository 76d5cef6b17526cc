// Hocuspocus, set up as in its documentation, with the table of its SQLite extension. (The driver
// of that extension is built from sources that no package registry has.) Arguments: port, folder.
import { DatabaseSync } from "node:sqlite";
import { join } from "node:path";
import { Database } from "@hocuspocus/extension-database";
import { Server } from "@hocuspocus/server";

const [port, folder] = process.argv.slice(2);
const database = new DatabaseSync(join(folder, "documents.sqlite"));
database.exec(`CREATE TABLE IF NOT EXISTS "documents" (
  "name" varchar(255) NOT NULL,
  "data" blob NOT NULL,
  UNIQUE(name)
)`);
const read = database.prepare(`SELECT data FROM "documents" WHERE name = ?`);
const write = database.prepare(
  `INSERT INTO "documents" ("name", "data") VALUES (?, ?)
   ON CONFLICT(name) DO UPDATE SET data = excluded.data`,
);

const server = new Server({
  address: "127.0.0.1",
  port: Number(port),
  quiet: true,
  // The generator's clients send no awareness messages, unlike other clients of Hocuspocus.
  timeout: 3_600_000,
  extensions: [
    new Database({
      fetch: async ({ documentName }) => read.get(documentName)?.data ?? null,
      store: async ({ documentName, state }) => {
        write.run(documentName, state);
      },
    }),
  ],
});
await server.listen();
