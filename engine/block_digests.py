"""Digests of full blocks of token ids: the names under which their keys and values are found again.

A digest covers everything before the block as well (hash chaining, as in vLLM's automatic prefix caching), so two
equal digests mean equal keys and values. The engine names blocks by them and the gateway asks where they are: both
compute them here.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

DIGEST_SIZE = 16
TOKEN_SIZE = 4
"""Bytes of a token id as it is hashed: 32 bits in the machine's own order."""


def root_digest(cache_salt: str) -> bytes:
    """Start of a chain: sequences share blocks only where their salts are equal."""
    return blake2b(cache_salt.encode(), digest_size=DIGEST_SIZE).digest()


def extend_chain(chain: list[bytes], root: bytes, tokens: memoryview, block_size: int, length: int) -> None:
    """Append digests to ``chain`` until it has ``length``; ``tokens`` are all token ids as bytes, from the first on."""
    size = block_size * TOKEN_SIZE
    parent = chain[-1] if chain else root
    for begin in range(len(chain) * size, length * size, size):
        parent = blake2b(parent + tokens[begin : begin + size], digest_size=DIGEST_SIZE).digest()
        chain.append(parent)


def prompt_chain(token_ids: Sequence[int], cache_salt: str, block_size: int) -> list[bytes]:
    """Digests of what a sequence with these tokens may take over: all full blocks before its last token."""
    chain: list[bytes] = []
    tokens = memoryview(array("i", token_ids).tobytes())
    extend_chain(chain, root_digest(cache_salt), tokens, block_size, reusable_blocks(len(token_ids), block_size))
    return chain


def reusable_blocks(num_tokens: int, block_size: int) -> int:
    """The last token is never taken over: the step that samples must compute something."""
    return max(0, num_tokens - 1) // block_size
