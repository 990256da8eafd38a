"""Checks a receipt, or that one head continues another, without us: python check_receipt.py FILE."""

import hashlib
import json
import sys
from pathlib import Path


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def climb(node: int, last: int, start: bytes, path: list[str]) -> tuple[str, str]:
    """The roots of the older and the newer tree that a path leads to (RFC 9162, 2.1.3.2 and 2.1.4.2)."""
    older = newer = start
    for step in map(bytes.fromhex, path):
        if last == 0:
            sys.exit("NOT PROVEN: a path is too long")
        if node & 1 or node == last:
            older, newer = sha(b"\1", step, older), sha(b"\1", step, newer)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            newer = sha(b"\1", newer, step)
        node, last = node >> 1, last >> 1
    return (older.hex(), newer.hex()) if last == 0 else ("", "")


proof = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
if not (proof.get("postings") or "second" in proof):
    sys.exit("NOT PROVEN: this is neither a receipt nor a proof that one head continues another")
for one in proof.get("postings", []):
    leaf = sha(b"\0", bytes.fromhex(one["nonce"]), sha(one["posting"].encode()))
    if climb(one["leaf_index"], proof["head"]["tree_size"] - 1, leaf, one["path"])[1] != proof["head"]["root_hash"]:
        sys.exit("NOT PROVEN: this posting is not in the ledger of the head: " + one["posting"])
    print("in the ledger:", one["posting"])
if "second" in proof and proof["first"] != proof["second"]:
    node, last = proof["first"]["tree_size"] - 1, proof["second"]["tree_size"] - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    path = proof["path"] if node else [proof["first"]["root_hash"], *proof["path"]]
    if climb(node, last, bytes.fromhex(path[0]), path[1:]) != (
        proof["first"]["root_hash"],
        proof["second"]["root_hash"],
    ):
        sys.exit("NOT PROVEN: the second ledger does not continue the first")
for head in (proof.get(name) for name in ("head", "first", "second") if name in proof):
    print(f"head {head['tree_size']}:{head['root_hash']}", head.get("published_at", ""))
