#!/usr/bin/env python3
"""Verifies Sealtap evidence with nothing but Python's standard library.

    verify_evidence.py POLICY EVIDENCE...

Written from docs/formats.md and the C2SP specifications alone, it shares no line with the Go code: it shows that
those pages are enough, and that two implementations agree. It prints PASS or FAIL for each file; exit code 0 if all
pass, 1 if one fails, 2 for a policy that cannot be used. Unlike `sealtap verify` it insists on a pinned operator.
It does not know ML-DSA-44 (type 0x06): such a witness counts as one that has not cosigned, and of a log's keys only
those of type 0x01 count. Of records it reads what it
needs; it does not look into requests and responses. A policy is believed to be well-formed."""
import base64, functools, hashlib, re, struct, sys

SKEW = 5 * 10**9  # nanoseconds by which the clocks of producers and witnesses may differ


class Bad(Exception):
    pass


def need(ok, why):
    if not ok:
        raise Bad(why)


# --- Ed25519, RFC 8032 section 5.1.7; a point is (X, Y, Z, T) in extended coordinates ---
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def point(b):
    y = int.from_bytes(b, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if x * x % P != x2:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != x2 or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return (x, y, 1, x * y % P)


B = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


@functools.lru_cache(maxsize=4096)
def ed25519(public, message, sig):
    a, s = point(public), int.from_bytes(sig[32:], "little")
    if a is None or len(sig) != 64 or s >= L:
        return False
    h = int.from_bytes(hashlib.sha512(sig[:32] + public + message).digest(), "little") % L
    a = (P - a[0], a[1], 1, P - a[3])
    both, r = add(a, B), (0, 1, 1, 0)
    for i in range(252, -1, -1):  # s·B − h·A, both at once
        r = add(r, r)
        bits = (s >> i & 1) + 2 * (h >> i & 1)
        r = add(r, (None, B, a, both)[bits]) if bits else r
    inv = pow(r[2], -1, P)
    x, y = r[0] * inv % P, r[1] * inv % P
    return (y | (x & 1) << 255).to_bytes(32, "little") == sig[:32]


# --- small things ---
def unbase64(s, size=None, loose=False):
    try:
        b = base64.b64decode(s, validate=True)
    except ValueError:
        raise Bad("base64")
    need((loose or base64.b64encode(b).decode() == s) and size in (None, len(b)), "base64 of another length or spelling")
    return b


def number(s):
    need(re.fullmatch("0|[1-9][0-9]{0,19}", s) and int(s) < 2**63, "number " + s)
    return int(s)


def lp(b):
    return struct.pack(">I", len(b)) + b


def vkey(s):
    """signed-note, verifier keys: (text, name, key ID, type, public key)"""
    f = s.split("+", 2)
    need(len(f) == 3 and f[0] and not re.search(r"\s", f[0]) and re.fullmatch("[0-9a-f]{8}", f[1]), "vkey " + s)
    raw = unbase64(f[2])
    need(hashlib.sha256(f[0].encode() + b"\n" + raw).digest()[:4].hex() == f[1], "key ID of " + s)
    need(raw[0] in (1, 4, 6) and (raw[0] == 6 or len(raw) == 33), "type of " + s)
    p = raw[0] == 6 or point(raw[1:])
    for _ in range(3 * (raw[0] != 6)):
        p = p and add(p, p)
    need(p and (raw[0] == 6 or p[0] % P), "key of small order, or no point of the curve: " + s)
    return s, f[0], bytes.fromhex(f[1]), raw[0], raw[1:]


def key_id(key):
    return hashlib.sha256(b"sealtap/key/v1\0" + bytes([key[3]]) + key[4]).digest()


# --- C2SP signed-note, tlog-checkpoint, tlog-policy, tlog-proof ---
def note(raw):
    """(text, [(name, key ID, signature, whether its base64 is in the one spelling)])"""
    need(not any(ord(c) < 32 and c != "\n" for c in raw), "control character in a note")
    text, blank, sigs = raw.rpartition("\n\n")
    lines = sigs.split("\n")
    need(blank and text and len(lines) > 1 and lines.pop() == "", "not a signed note")
    out = []
    for line in lines:
        m = re.fullmatch(r"— ([^\s+]+) (\S+)", line)
        need(m, "signature line")
        sig = unbase64(m[2], loose=True)
        need(len(sig) > 4, "signature line")
        out.append((m[1], sig[:4], sig[4:], base64.b64encode(sig).decode() == m[2]))
    return text + "\n", out


def signed_by(raw, key):
    """The text of a note that carries exactly one signature, by key."""
    text, sigs = note(raw)
    need(len(sigs) == 1 and sigs[0][:2] == (key[1], key[2]) and sigs[0][3], "not signed by " + key[1] + " alone")
    need(ed25519(key[4], text.encode(), sigs[0][2]), "signature of " + key[1])
    return text


def checkpoint(text, seal=False):
    f = text.split("\n")
    need(len(f) >= 4 and all(f[:-1]) and not f[-1], "lines of a checkpoint")
    need(len(f) == 4 or not seal, "a seal has no extension lines")
    return f[0], number(f[1]), unbase64(f[2], 32)


class Policy:
    def __init__(self, text):
        self.logs, self.witnesses, self.groups, self.quorum, self.operator = {}, {}, {}, None, None
        for line in text.split("\n"):
            f = re.split("[ \t]+", line.strip(" \t"))
            if f[:2] == ["#", "sealtap-operator"]:
                need(self.operator is None and len(f) == 3, "operator")
                self.operator = vkey(f[2])
            elif not f[0] or f[0].startswith("#"):
                continue
            elif f[0] == "log":
                key = vkey(f[1])
                if key[3] == 1:  # another one of the log's keys may be of type 0x06
                    self.logs[key[1]] = key
            elif f[0] == "witness":
                self.witnesses[f[1]] = vkey(f[2])
            elif f[0] == "group":
                self.groups[f[1]] = ({"all": len(f) - 3, "any": 1}.get(f[2]) or number(f[2]), f[3:])
            elif f[0] == "quorum":
                self.quorum = f[1]
            else:
                raise Bad("line " + line)
        need(self.quorum and self.logs, "policy without quorum, or without a log whose key is of type 0x01")
        need(self.operator and self.operator[3] == 1, "policy pins no operator")

    def time(self, name, times):
        """When the witness or group had cosigned, or None."""
        if name in self.witnesses:
            return times.get(name)
        k, members = self.groups[name]
        seen = sorted(t for t in (self.time(m, times) for m in members) if t is not None)
        return seen[k - 1] if len(seen) >= k else None

    def verify(self, raw):
        """(log key, size, root, quorum's time in seconds or None): the log's signature must be good."""
        text, sigs = note(raw)
        origin, size, root = checkpoint(text)
        need(origin in self.logs, "log " + origin + " is not in the policy")
        log, logged, times = self.logs[origin], False, {}
        for name, kid, sig, exact in dict.fromkeys(sigs):
            if (name, kid) == (log[1], log[2]):
                need(exact and not logged and ed25519(log[4], text.encode(), sig), "signature of the log")
                logged = True
            for w, k in self.witnesses.items():
                if k[3] == 4 and (name, kid) == (k[1], k[2]):
                    need(exact and len(sig) == 72, "cosignature of " + w)
                    t = struct.unpack(">Q", sig[:8])[0]
                    message = f"cosignature/v1\ntime {t}\n{text}".encode()
                    need(t < 2**63 and ed25519(k[4], message, sig[8:]), "cosignature of " + w)
                    times.setdefault(w, t)  # of several by one witness the first counts
        times = {w: t for w, t in times.items() if t}  # 0 makes no statement about the newest tree
        need(logged, "not signed by the log")
        return log, size, root, None if self.quorum == "none" else self.time(self.quorum, times)


def tlog_proof(text):
    """(index, hashes, signed checkpoint)"""
    head, _, signed = text.partition("\n\n")
    f = head.split("\n")
    need(f[0] == "c2sp.org/tlog-proof@v1" and len(f) > 1 and f[1].startswith("index "), "not a tlog-proof")
    return number(f[1][6:]), [unbase64(h, 32) for h in f[2:]], signed


def included(entry, index, hashes, size, root):
    """RFC 9162 section 2.1.3.2; the trees are those of RFC 6962."""
    need(index < size, "index beyond the tree")
    fn, sn, r = index, size - 1, hashlib.sha256(b"\0" + entry).digest()
    for p in hashes:
        need(sn > 0, "inclusion proof is too long")
        if fn & 1 or fn == sn:
            r = hashlib.sha256(b"\1" + p + r).digest()
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = hashlib.sha256(b"\1" + r + p).digest()
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0 and r == root, "inclusion proof")


# --- entries ---
WIRE = {1: 2, 2: 2, 3: 0, 4: 1, 5: 2, 6: 2} | {k: 2 for k in range(16, 23)}  # of the fields of Record


def protobuf(b, wire={1: 2, 2: 2}):
    """{field number: [values]} of one message, refusing what somebody else could read differently"""
    out, i = {}, 0

    def varint():
        nonlocal i
        for n in range(10):
            need(i < len(b), "cut protobuf")
            i += 1
            if b[i - 1] < 128:
                need(n == 0 or b[i - 1], "varint is not the shortest")
                return sum((b[i - 1 - n + j] & 127) << 7 * j for j in range(n + 1))
        raise Bad("varint")

    while i < len(b):
        tag = varint()
        need(0 < tag >> 3 < 1 << 29 and wire.get(tag >> 3, tag & 7) == tag & 7, "wire type")
        if tag & 7 == 0:
            v = varint()
        else:
            n = {1: 8, 5: 4}.get(tag & 7) or (varint() if tag & 7 == 2 else len(b) + 1)
            need(i + n <= len(b), "cut protobuf, or a group")
            v, i = b[i : i + n], i + n
        out.setdefault(tag >> 3, []).append(v)
    return out


class Record:
    def __init__(self, entry):
        need(entry[:2] == b"\1\2", "not a record")
        f = protobuf(entry[2:], WIRE)
        need(all(len(v) == 1 for k, v in f.items() if k < 6 or 15 < k < 23), "field occurs twice")
        need(sum(k in f for k in range(16, 23)) <= 1, "more than one subject")
        one = lambda k, zero: f.get(k, [zero])[0]
        self.producer, self.incarnation, self.sequence = one(1, b""), one(2, b""), one(3, 0)
        need(len(self.producer) == 32 and len(self.incarnation) == 16, "record without stream")
        need(len(one(5, b"")) in (0, 16), "exchange")
        self.time = struct.unpack("<q", one(4, bytes(8)))[0]
        self.sealed = {}
        for m in map(protobuf, f.get(6, [])):
            need({1, 2} <= set(m) and len(m[1]) == len(m[2]) == 1 and m[1][0] not in self.sealed, "sealed field")
            self.sealed[m[1][0]] = m[2][0]
        beacon = protobuf(one(20, b""), {1: 2}).get(1, [b""])
        need(len(beacon) == 1, "field occurs twice")
        self.beacon = beacon[0].decode()
        self.origin = f"sealtap/producer/{self.producer.hex()}/{self.incarnation.hex()}"


def statement(entry, kind, first, key):
    need(entry[:2] == bytes([1, kind]), "not an entry of kind %d" % kind)
    f = signed_by(entry[2:].decode(), key)[:-1].split("\n")
    need(f[0] == first, "first line of a statement")
    return f[1:]


def verify(sections, openings, policy):
    entry, beacon_entry = (unbase64(sections.get(s, "\n")[:-1]) for s in ("entry", "beacon"))
    index, hashes, head = tlog_proof(sections["log.tlog-proof"])
    log, size, root, seen = policy.verify(head)
    need(seen is not None or policy.quorum == "none", "quorum not met")
    included(entry, index, hashes, size, root)

    def in_log(name, at=None):
        e = unbase64(sections[name][:-1])
        i, h, signed = tlog_proof(sections[name + ".tlog-proof"])
        need(signed == head and i == (i if at is None else at), name + " is proven elsewhere")
        included(e, i, h, size, root)
        return e, i

    first = in_log("genesis", 0)[0]
    lines = first.decode().split("\n")
    quantum = [vkey(x[4:]) for x in lines[2:3] if x.startswith("log ")]  # the log's second key, if it has one
    operator = vkey(lines[2 + len(quantum)].removeprefix("operator "))  # the pin may give it another name
    need(operator[3:] == policy.operator[3:], "genesis of another operator")
    genesis = statement(first, 0, "sealtap/genesis/v1", operator)
    need(all(k[1] == log[1] and k[3] == 6 for k in quantum), "second key of the log")
    if quantum:
        del genesis[1]
    need(genesis[:2] == ["log " + log[0], "operator " + operator[0]], "genesis of another log")
    if "log-key" in sections:
        more = statement(in_log("log-key")[0], 1, "sealtap/key-change/v1", operator)
        named = [vkey(x[4:]) for x in more[1:] if x.startswith("log ")]
        need(more[0] == "log " + log[1] and named and all(k[1] == log[1] and k[3] == 6 for k in named), "log-key")
    need(len(genesis) in (3, 4) and re.fullmatch(r"created \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", genesis[2]), "genesis")
    for line in genesis[3:]:  # the log before, which its own policy verifies
        need(line.startswith("predecessor "), "predecessor")
        body = note(unbase64(line[12:]).decode())[0].split("\n")
        need(len(body) >= 3 and body[0] != log[0], "predecessor")
    kind, producers = entry[1], entry[1] in (2, 3)
    need(entry[0] == 1 and len(entry) < 65536, "entry of another version")
    need(producers == ("key-change" in sections) and (kind == 2) == ("producer.tlog-proof" in sections), "sections")
    need((kind == 0) == (index == 0), "a log has one genesis, its first entry")
    need(kind == 2 or not openings and "beacon" not in sections, "sections")
    if kind == 1:
        need(statement(entry, 1, "sealtap/key-change/v1", operator)[0] == "log " + log[1], "another log's keys")
    if kind == 5:
        about = entry[2:].decode().split("\n")[0]
        need(about in ("sealtap/retention/v1", "sealtap/close/v1"), "statement of another kind")
        need(statement(entry, 5, about, operator)[0] == "log " + log[1], "statement about another log")
    if not producers:
        return f"an entry of kind {kind} at {index}"
    change, at = in_log("key-change")
    lines = statement(change, 1, "sealtap/key-change/v1", operator)
    need(lines[0] == "log " + log[1] and at < index, "key change of another log, or later than the entry")
    enrolled = [vkey(x[6:]) for x in lines[1:] if x.startswith("enrol ")]
    need(all(k[1].isprintable() and k[3] == 1 for k in enrolled + [operator, log]), "keys in statements")
    if kind == 3:
        body = entry[2:].decode()
        origin = note(body)[0].split("\n")[0]
        who = [k for k in enrolled if re.fullmatch(f"sealtap/producer/{key_id(k).hex()}/[0-9a-f]{{32}}", origin)]
        need(len(who) == 1, "producer of the seal is not enrolled")
        checkpoint(signed_by(body, who[0]), seal=True)
        return f"a seal of {who[0][1]} at {index}"
    who = verify_record(sections, openings, policy, Record(entry), entry, beacon_entry, enrolled, log, index, seen)
    return f"{who} at {index}"


def verify_record(sections, openings, policy, r, entry, beacon_entry, enrolled, log, index, seen):
    who = [k for k in enrolled if key_id(k) == r.producer]
    need(len(who) == 1, "producer is not enrolled")
    sequence, hashes, seal = tlog_proof(sections["producer.tlog-proof"])
    origin, sealed_size, sealed_root = checkpoint(signed_by(seal, who[0]), seal=True)
    need(origin == r.origin and sequence == r.sequence, "seal of another stream, or another sequence")
    included(entry, sequence, hashes, sealed_size, sealed_root)
    need(seen is None or r.time <= seen * 10**9 + SKEW, "time is after the checkpoint")
    for field, typ, salt, value in openings:
        c = hashlib.sha256(b"sealtap/field/v1\0" + salt + b"".join(map(lp, (
            r.producer, r.incarnation, struct.pack(">Q", r.sequence), field, typ, value)))).digest()
        need(r.sealed.pop(field, None) == c, "opening")
    if beacon_entry:
        b, (n, h, s) = Record(beacon_entry), tlog_proof(sections["beacon.tlog-proof"])
        # A checkpoint below the quorum of today's policy bounds no time: after is None.
        need(b.origin == r.origin and n == b.sequence < r.sequence and s == seal and b.beacon, "beacon")
        included(beacon_entry, n, h, sealed_size, sealed_root)
        other, older, _, after = policy.verify(b.beacon)
        need(other == log and older <= index, "beacon of another log, or of a later one")
        need(after is None or seen is None or after <= seen, "the beacon's checkpoint is younger than the log's")
        need(after is None or r.time >= after * 10**9 - SKEW, "time is before the beacon")
    return f"record {r.sequence} of {who[0][1]}"


ORDER = ["entry", "opening", "log.tlog-proof", "producer.tlog-proof", "beacon", "beacon.tlog-proof",
         "key-change", "key-change.tlog-proof", "log-key", "log-key.tlog-proof", "genesis", "genesis.tlog-proof"]


def evidences(text):
    """(sections, openings) of each evidence in a file"""
    parts = ("\n" + text).split("\nsealtap/evidence/v1\n\n")
    need(parts[0] == "" and len(parts) > 1 and text.endswith("\n") and "\r" not in text, "not evidence")
    for part in parts[1:]:
        part = part if part.endswith("\n") else part + "\n"
        found = re.split(r"^-- (.*) --\n", part, flags=re.M)
        names, bodies = found[1::2], found[2::2]
        need(found[0] == "" and set(names) <= set(ORDER) and names == sorted(names, key=ORDER.index), "sections")
        need(all(names.count(n) == 1 for n in names if n != "opening"), "a section twice")
        need({"entry", "log.tlog-proof", "genesis"} <= set(names), "a section is missing")
        pairs = ("beacon", "key-change", "log-key", "genesis")
        need(all((n + ".tlog-proof" in names) == (n in names) for n in pairs), "sections")
        openings = [b for n, b in zip(names, bodies) if n == "opening"]
        split = [o[:-1].split(" ") for o in openings]
        need(all(len(o) == 4 for o in split), "opening")
        openings = [(f.encode(), t.encode(), unbase64(salt, 32), unbase64(value)) for f, t, salt, value in split]
        yield dict(zip(names, bodies)), openings


def main(policy_file, *files):
    try:
        policy = Policy(open(policy_file, newline="", encoding="utf-8", errors="surrogateescape").read())
    except (Bad, OSError, KeyError, IndexError, ValueError) as e:
        print(f"policy: {e}", file=sys.stderr)
        return 2
    failed = 0
    for name in files:
        try:
            done = [verify(s, o, policy) for s, o in evidences(open(name, "rb").read().decode())]
            print(f"PASS {name}: {'; '.join(done)}")
        except (Bad, OSError, KeyError, IndexError, ValueError, struct.error) as e:
            failed = 1
            print(f"FAIL {name}: {e}")
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
