"""A bare pycrdt replica, driven by one JSON request per line on stdin.

The operations and their arguments are those of `node/replica.cjs`; places in texts are UTF-8 bytes. Python
has no access to attributes of the root type `xml`, so that the root's are those of `xml.attributes`.
"""

import base64
import json
import logging
import sys

from pycrdt import Doc, Map, XmlElement, XmlFragment, XmlText, merge_updates

logging.basicConfig(stream=sys.stderr, level=logging.INFO)

ROOT = "xml"
ROOT_ATTRIBUTES = "xml.attributes"
# The update of a transaction that changed nothing.
NOTHING = b"\x00\x00"


def encode(update):
    return base64.b64encode(update).decode()


def decode(text):
    return base64.b64decode(text)


class Tree:
    """A document and the two root types that hold an element tree."""

    def __init__(self, **options):
        self.doc = Doc(**options)
        self.root = self.doc.get(ROOT, type=XmlFragment)
        self.root_attributes = self.doc.get(ROOT_ATTRIBUTES, type=Map)

    def find(self, path):
        element = self.root
        for index in path:
            element = element.children[index]
        return element

    def view(self):
        return {
            "root": None,
            "beside": self.root_attributes.to_py(),
            "children": [describe(child) for child in self.root.children],
        }


def describe(element):
    children = list(element.children)
    texts = [child for child in children if isinstance(child, XmlText)]
    return {
        "tag": element.tag,
        "attributes": dict(element.attributes),
        "children": [describe(child) for child in children if isinstance(child, XmlElement)],
        "runs": [[text, attributes or {}] for text, attributes in texts[0].diff()] if texts else [],
    }


def build(parent, index, element):
    made = parent.children.insert(index, XmlElement(element["tag"]))
    for name, value in element["attributes"].items():
        made.attributes[name] = value
    if element["tag"] == "text":
        text = made.children.append(XmlText())
        at = 0
        for run, attributes in element["runs"]:
            text.insert(at, run, attributes)
            at += len(run.encode())
    for position, child in enumerate(element["children"]):
        build(made, position, child)


class Replica:
    def op_reset(self, request):
        self.tree = Tree(client_id=request["client"])
        self.emitted = []
        self.subscription = self.tree.doc.observe(self.record)

    def record(self, event):
        if event.update != NOTHING:
            self.emitted.append(event.update)

    def sent(self):
        emitted, self.emitted = self.emitted, []
        return [encode(update) for update in emitted]

    def op_edit(self, request):
        with self.tree.doc.transaction():
            for change in request["changes"]:
                getattr(self, "do_" + change["do"])(change)
        return self.sent()

    def do_insert(self, change):
        build(self.tree.find(change["path"]), change["index"], change["element"])

    def do_delete(self, change):
        *parent, index = change["path"]
        del self.tree.find(parent).children[index]

    def do_set(self, change):
        self.attributes(change["path"])[change["name"]] = change["value"]

    def do_remove(self, change):
        del self.attributes(change["path"])[change["name"]]

    def do_insert_text(self, change):
        text = self.tree.find(change["path"]).children[0]
        text.insert(change["at"], change["text"], change["attributes"])

    def do_delete_text(self, change):
        del self.tree.find(change["path"]).children[0][change["from"] : change["to"]]

    def do_format_text(self, change):
        text = self.tree.find(change["path"]).children[0]
        text.format(change["from"], change["to"], change["attributes"])

    def attributes(self, path):
        return self.tree.find(path).attributes if path else self.tree.root_attributes

    def op_apply(self, request):
        self.tree.doc.apply_update(decode(request["update"]))
        return self.sent()

    def op_state_vector(self, request):
        return encode(self.tree.doc.get_state())

    def op_diff(self, request):
        return encode(self.tree.doc.get_update(decode(request["vector"])))

    def op_state(self, request):
        return encode(self.tree.doc.get_update())

    def op_merge(self, request):
        return encode(merge_updates(*map(decode, request["updates"])))

    def op_view(self, request):
        return self.tree.view()

    def op_load(self, request):
        fresh = Tree()
        fresh.doc.apply_update(decode(request["update"]))
        return fresh.view()


def main():
    replica = Replica()
    for line in sys.stdin:
        request = json.loads(line)
        reply = {"id": request["id"]}
        try:
            reply["ok"] = getattr(replica, "op_" + request["op"])(request)
        # A panic in the native part is no `Exception`.
        except BaseException as error:
            logging.exception("%s failed", request["op"])
            reply["error"] = {"message": f"{type(error).__name__}: {error}", "code": None}
        print(json.dumps(reply), flush=True)


main()
