"""Which model and tokenizer a folder holds: whether another process may go on with what one has begun."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

PAGE = 4096
PAGES = 256
"""Read of each file of weights: training changes tensors as a whole, so a sample tells two models apart."""


def model_identity(folder: Path) -> str:
    """A digest of the files that say what the model's tokens are, and of names, sizes and samples of its weights.

    Equal for copies of a model. Of a file of 5 GB it reads 1 MiB. What is missing or cannot be read is left to the
    engine, which says so.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in ("config.json", "tokenizer.json", "tokenizer.model"):
        with suppress(FileNotFoundError):
            digest.update((folder / name).read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        with suppress(OSError):
            _sample(digest, file)
    return digest.hexdigest()


def _sample(digest: hashlib.blake2b, file: Path) -> None:
    with file.open("rb", buffering=0) as weights:
        size = weights.seek(0, 2)
        digest.update(f"{file.name} {size} ".encode())
        last = max(size - PAGE, 0)
        # Evenly, from the first page to the last one; of a small file, all of it.
        for offset in sorted({last * number // (PAGES - 1) for number in range(PAGES)}):
            weights.seek(offset)
            digest.update(weights.read(PAGE))
