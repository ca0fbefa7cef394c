"""``penstock hash-key``: an entry for the file of ``--api-keys``, which holds hashes and no keys."""

from __future__ import annotations

import hashlib
import secrets
import sys

import yaml


def hash_key(name: str, key: str | None, max_concurrency: int | None) -> int:
    """Print the entry to standard output; a key made here goes to standard error, so ``>> keys.yaml`` is safe.

    Args:
        name: the tenant.
        key: the key, ``"-"`` to read it from standard input, or None to make one of 256 random bits.
        max_concurrency: most requests of this key at a time; None for no limit.

    Returns:
        The exit status: 0, or 2 where the name cannot be used or the key is empty.
    """
    if not name or len(name) > 64 or not name.isprintable():
        print("penstock: error: the name must be text of 1 to 64 characters", file=sys.stderr)
        return 2
    if key == "-":
        key = sys.stdin.readline().strip()
    elif key is None:
        key = f"sk-{secrets.token_urlsafe(32)}"
        print(f"The key, shown this once: {key}", file=sys.stderr)
    if not key:
        print("penstock: error: the key is empty", file=sys.stderr)
        return 2
    entry: dict[str, str | int] = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()}
    if max_concurrency is not None:
        entry["max_concurrency"] = max_concurrency
    print(yaml.safe_dump([entry], sort_keys=False), end="")
    return 0
