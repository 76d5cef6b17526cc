// Workloads of Yjs. `make SHAPE SCRIPT N FILE` writes the updates of Yjs replicas to a file, and
// `apply` measures how long Yjs takes to apply them. In the file, four bytes with its length,
// little-endian, precede each update.
"use strict";

const fs = require("node:fs");
const readline = require("node:readline");
const Y = require("yjs");

const SCRIPTS = {
  ascii: [..."the quick brown fox jumps over a lazy dog "],
  latin: [..."Größe und Maß: été, señor, žluťoučký kůň "],
  chinese: [..."人人生而自由在尊严和权利上一律平等，他们赋有理性和良心。"],
  emoji: [..."🌿🍀🌲👩🏽‍💻 ok 🎉🇩🇪 🙂"],
};

// Pseudorandom numbers, the same in each run.
const randomNumbers = (seed) => () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed / 2 ** 32;
};

class Scene {
  constructor(script, n, authors = 1) {
    this.characters = SCRIPTS[script];
    this.n = n;
    this.updates = [];
    this.random = randomNumbers(n);
    this.docs = [];
    for (let author = 0; author < authors; author += 1) {
      const doc = new Y.Doc();
      doc.clientID = author + 1;
      doc.on("update", (update, origin) => origin !== "remote" && this.updates.push(update));
      this.docs.push(doc);
    }
    this.doc = this.docs[0];
    this.root = this.doc.getXmlFragment("xml");
  }

  // Returns a character of the script by number.
  character(number) {
    return this.characters[number % this.characters.length];
  }

  // Returns at least this many UTF-16 units of the script.
  run(units) {
    let text = "";
    for (let number = 0; text.length < units; number += 1) text += this.character(number);
    return text;
  }

  transact(change) {
    this.doc.transact(change);
  }

  element(tag, at = this.root.length) {
    const element = new Y.XmlElement(tag);
    this.root.insert(at, [element]);
    element.setAttribute("$id", `${tag}-${at}-${this.updates.length}`);
    return element;
  }

  // Adds an element with a text that has this content.
  text(content = "") {
    let text;
    this.transact(() => {
      const element = this.element("text");
      text = new Y.XmlText();
      element.insert(0, [text]);
      if (content) text.insert(0, content);
    });
    return text;
  }

  // Returns a position between two characters of this length.
  between(units, length) {
    const at = Math.floor(this.random() * units);
    return Math.max(0, at - (at % length));
  }

  // Synchronizes all authors.
  synchronize() {
    const states = this.docs.map((doc) => Y.encodeStateAsUpdate(doc));
    for (const doc of this.docs) for (const state of states) Y.applyUpdate(doc, state, "remote");
  }

  times(change) {
    for (let number = 0; number < this.n; number += 1) change(number);
  }
}

const SHAPES = {
  "a paste": (s) => s.text(s.run(s.n * 100)),
  "pastes at the end": (s) => {
    const text = s.text();
    s.times(() => text.insert(text.length, s.run(40)));
  },
  "pastes at the front": (s) => {
    const text = s.text();
    s.times(() => text.insert(0, s.run(40)));
  },
  typing: (s) => {
    const text = s.text();
    s.times((number) => text.insert(text.length, s.character(number)));
  },
  "typing at the front": (s) => {
    const text = s.text();
    s.times((number) => text.insert(0, s.character(number)));
  },
  "typing in the middle of a long text": (s) => {
    const text = s.text(s.run(s.n * 4));
    const unit = s.run(s.n * 2).length;
    let at = unit;
    s.times((number) => {
      text.insert(at, s.character(number));
      at += s.character(number).length;
    });
  },
  "typing anywhere": (s) => {
    const text = s.text();
    const position = () => Math.floor(s.random() * (text.length + 1));
    s.times((number) => text.insert(position(), s.character(number)));
  },
  backspaces: (s) => {
    const text = s.text(s.run(s.n));
    while (text.length > 0) text.delete(text.length - 1, 1);
  },
  "deleting from the front": (s) => {
    const text = s.text(s.run(s.n));
    while (text.length > 0) text.delete(0, 1);
  },
  "deleting anywhere": (s) => {
    const text = s.text(s.run(s.n * 4));
    s.times(() => text.delete(Math.floor(s.random() * (text.length - 2)), 1));
  },
  "every 12th character in one go": (s) => {
    const text = s.text(s.run(s.n * 12));
    s.transact(() => {
      for (let at = text.length - 1; at >= 0; at -= 12) text.delete(at, 1);
    });
  },
  "every 12th character, one by one": (s) => {
    const text = s.text(s.run(s.n * 12));
    for (let at = text.length - 1; at >= 0; at -= 12) text.delete(at, 1);
  },
  "indenting all lines from the front": (s) => {
    const text = s.text((s.run(20) + "\n").repeat(s.n));
    s.transact(() => {
      const length = s.run(20).length + 1;
      s.times((line) => text.insert(line * (length + 2), "  "));
    });
  },
  "replacing a word everywhere": (s) => {
    const line = s.run(20);
    const text = s.text(line.repeat(s.n));
    s.transact(() => {
      for (let at = s.n - 1; at >= 0; at -= 1) {
        text.delete(at * line.length, 4);
        text.insert(at * line.length, s.run(4));
      }
    });
  },
  "formats in one go": (s) => {
    const text = s.text(s.run(s.n * 10));
    s.transact(() => s.times((number) => text.format(number * 10, 4, { bold: true })));
  },
  "formats anywhere": (s) => {
    const text = s.text(s.run(s.n * 4));
    const keys = ["bold", "italic", "color"];
    const position = () => Math.floor(s.random() * (text.length - 8));
    s.times((number) => text.format(position(), 6, { [keys[number % 3]]: true }));
  },
  "a delta of many formats": (s) => {
    const text = s.text();
    const delta = [];
    s.times((number) => {
      delta.push({ insert: s.run(8), attributes: number % 2 ? { bold: true } : {} });
    });
    text.applyDelta(delta);
  },
  "elements at the end": (s) => {
    s.times(() => s.transact(() => s.element("item").setAttribute("s", s.run(8))));
  },
  "elements at the front": (s) => {
    s.times(() => s.transact(() => s.element("item", 0).setAttribute("s", s.run(8))));
  },
  "elements in one go": (s) => {
    s.transact(() => s.times(() => s.element("item").setAttribute("s", s.run(8))));
  },
  "elements within each other": (s) => {
    let parent = s.root;
    s.times((number) =>
      s.transact(() => {
        const element = new Y.XmlElement("item");
        parent.insert(0, [element]);
        element.setAttribute("$id", `level-${number}`);
        parent = number % 100 === 99 ? s.root : element;
      }),
    );
  },
  "one attribute again and again": (s) => {
    let element;
    s.transact(() => (element = s.element("item")));
    s.times((number) => element.setAttribute("s", s.character(number) + number));
  },
  "attributes of many elements": (s) => {
    const elements = [];
    s.transact(() => s.times(() => elements.push(s.element("item"))));
    s.times((number) => elements[number].setAttribute("s", s.run(12)));
  },
  "deleting elements": (s) => {
    s.transact(() => s.times(() => s.element("item").setAttribute("s", s.run(8))));
    s.times((number) => s.root.delete(Math.floor(s.random() * s.root.length), 1));
  },
  "a text in each element": (s) => s.times(() => s.text(s.run(30))),
  "two authors in one place": (s) => {
    s.text();
    s.docs.push(s.docs[1]);
    s.docs.pop();
    s.synchronize();
    const texts = s.docs.map((doc) => doc.getXmlFragment("xml").get(0).get(0));
    s.times((number) => {
      for (const text of texts) text.insert(text.length, s.character(number));
      if (number % 20 === 19) s.synchronize();
    });
  },
  "ten authors reconnect with offline work": (s) => {
    s.text();
    s.synchronize();
    const texts = s.docs.map((doc) => doc.getXmlFragment("xml").get(0).get(0));
    for (const text of texts) {
      for (let at = 0; at < s.n / 10; at += 1) text.insert(text.length, s.character(at));
    }
  },
  "undo and redo": (s) => {
    const text = s.text();
    const undo = new Y.UndoManager(text, { captureTimeout: 0 });
    s.times((number) => {
      text.insert(text.length, s.character(number));
      if (number % 4 === 3) undo.undo();
      if (number % 8 === 7) undo.redo();
    });
  },
};
const AUTHORS = { "two authors in one place": 2, "ten authors reconnect with offline work": 10 };

let updates = [];
function make(shape, script, n, file) {
  const scene = new Scene(script, n, AUTHORS[shape] ?? 1);
  SHAPES[shape](scene);
  updates = scene.updates;
  const parts = updates.flatMap((update) => {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(update.length);
    return [length, Buffer.from(update)];
  });
  fs.writeFileSync(file, Buffer.concat(parts));
  return updates.length;
}

function apply() {
  const doc = new Y.Doc();
  doc.getXmlFragment("xml");
  const begin = process.hrtime.bigint();
  for (const update of updates) Y.applyUpdate(doc, update);
  return Number(process.hrtime.bigint() - begin) / 1e9;
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  let answer;
  if (command.make) answer = make(...command.make);
  else if (command.list) answer = Object.keys(SHAPES);
  else answer = apply();
  process.stdout.write(`${JSON.stringify(answer)}\n`);
});
