// Yjs replicas for the differential test, driven by one JSON request per line on stdin. Updates are base64,
// Yjs v1. An edit is a number, which is given its meaning here, by what the replica holds at that moment.

"use strict";

const Y = require("yjs");

const { serve } = require("./lines.cjs");

/** The root types, all of which every replica has. */
const ROOTS = {
  xml: Y.XmlElement,
  "xml.attributes": Y.Map,
  map: Y.Map,
  array: Y.Array,
  text: Y.Text,
  fragment: Y.XmlFragment,
  "": Y.Array,
  "字 🌿": Y.Map,
};

/** JSON levels that our engine takes; what is nested deeper is taken up as deleted. */
const DEEPEST = 127;

let replicas = [];

const bytes = (base64) => new Uint8Array(Buffer.from(base64, "base64"));
const base64 = (array) => Buffer.from(array).toString("base64");

/** A new document that reads an update. */
function fresh(update, options = {}) {
  const doc = new Y.Doc(options);
  for (const [name, type] of Object.entries(ROOTS)) {
    doc.get(name, type);
  }
  if (update !== undefined) {
    Y.applyUpdate(doc, bytes(update), "remote");
  }
  return doc;
}

function open(replica, client, gc, update) {
  const doc = fresh(update, { gc });
  doc.clientID = client;
  doc.on("update", (sent) => replica.sent.push(sent));
  const roots = Object.entries(ROOTS).map(([name, type]) => doc.get(name, type));
  const undo = new Y.UndoManager(roots, {
    captureTimeout: 0,
    trackedOrigins: new Set(["local"]),
  });
  Object.assign(replica, { doc, undo, client, gc, sent: [] });
  return replica;
}

// ---- what is there ----

/** A value so that different ones differ as JSON. */
function plain(value) {
  if (value === undefined) return { undefined: true };
  if (typeof value === "bigint") return { bigint: String(value) };
  if (typeof value === "number") {
    return Number.isFinite(value) && !Object.is(value, -0) ? value : { number: String(value) };
  }
  if (value instanceof Uint8Array) return { bytes: base64(value) };
  if (value instanceof Y.Doc) return { document: value.guid };
  if (value instanceof Y.AbstractType) return dump(value);
  if (Array.isArray(value)) return value.map(plain);
  if (value !== null && typeof value === "object") {
    return { object: Object.keys(value).sort().map((key) => [key, plain(value[key])]) };
  }
  return value;
}

const isText = (type) => type instanceof Y.Text;

/** A rich text as runs; neighbours with equal formats are one. */
function runs(text) {
  const all = [];
  for (const { insert, attributes } of text.toDelta()) {
    const formats = plain(attributes ?? {});
    const last = all.at(-1);
    const isString = typeof insert === "string";
    if (isString && typeof last?.[0] === "string" && JSON.stringify(last[1]) === JSON.stringify(formats)) {
      last[0] += insert;
    } else {
      all.push([isString ? insert : { embed: plain(insert) }, formats]);
    }
  }
  return all;
}

function dump(type) {
  const attributes = [];
  for (const [key, item] of [...type._map].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (!item.deleted) {
      attributes.push([key, plain(item.content.getContent()[item.length - 1])]);
    }
  }
  const sequence = [];
  if (isText(type)) {
    sequence.push(...runs(type));
  } else {
    for (let item = type._start; item !== null; item = item.right) {
      if (!item.deleted && item.countable) {
        sequence.push(...item.content.getContent().map(plain));
      }
    }
  }
  const name = type.nodeName ?? type.hookName ?? null;
  return { kind: type.constructor.name, name, attributes, sequence };
}

function dumpAll(doc) {
  return Object.keys(ROOTS).map((name) => [name, dump(doc.get(name, ROOTS[name]))]);
}

/** The first place where two dumps differ. */
function difference(one, other, path = "") {
  if (one === other || JSON.stringify(one) === JSON.stringify(other)) return null;
  const isBoth = (test) => test(one) && test(other);
  if (isBoth(Array.isArray) && one.length === other.length) {
    for (let at = 0; at < one.length; at++) {
      const found = difference(one[at], other[at], `${path}/${at}`);
      if (found !== null) return found;
    }
  }
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  if (isBoth(isObject)) {
    for (const key of Object.keys(one)) {
      const found = difference(one[key], other[key], `${path}/${key}`);
      if (found !== null) return found;
    }
  }
  return `${path}: ${JSON.stringify(one)?.slice(0, 600)} != ${JSON.stringify(other)?.slice(0, 600)}`;
}

/** A value as our document shows it in JSON; of one that is nested deep, how deep: readers of JSON have bounds. */
function shownValue(value) {
  const depth = depthOf(value);
  return depth > 16 ? `${depth} levels` : shownWhole(value);
}

function shownWhole(value) {
  if (value === undefined || value === null) return null;
  if (typeof value === "bigint") return Number(value);
  if (typeof value === "number") return Number.isFinite(value) ? value : null;
  if (value instanceof Uint8Array) return [...value];
  if (Array.isArray(value)) return value.map(shownWhole);
  if (typeof value === "object") {
    return Object.fromEntries(Object.keys(value).map((key) => [key, shownWhole(value[key])]));
  }
  return value;
}

function shownAttributes(type) {
  const shown = {};
  for (const [key, item] of type._map) {
    if (item.deleted) continue;
    const value = item.content.getContent()[item.length - 1];
    if (!(value instanceof Y.AbstractType) && !(value instanceof Y.Doc)) {
      shown[key] = shownValue(value);
    }
  }
  return shown;
}

/** The element tree as our document shows it: elements, the first text of each, attributes that are values. */
function shown(element) {
  const children = [];
  let text = null;
  for (let item = element._start; item !== null; item = item.right) {
    if (item.deleted || !(item.content instanceof Y.ContentType)) continue;
    const { type } = item.content;
    if (type instanceof Y.XmlText) text ??= type;
    else if (type instanceof Y.XmlElement) children.push(shown(type));
  }
  const all = [];
  for (const { insert, attributes } of text?.toDelta() ?? []) {
    if (typeof insert !== "string") continue;
    const formats = Object.entries(attributes ?? {}).map(([key, value]) => [key, shownValue(value)]);
    all.push([insert, Object.fromEntries(formats)]);
  }
  return { tag: element.nodeName, attributes: shownAttributes(element), children, runs: all };
}

function shownRoot(doc) {
  const root = doc.get("xml", Y.XmlElement);
  // A shared type as a value on the tree's own root hides the one beside it.
  const own = new Set([...root._map].filter(([, item]) => !item.deleted).map(([key]) => key));
  const beside = shownAttributes(doc.getMap("xml.attributes"));
  for (const key of own) delete beside[key];
  const tree = shown(root);
  return { ...tree, tag: "", attributes: { ...beside, ...tree.attributes } };
}

// ---- edits ----

/** Mulberry32, from a number in hex. */
function generator(hex) {
  let state = (parseInt(hex.slice(0, 8), 16) ^ Math.imul(parseInt(hex.slice(8), 16), 0x9e3779b1)) >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  const below = (limit) => next() % Math.max(limit, 1);
  const pick = (list) => list[below(list.length)];
  return { below, pick };
}

const SAMPLES = [
  "a", "word ", "ä", "e\u0301", "漢字", "😀", "👩‍👩‍👧", "x😀y", "\u{10ffff}", "שלום", "\u0000", "<b>&\"", "\n", "\ufffd",
];

function string(random) {
  let text = "";
  for (let left = random.below(4); left >= 0; left--) text += random.pick(SAMPLES);
  if (random.below(25) === 0) {
    text += random.pick(["\ud83d", "\ude00", "\ud83dx", "\ude00\ud83d"]);
  }
  return text;
}

const KEYS = ["a", "b", "", "ключ", "🔑", "toString", "__proto__ ", "long".repeat(20)];

function nested(random, depth) {
  let value = random.below(2);
  for (let at = 0; at < depth; at++) {
    value = random.below(2) === 0 ? [value] : { d: value };
  }
  return value;
}

/** What `JSON.stringify` writes as it is. */
function json(random, depth = 3) {
  switch (random.below(depth > 0 ? 9 : 6)) {
    case 0: return null;
    case 1: return random.below(2) === 0;
    case 2: return random.pick([0, 1, -7, 0.5, 1e300, -1e-9, 2 ** 31, 2 ** 53 - 1, -(2 ** 40)]);
    case 3: case 4: case 5: return string(random);
    case 6: return Array.from({ length: random.below(4) }, () => json(random, depth - 1));
    case 7: {
      const object = {};
      for (let left = random.below(4); left > 0; left--) {
        object[random.pick(KEYS)] = json(random, depth - 1);
      }
      return object;
    }
    default:
      if (random.below(10) === 0) return nested(random, 120 + random.below(14));
      return nested(random, random.below(12));
  }
}

/** A value of a list or a map that is no shared type. */
function any(random) {
  switch (random.below(14)) {
    case 0: return undefined;
    case 1: return random.pick([NaN, Infinity, -0, 2 ** 53, 1.1, 3.4e38, -(2 ** 31), 63, 64, -64]);
    case 2: return random.pick([0n, -1n, 2n ** 63n - 1n, -(2n ** 63n), 12345678901234567890n % 2n ** 62n]);
    case 3: return new Uint8Array(random.below(20)).fill(random.below(256));
    case 4: return [new Uint8Array(3), undefined, -0, 5n, { x: undefined }];
    case 5: if (random.below(4) === 0) return Array.from({ length: 300 }, (_, at) => at);
    // falls through
    default: return json(random);
  }
}

let serial = 0;

function element(random, depth = 2) {
  const isText = random.below(3) === 0;
  const made = new Y.XmlElement(isText ? "text" : random.pick(["item", "item", "item", "p", "段"]));
  if (random.below(8) !== 0) {
    serial += 1;
    made.setAttribute("$id", `y${serial}-${random.below(1 << 24).toString(36)}`);
  }
  if (random.below(3) === 0) made.setAttribute(random.pick(["s", "n", "b", "lang"]), any(random));
  if (isText) {
    const text = new Y.XmlText();
    text.applyDelta(delta(random));
    made.insert(0, [text]);
  } else if (depth > 0) {
    made.insert(0, Array.from({ length: random.below(3) }, () => element(random, depth - 1)));
  }
  return made;
}

function formats(random) {
  const made = {};
  for (let left = random.below(3); left >= 0; left--) {
    made[random.pick(["bold", "color", "link", "格式"])] =
      random.below(3) === 0 ? null : random.pick([true, "red", "blue", { href: "a", n: [1, null] }, json(random)]);
  }
  return made;
}

function delta(random) {
  return Array.from({ length: random.below(4) }, () => ({
    insert: string(random),
    ...(random.below(2) === 0 ? { attributes: formats(random) } : {}),
  }));
}

function type(random, depth = 2) {
  switch (random.below(depth > 0 ? 9 : 4)) {
    case 0: return new Y.Text(string(random));
    case 1: return new Y.XmlText(string(random));
    case 2: return new Y.Map();
    case 3: return new Y.Array();
    case 4: return Y.Array.from([json(random), type(random, depth - 1)]);
    case 5: return new Y.Map([[random.pick(KEYS), type(random, depth - 1)]]);
    case 6: return element(random);
    case 7: {
      if (random.below(3) === 0) return new Y.XmlHook(random.pick(["hook", "钩"]));
      const made = new Y.XmlFragment();
      made.insert(0, [element(random, 1)]);
      return made;
    }
    default: return random.below(3) === 0 ? new Y.Doc({ guid: `g${random.below(99)}` }) : element(random);
  }
}

function content(random) {
  return random.below(3) === 0 ? type(random) : any(random);
}

/** A member of a list: Yjs takes some values in there within others only. */
function member(random) {
  const made = content(random);
  return made === undefined || typeof made === "bigint" ? [made] : made;
}

/** All shared types that can be seen. */
function reachable(doc) {
  const all = [];
  const visit = (type) => {
    all.push(type);
    for (const item of type._map.values()) look(item);
    for (let item = type._start; item !== null; item = item.right) look(item);
  };
  const look = (item) => {
    if (!item.deleted && item.content instanceof Y.ContentType) visit(item.content.type);
  };
  for (const [name, kind] of Object.entries(ROOTS)) visit(doc.get(name, kind));
  return all;
}

function range(random, length) {
  const from = random.below(length + 1);
  return [from, Math.min(random.below(7), length - from)];
}

function place(random, length) {
  return [0, length, random.below(length + 1), random.below(length + 1)][random.below(4)];
}

function editText(random, text) {
  const at = place(random, text.length);
  const [from, length] = range(random, text.length);
  switch (random.below(10)) {
    case 0: case 1: case 2:
      return text.insert(at, string(random), random.below(3) === 0 ? formats(random) : undefined);
    case 3: return text.insertEmbed(at, random.below(3) === 0 ? type(random, 1) : { e: json(random) });
    case 4: case 5: return text.delete(from, length);
    case 6: case 7: return text.format(from, length, formats(random));
    case 8: {
      // Yjs fails at one that deletes nothing in a text that is empty.
      const end = length > 0 ? [{ delete: length }] : [];
      return text.applyDelta([{ retain: from }, ...delta(random), ...end]);
    }
    default:
      if (!(text instanceof Y.XmlText)) return text.insert(at, string(random));
      return text.setAttribute(random.pick(KEYS), string(random));
  }
}

function editMap(random, map) {
  const keys = [...map.keys()];
  if (keys.length > 0 && random.below(3) === 0) return map.delete(random.pick(keys));
  if (random.below(30) === 0) return map.set(string(random), content(random));
  return map.set(random.pick(KEYS), content(random));
}

function editXml(random, xml) {
  const kind = random.below(10);
  if (kind < 3 && xml.length > 0) {
    const [from, length] = range(random, xml.length);
    return xml.delete(from, Math.min(length, 2));
  }
  if (kind < 6 && xml instanceof Y.XmlElement) {
    const name = random.pick(["s", "n", "b", "title", "$id", "a"]);
    if (random.below(4) === 0) return xml.removeAttribute(name);
    if (name === "$id" && xml._item !== null) return xml.setAttribute("$id", `y${random.below(1 << 20)}`);
    return xml.setAttribute(name, content(random));
  }
  if (xml.length > 12 && random.below(2) === 0) return xml.delete(0, 2);
  const made = random.below(8) === 0 ? member(random) : element(random);
  return xml.insert(place(random, xml.length), [made]);
}

function editArray(random, array) {
  if (array.length > 0 && random.below(3) === 0) {
    const [from, length] = range(random, array.length);
    return array.delete(from, length);
  }
  const made = Array.from({ length: 1 + random.below(3) }, () => member(random));
  if (random.below(2) === 0) return array.push(made);
  return array.insert(place(random, array.length), made);
}

function edit(random, doc) {
  const all = reachable(doc);
  const roots = Object.keys(ROOTS).length;
  // The tree and its texts most of the time: our replica edits there, too.
  const tree = doc.get("xml", Y.XmlElement);
  const texts = all.filter((type) => type instanceof Y.XmlText);
  let target = random.pick(all);
  const choice = random.below(10);
  if (choice < 2) target = tree;
  else if (choice < 5 && texts.length > 0) target = random.pick(texts);
  else if (choice === 5) target = all[random.below(roots)];
  if (target instanceof Y.Text) return editText(random, target);
  if (target instanceof Y.Map) return editMap(random, target);
  if (target instanceof Y.Array) return editArray(random, target);
  return editXml(random, target);
}

// ---- what our engine takes up as deleted ----

function depthOf(value) {
  if (Array.isArray(value)) return 1 + Math.max(0, ...value.map(depthOf));
  if (value !== null && typeof value === "object" && !(value instanceof Uint8Array)) {
    return 1 + Math.max(0, ...Object.values(value).map(depthOf));
  }
  return 0;
}

const isDeep = (value) => depthOf(value) > DEEPEST;

function misfits(update) {
  let count = 0;
  for (const { content } of Y.decodeUpdate(update).structs) {
    if (content instanceof Y.ContentDoc) count += 1;
    else if (content instanceof Y.ContentType) count += content.type instanceof Y.XmlHook ? 1 : 0;
    else if (content instanceof Y.ContentAny) count += content.arr.some(isDeep) ? 1 : 0;
    else if (content instanceof Y.ContentFormat) count += isDeep(content.value) ? 1 : 0;
    else if (content instanceof Y.ContentEmbed) count += isDeep(content.embed) ? 1 : 0;
  }
  return count;
}

/** What a replica sends meanwhile, those of its own clean-up included. */
function sent(replica, change) {
  replica.sent = [];
  change();
  return replica.sent.map((update) => [base64(update), misfits(update)]);
}

/**
 * A local change. `state` is what others have of the replica if that is another document: halves of characters
 * are told apart in its memory only, and Yjs cuts a character for formats that it then finds to be needless.
 */
function local(replica, change) {
  const before = Y.encodeStateAsUpdate(replica.doc);
  const updates = sent(replica, change);
  const state = Y.mergeUpdates([before, ...replica.sent]);
  const isSame = JSON.stringify(dumpAll(replica.doc)) === JSON.stringify(dumpAll(fresh(base64(state))));
  return { updates, state: isSame ? null : base64(state) };
}

/**
 * What a replica deletes on getting updates. It sends the operations back as well, and those that it has collected
 * since without content and without their deletion: who gets that before the operations themselves shows something
 * else until the deletion comes, in Yjs as with us, depending on the order.
 */
function deletionsOf(update) {
  const clients = Y.decodeUpdate(update).structs.map(({ id }) => [id.client, 2 ** 31]);
  return Y.diffUpdate(update, Y.encodeStateVector(new Map(clients)));
}

const vectorOf = (doc) => [...Y.decodeStateVector(Y.encodeStateVector(doc))];

serve({
  reset({ replicas: wanted }) {
    serial = 0;
    replicas = wanted.map(({ client, gc }) => open({}, client, gc));
  },
  edit({ replica: index, numbers }) {
    const replica = replicas[index];
    return local(replica, () =>
      replica.doc.transact(
        () => numbers.forEach((number) => edit(generator(number), replica.doc)),
        "local",
      ),
    );
  },
  undo({ replica: index, redo }) {
    const replica = replicas[index];
    return local(replica, () => (redo ? replica.undo.redo() : replica.undo.undo()));
  },
  apply({ replica: index, updates }) {
    const replica = replicas[index];
    sent(replica, () =>
      updates.forEach((update) => Y.applyUpdate(replica.doc, bytes(update), "remote")),
    );
    const deletions = replica.sent.map(deletionsOf).filter((update) => update.length > 2);
    return deletions.map((update) => [base64(update), 0]);
  },
  /** Replaces a replica by one that reads what it would have stored. */
  reload({ replica: index, update }) {
    const { client, gc } = replicas[index];
    open(replicas[index], client, gc, update);
  },
  state: ({ replica: index }) => base64(Y.encodeStateAsUpdate(replicas[index].doc)),
  /** What a replica lacks of another one, whose state vector may come from its state. */
  diff({ replica: index, vector }) {
    return base64(Y.encodeStateAsUpdate(replicas[index].doc, bytes(vector)));
  },
  vector: ({ replica: index }) => base64(Y.encodeStateVector(replicas[index].doc)),
  vector_of: ({ update }) => base64(Y.encodeStateVectorFromUpdate(bytes(update))),
  merge: ({ updates }) => base64(Y.mergeUpdates(updates.map(bytes))),
  diff_update: ({ update, vector }) => base64(Y.diffUpdate(bytes(update), bytes(vector))),
  /**
   * Compares a replica with what new ones read from these states, and tells what is to be seen of it. With `cut`
   * a character and its two halves, each of them U+FFFD, are the same.
   */
  check({ replica: index, states, cut }) {
    const { doc } = replicas[index];
    const all = dumpAll(doc);
    const text = JSON.stringify(all);
    const cutText = (whole) => whole.replace(/[\ud800-\udbff][\udc00-\udfff]/g, "\ufffd\ufffd");
    let found = null;
    let isCut = false;
    for (const state of states) {
      const other = dumpAll(fresh(state));
      const otherText = JSON.stringify(other);
      if (otherText === text) continue;
      if (cut && cutText(otherText) === cutText(text)) isCut = true;
      else found ??= difference(all, other);
    }
    return {
      difference: found,
      is_cut: isCut,
      vector: vectorOf(doc),
      state: base64(Y.encodeStateAsUpdate(doc)),
      shown: shownRoot(doc),
      waits: doc.store.pendingStructs !== null || doc.store.pendingDs !== null,
    };
  },
  /** Whether all replicas show the same. */
  compare() {
    const [first, ...others] = replicas.map(({ doc }) => dumpAll(doc));
    for (const [index, other] of others.entries()) {
      const found = difference(first, other);
      if (found !== null) return `replica 0 and ${index + 1} differ at ${found}`;
    }
    return null;
  },
});
