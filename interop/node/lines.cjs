// Requests as JSON lines on stdin, answered in order on stdout. Everything else that a script or an SDK
// prints goes to stderr.

"use strict";

const readline = require("node:readline");

/** Answers each request `{"id", "op", …}` by the operation of that name. */
async function serve(operations) {
  const print = (line) => process.stdout.write(`${line}\n`);
  for (const level of ["log", "info", "debug", "warn"]) {
    console[level] = console.error;
  }
  // An `open` that is refused leaves a promise of the SDK's own behind that nobody handles.
  process.on("unhandledRejection", (error) => console.error("nobody handles", error));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    const reply = { id: request.id };
    try {
      reply.ok = (await operations[request.op](request)) ?? null;
    } catch (error) {
      console.error(`${request.op} failed`, error);
      reply.error = { message: String(error?.message ?? error), code: error?.code ?? null };
    }
    print(JSON.stringify(reply));
  }
  process.exit(0);
}

module.exports = { serve };
