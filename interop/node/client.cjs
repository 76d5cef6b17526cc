// A participant through the published npm SDK, driven by one JSON request per line on stdin. The
// operations and their arguments are those of `python/client.py`.

"use strict";

const {
  MeshSchema,
  RoomClient,
  TextElement,
  WebSocketClientProtocol,
  deploySchema,
} = require("@meshagent/meshagent");
const Y = require("yjs");
const { serve } = require("./lines.cjs");

let room = null;
const documents = new Map();
const events = [];

const schemaOf = (request) =>
  request.schema == null ? undefined : MeshSchema.fromJson(request.schema);
const bytes = (base64) => new Uint8Array(Buffer.from(base64, "base64"));
const base64 = (data) => Buffer.from(data ?? []).toString("base64");

async function invoke(tool, input, toolkit = "sync") {
  const content = await room.invoke({ toolkit, tool, input });
  return content.json ?? null;
}

function node(request) {
  const root = documents.get(request.path).root;
  const found = request.node == null ? root : root.getNodeByID(request.node);
  if (found == null) {
    throw new Error(`there is no element ${request.node}`);
  }
  return found;
}

/** An element as the Python SDK's `to_json` writes it; the npm SDK has no such method. */
function elementJson(schema, tag, attributes, children, ids) {
  const properties = { ...attributes };
  if (!ids) {
    delete properties.$id;
  }
  const childProperty = schema.element(tag).childPropertyName;
  if (childProperty != null) {
    properties[childProperty] = children;
  }
  return { [tag]: properties };
}

function viewJson(schema, element, ids) {
  const children = element.children.map((child) =>
    child instanceof TextElement
      ? { text: { delta: child.delta } }
      : viewJson(schema, child, ids),
  );
  return elementJson(schema, element.tagName, element.attributes, children, ids);
}

function replicaJson(schema, tag, element, ids) {
  const children = element.toArray().map((child) =>
    child instanceof Y.XmlText
      ? { text: { delta: child.toDelta() } }
      : replicaJson(schema, child.nodeName, child, ids),
  );
  return elementJson(schema, tag, element.getAttributes(), children, ids);
}

const entryJson = (entry) =>
  entry && {
    name: entry.name,
    is_folder: entry.isFolder,
    size: entry.size,
    created: entry.createdAt != null,
    updated: entry.updatedAt != null,
  };

function recordEvents() {
  // The SDK names the event by its status.
  room.on("ahead", ({ status, message }) => events.push({ kind: "room.status", status, message }));
  room.storage.on("file.updated", (event) =>
    events.push({ kind: "file.updated", path: event.path, participant_id: event.participantId }),
  );
  room.storage.on("file.deleted", (event) =>
    events.push({ kind: "file.deleted", path: event.path, participant_id: event.participantId }),
  );
  room.storage.on("file.moved", (event) =>
    events.push({
      kind: "file.moved",
      source_path: event.sourcePath,
      destination_path: event.destinationPath,
      participant_id: event.participantId,
    }),
  );
  for (const kind of ["participant_added", "participant_removed"]) {
    room.messaging.on(kind, ({ message }) =>
      events.push({ kind, participant_id: message.message.id }),
    );
  }
  room.messaging.on("message", ({ message }) => {
    // The SDK passes the notices about participants on as messages too.
    if (!/^(participant|messaging)\./.test(message.type)) {
      events.push({
        kind: "message",
        type: message.type,
        message: message.message,
        from: message.fromParticipantId,
        attachment: base64(message.attachment),
      });
    }
  });
}

const connection = {
  async connect({ url, token }) {
    const protocolFactory = url && WebSocketClientProtocol.createFactory({ url, token });
    room = new RoomClient({ protocolFactory });
    await room.start();
    recordEvents();
    return {
      room_name: room.roomName,
      room_url: room.roomUrl,
      session_id: room.sessionId,
      participant_id: room.localParticipant.id,
      attributes: room.localParticipant._attributesSnapshot(),
    };
  },
  disconnect: async () => room.dispose(),
  status: async () => ({ connected: room.isConnected, closed: room.isClosed }),
  invoke: async ({ toolkit, tool, input }) => invoke(tool, input, toolkit),
  list_toolkits: async () =>
    Object.fromEntries(
      (await room.listToolkits()).map(({ name, tools }) => [
        name,
        Object.fromEntries(tools.map((tool) => [tool.name, tool.inputSpec?.schema ?? null])),
      ]),
    ),
  events: async () => events,
};

const sync = {
  // The SDK's own `create` takes no schema; its tool does.
  create: async ({ path, json = null, schema = null }) =>
    schema == null
      ? room.sync.create(path, json)
      : invoke("create", { path, json, schema, schema_path: null }),
  describe: async ({ path }) => invoke("describe", { path, schema_path: null }),
  async open(request) {
    const { path, create = true, initial_json: initialJson } = request;
    const document = await room.sync.open(path, {
      create,
      initialJson,
      schema: schemaOf(request),
    });
    documents.set(path, document);
    return viewJson(document.schema, document.root, false);
  },
  close: async ({ path }) => room.sync.close(path),
  sync: async ({ path, data }) => room.sync.sync(path, bytes(data)),
  /** Sends the whole replica: what mends a server that was restored from an older copy. */
  sync_state: async ({ path }) =>
    room.sync.sync(path, new TextEncoder().encode(documents.get(path).getState())),
  /** What the SDK shows. */
  async json({ path, ids = false }) {
    const document = documents.get(path);
    return viewJson(document.schema, document.root, ids);
  },
  /** What the replica holds. The SDK's own view, which it keeps by deltas, can differ from it after an
   *  update that deletes in several places. */
  async replica({ path, ids = false }) {
    const document = documents.get(path);
    const copy = new Y.Doc();
    Y.applyUpdate(copy, bytes(document.getState()));
    const root = copy.get("xml", Y.XmlElement);
    return replicaJson(document.schema, document.schema.root.tagName, root, ids);
  },
  /** Whether what is written reaches the server. */
  is_streaming: async ({ path }) => room.sync._documentStreams[path] != null,
  /** Why the document no longer syncs; the SDK tells nobody. */
  stream_error: async ({ path }) => room.sync._documentStreams[path]?._error?.stack ?? null,
  schema: async ({ path }) => documents.get(path).schema.toJson(),
  append: async (request) =>
    node(request).createChildElement(request.tag, request.attributes ?? {}).id,
  append_json: async (request) => node(request).appendJson(request.json).id,
  insert: async (request) =>
    node(request).createChildElementAt(request.index, request.tag, request.attributes ?? {}).id,
  set: async (request) => node(request).setAttribute(request.name, request.value),
  delete: async (request) => node(request).delete(),
  text_insert: async (request) =>
    node(request).getChildren()[0].insert(request.index, request.text),
  text_delete: async (request) =>
    node(request).getChildren()[0].delete(request.index, request.length),
};

const storage = {
  upload: async ({ path, data, overwrite = false }) =>
    room.storage.upload(path, bytes(data), { overwrite }),
  async download({ path }) {
    const file = await room.storage.download(path);
    return { name: file.name, mime_type: file.mimeType, data: base64(file.data) };
  },
  exists: async ({ path }) => room.storage.exists(path),
  stat: async ({ path }) => entryJson(await room.storage.stat(path)),
  list: async ({ path }) => (await room.storage.list(path)).map(entryJson),
  delete_path: async ({ path, recursive = null }) => room.storage.delete(path, { recursive }),
  move_path: async ({ source, destination, overwrite = false }) =>
    room.storage.move(source, destination, { overwrite }),
  download_url: async ({ path }) => room.storage.downloadUrl(path),
  deploy_schema: async (request) =>
    deploySchema({ room, schema: schemaOf(request), name: request.name }),
};

const messaging = {
  async enable() {
    room.messaging.enable();
    while (!room.messaging.online) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  },
  disable: async () => room.messaging.disable(),
  participants: async () =>
    room.messaging.getParticipants().map((participant) => ({
      id: participant.id,
      role: participant.role,
      attributes: participant._attributesSnapshot(),
    })),
  send: async ({ to, type, message, attachment }) =>
    room.messaging.sendMessage({
      to: room.messaging.getParticipant(to),
      type,
      message,
      attachment: bytes(attachment),
    }),
  broadcast: async ({ type, message }) => room.messaging.broadcastMessage({ type, message }),
  set_attribute: async ({ name, value }) => room.localParticipant.setAttribute(name, value),
};

void serve({ ...connection, ...sync, ...storage, ...messaging });
