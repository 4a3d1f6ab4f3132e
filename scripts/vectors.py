#!/usr/bin/env python3
"""Makes record/testdata/vectors.json from docs/formats.md alone: an
implementation that shares no line with the Go code."""
import base64, hashlib, json, struct, sys

def lp(b):
    return struct.pack(">I", len(b)) + b

def key_id(sigtype, key):
    return hashlib.sha256(b"sealtap/key/v1\0" + bytes([sigtype]) + key).digest()

def commitment(salt, producer, incarnation, sequence, field, typ, value):
    return hashlib.sha256(
        b"sealtap/field/v1\0" + salt + lp(producer) + lp(incarnation)
        + lp(struct.pack(">Q", sequence)) + lp(field) + lp(typ) + lp(value)).digest()

def leaf(entry):
    return hashlib.sha256(b"\0" + entry).digest()

def root(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + root(leaves[:k]) + root(leaves[k:])).digest()

producer, incarnation = bytes(range(32)), bytes(range(100, 116))
salt = bytes(range(200, 232))
b64 = lambda b: base64.b64encode(b).decode()
fields = []
for name, seq, field, typ, value, why in [
    ("plain", 7, "query", "string", b"q=1", "the usual case"),
    ("other-sequence", 8, "query", "string", b"q=1", "an opening moved to another record"),
    ("other-field", 7, "path", "string", b"q=1", "an opening moved to another field"),
    ("other-type", 7, "query", "list", b"q=1", "an opening read as another type"),
    ("empty", 7, "query", "string", b"", "present but empty is not absent"),
    ("shifted-boundary", 7, "quer", "string", b"yq=1", "bytes moved between neighbouring parts"),
    ("large-sequence", 2**64 - 1, "source", "string", "é☃".encode(), "the ends of ranges"),
]:
    fields.append({"name": name, "attack": why, "sequence": seq, "field": field, "type": typ,
                   "value": b64(value), "commitment": b64(commitment(salt, producer, incarnation, seq, field.encode(), typ.encode(), value))})
entries = [b"\x01\x02" + bytes([i]) * i for i in range(9)] + [b"\x01\x02" + b"x" * 5000]
json.dump({
    "producer": b64(producer), "incarnation": b64(incarnation), "salt": b64(salt),
    "origin": "sealtap/producer/" + producer.hex() + "/" + incarnation.hex(),
    "key_ids": [{"type": t, "key": b64(producer), "id": key_id(t, producer).hex()} for t in (1, 4)],
    "commitments": fields,
    "tree": [{"entry": b64(e), "leaf": b64(leaf(e)), "root": b64(root([leaf(x) for x in entries[:i + 1]]))} for i, e in enumerate(entries)],
}, sys.stdout, indent=1)
print()
