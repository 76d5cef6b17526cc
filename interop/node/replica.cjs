// A bare Yjs replica, driven by one JSON request per line on stdin. Updates are base64, Yjs v1; a path is
// the list of child indices from the root; places in texts are UTF-16 units.

"use strict";

const Y = require("yjs");

const { serve } = require("./lines.cjs");

let doc;
let emitted;

const bytes = (base64) => new Uint8Array(Buffer.from(base64, "base64"));
const base64 = (array) => Buffer.from(array).toString("base64");
const rootOf = (document) => document.get("xml", Y.XmlElement);

function find(path) {
  return path.reduce((element, index) => element.get(index), rootOf(doc));
}

function findText(path) {
  return find(path).get(0);
}

/** A new element of `{"tag", "attributes", "children", "runs"}`. */
function build(element) {
  const made = new Y.XmlElement(element.tag);
  for (const [name, value] of Object.entries(element.attributes)) {
    made.setAttribute(name, value);
  }
  if (element.tag === "text") {
    const text = new Y.XmlText();
    text.applyDelta(element.runs.map(([insert, attributes]) => ({ insert, attributes })));
    made.insert(0, [text]);
  } else {
    made.insert(0, element.children.map(build));
  }
  return made;
}

const edits = {
  insert: ({ path, index, element }) => find(path).insert(index, [build(element)]),
  delete: ({ path }) => find(path.slice(0, -1)).delete(path.at(-1), 1),
  set: ({ path, name, value }) => find(path).setAttribute(name, value),
  remove: ({ path, name }) => find(path).removeAttribute(name),
  insert_text: ({ path, at, text, attributes }) =>
    findText(path).insert(at, text, attributes ?? undefined),
  delete_text: ({ path, from, to }) => findText(path).delete(from, to - from),
  format_text: ({ path, from, to, attributes }) =>
    findText(path).format(from, to - from, attributes),
};

function describe(element) {
  const children = element.toArray();
  const text = children.find((child) => child instanceof Y.XmlText);
  return {
    tag: element.nodeName,
    attributes: element.getAttributes(),
    children: children.filter((child) => child instanceof Y.XmlElement).map(describe),
    runs: (text?.toDelta() ?? []).map(({ insert, attributes }) => [insert, attributes ?? {}]),
  };
}

function view(document) {
  const { attributes, children } = describe(rootOf(document));
  const beside = document.getMap("xml.attributes").toJSON();
  return { root: { ...beside, ...attributes }, beside, children };
}

/** All updates that `change` makes the replica send, those of its own clean-up included. */
function sent(change) {
  emitted = [];
  change();
  return emitted.map(base64);
}

serve({
  reset({ client }) {
    doc = new Y.Doc();
    doc.clientID = client;
    doc.on("update", (update) => emitted.push(update));
    rootOf(doc);
    doc.getMap("xml.attributes");
  },
  edit: ({ changes }) =>
    sent(() => doc.transact(() => changes.forEach((change) => edits[change.do](change)))),
  apply: ({ update }) => sent(() => Y.applyUpdate(doc, bytes(update))),
  state_vector: () => base64(Y.encodeStateVector(doc)),
  diff: ({ vector }) => base64(Y.encodeStateAsUpdate(doc, bytes(vector))),
  state: () => base64(Y.encodeStateAsUpdate(doc)),
  merge: ({ updates }) => base64(Y.mergeUpdates(updates.map(bytes))),
  view: () => view(doc),
  load({ update }) {
    const fresh = new Y.Doc();
    Y.applyUpdate(fresh, bytes(update));
    return view(fresh);
  },
  /** What an update deletes: for each client sorted ranges that neither touch nor overlap. */
  deletions({ update }) {
    const deleted = {};
    for (const [client, ranges] of Y.decodeUpdate(bytes(update)).ds.clients) {
      const merged = [];
      for (const { clock, len } of [...ranges].sort((a, b) => a.clock - b.clock)) {
        const last = merged.at(-1);
        if (last !== undefined && clock <= last[1]) {
          last[1] = Math.max(last[1], clock + len);
        } else {
          merged.push([clock, clock + len]);
        }
      }
      deleted[client] = merged;
    }
    return deleted;
  },
});
