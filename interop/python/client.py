"""A participant through the published Python SDK, driven by one JSON request per line on stdin.

Each request `{"id", "op", ...}` is answered by `{"id", "ok"}` or `{"id", "error"}` on stdout, in order.
The operations and their arguments are those of `node/client.cjs`.
"""

import asyncio
import base64
import json
import logging
import sys

from meshagent.api import RoomClient, WebSocketClientProtocol
from meshagent.api.helpers import deploy_schema
from meshagent.api.runtime import runtime
from meshagent.api.schema import MeshSchema

logging.basicConfig(stream=sys.stderr, level=logging.INFO)


def schema_of(request):
    value = request.get("schema")
    return None if value is None else MeshSchema.from_json(value)


def entry_json(entry):
    if entry is None:
        return None
    return {
        "name": entry.name,
        "is_folder": entry.is_folder,
        "size": entry.size,
        "created": entry.created_at is not None,
        "updated": entry.updated_at is not None,
    }


def participant_json(participant):
    return {
        "id": participant.id,
        "role": participant.role,
        "attributes": participant.attributes,
    }


class Client:
    def __init__(self):
        self.room = None
        self.documents = {}
        self.events = []

    # --- the connection

    async def op_connect(self, request):
        if "url" in request:
            protocol = WebSocketClientProtocol(
                url=request["url"], token=request["token"]
            )
            self.room = RoomClient(protocol_factory=protocol.create_factory())
        else:
            self.room = RoomClient()
        await self.room.__aenter__()
        for kind in ("file.updated", "file.deleted", "file.moved"):
            self.room.storage.on(kind, self._recorder(kind))
        for kind in ("participant_added", "participant_removed"):
            self.room.messaging.on(kind, self._participant_recorder(kind))
        self.room.messaging.on("message", self._record_message)
        self.room.on("room.status", self._recorder("room.status"))
        local = self.room.local_participant
        return {
            "room_name": self.room.room_name,
            "room_url": self.room.room_url,
            "session_id": self.room.session_id,
            "participant_id": local.id,
            "attributes": local.attributes,
        }

    async def op_disconnect(self, request):
        await self.room.__aexit__(None, None, None)

    async def op_status(self, request):
        return {"connected": self.room.is_connected, "closed": self.room.is_closed}

    async def op_invoke(self, request):
        content = await self.room.invoke(
            toolkit=request["toolkit"], tool=request["tool"], input=request["input"]
        )
        return getattr(content, "json", None)

    async def op_list_toolkits(self, request):
        toolkits = await self.room.list_toolkits()
        return {
            toolkit.name: {tool.name: tool.input_schema for tool in toolkit.tools}
            for toolkit in toolkits
        }

    async def op_events(self, request):
        return self.events

    def _recorder(self, kind):
        return lambda **event: self.events.append({"kind": kind, **event})

    def _participant_recorder(self, kind):
        return lambda participant: self.events.append(
            {"kind": kind, "participant_id": participant.id}
        )

    def _record_message(self, message):
        self.events.append(
            {
                "kind": "message",
                "type": message.type,
                "message": message.message,
                "from": message.from_participant_id,
                "attachment": base64.b64encode(message.attachment or b"").decode(),
            }
        )

    # --- documents

    async def op_create(self, request):
        await self.room.sync.create(
            path=request["path"], json=request.get("json"), schema=schema_of(request)
        )

    async def op_describe(self, request):
        return await self.room.sync.describe(path=request["path"])

    async def op_open(self, request):
        path = request["path"]
        self.documents[path] = await self.room.sync.open(
            path=path,
            create=request.get("create", True),
            initial_json=request.get("initial_json"),
            schema=schema_of(request),
        )
        return self.documents[path].root.to_json()

    async def op_close(self, request):
        await self.room.sync.close(path=request["path"])

    async def op_sync(self, request):
        data = base64.b64decode(request["data"])
        await self.room.sync.sync(path=request["path"], data=data)

    async def op_sync_state(self, request):
        """Sends the whole replica: what mends a server that was restored from an older copy."""
        state = self.documents[request["path"]].get_state()
        data = base64.standard_b64encode(state)
        await self.room.sync.sync(path=request["path"], data=data)

    async def op_json(self, request):
        """What the SDK shows."""
        root = self.documents[request["path"]].root
        return root.to_json(include_ids=request.get("ids", False))

    async def op_replica(self, request):
        """What the replica holds. The SDK's own view, which it keeps by deltas, can differ from it
        after an update that deletes in several places."""
        document = self.documents[request["path"]]
        fresh = runtime.new_document(schema=document.schema, data=document.get_state())
        try:
            return fresh.root.to_json(include_ids=request.get("ids", False))
        finally:
            fresh.close()

    async def op_is_streaming(self, request):
        """Whether what is written reaches the server."""
        return request["path"] in self.room.sync._document_streams

    async def op_stream_error(self, request):
        """Why the document no longer syncs; the SDK tells nobody."""
        stream = self.room.sync._document_streams.get(request["path"])
        return None if stream is None or stream.error is None else repr(stream.error)

    async def op_schema(self, request):
        return self.documents[request["path"]].schema.to_json()

    def _node(self, request):
        root = self.documents[request["path"]].root
        node = request.get("node")
        found = root if node is None else root.get_node_by_id(node)
        if found is None:
            raise LookupError(f"there is no element {node}")
        return found

    async def op_append(self, request):
        child = self._node(request).append_child(
            tag_name=request["tag"], attributes=request.get("attributes", {})
        )
        return child.id

    async def op_append_json(self, request):
        return self._node(request).append_json(request["json"]).id

    async def op_insert(self, request):
        child = self._node(request).insert_child_at(
            request["index"], request["tag"], request.get("attributes", {})
        )
        return child.id

    async def op_set(self, request):
        self._node(request).set_attribute(request["name"], request["value"])

    async def op_delete(self, request):
        self._node(request).delete()

    async def op_text_insert(self, request):
        self._node(request).get_children()[0].insert(request["index"], request["text"])

    async def op_text_delete(self, request):
        self._node(request).get_children()[0].delete(
            request["index"], request["length"]
        )

    # --- storage

    async def op_upload(self, request):
        await self.room.storage.upload(
            path=request["path"],
            data=base64.b64decode(request["data"]),
            overwrite=request.get("overwrite", False),
        )

    async def op_download(self, request):
        file = await self.room.storage.download(path=request["path"])
        return {
            "name": file.name,
            "mime_type": file.mime_type,
            "data": base64.b64encode(file.data).decode(),
        }

    async def op_exists(self, request):
        return await self.room.storage.exists(path=request["path"])

    async def op_stat(self, request):
        return entry_json(await self.room.storage.stat(path=request["path"]))

    async def op_list(self, request):
        entries = await self.room.storage.list(path=request["path"])
        return [entry_json(entry) for entry in entries]

    async def op_delete_path(self, request):
        await self.room.storage.delete(
            request["path"], recursive=request.get("recursive")
        )

    async def op_move_path(self, request):
        await self.room.storage.move(
            source_path=request["source"],
            destination_path=request["destination"],
            overwrite=request.get("overwrite", False),
        )

    async def op_download_url(self, request):
        return await self.room.storage.download_url(path=request["path"])

    async def op_deploy_schema(self, request):
        await deploy_schema(
            room=self.room, schema=schema_of(request), name=request["name"]
        )

    # --- messaging

    async def op_enable(self, request):
        await self.room.messaging.enable()
        while not self.room.messaging.online:
            await asyncio.sleep(0.02)

    async def op_disable(self, request):
        await self.room.messaging.disable()

    async def op_participants(self, request):
        return [participant_json(p) for p in self.room.messaging.get_participants()]

    async def op_send(self, request):
        await self.room.messaging.send_message(
            to=self.room.messaging.get_participant(request["to"]),
            type=request["type"],
            message=request["message"],
            attachment=base64.b64decode(request["attachment"]),
        )

    async def op_broadcast(self, request):
        await self.room.messaging.broadcast_message(
            type=request["type"], message=request["message"]
        )

    async def op_set_attribute(self, request):
        self.room.local_participant.set_attribute(request["name"], request["value"])


async def main():
    client = Client()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        reply = {"id": request["id"]}
        try:
            reply["ok"] = await getattr(client, "op_" + request["op"])(request)
        except Exception as error:
            logging.exception("%s failed", request["op"])
            code = getattr(error, "code", None)
            reply["error"] = {
                "message": str(error),
                "code": None if code is None else int(code),
            }
        print(json.dumps(reply), flush=True)


asyncio.run(main())
