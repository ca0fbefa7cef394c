"""Checkpoints in safetensors, one file or sharded, copied straight into a model's (merged) parameters.

A checkpoint that does not hold exactly the model's weights stops the start with a list of what is wrong: random
weights must never answer a request. A rank reads its own part of each tensor alone. Layer by layer the weights are
read, and at once packed (and quantized): at its peak, loading takes the packed weights, one layer as the checkpoint has
it and ``MAPPED`` bytes of a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import EngineError, ModelError
from engine.layers.base import Layer, WeightSlot
from engine.models.base import Model
from engine.models.hf_config import HFConfig
from engine.parallel import Span
from kernels.ops.linear import GROUP, WeightFormat

Progress: TypeAlias = Callable[[str, int, int, str], None]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""safetensors' names of the dtypes a weight may have."""
DTYPES_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
BITS: dict[WeightFormat, float] = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "int4": 4 + 16 / GROUP}
"""Of a weight in each format, with its part in the scale of a group."""
TOLERATED_SUFFIX = ".rotary_emb.inv_freq"
"""Buffers that old checkpoints saved and that follow from the config; transformers ignores them as well."""
ROWS = 1024
"""Rows of a matrix that are compared at once."""
LISTED = 12
"""Lines a list of errors shows of each kind."""
PAGE, STRIDE = 4096, 1 << 20
"""The digest of the weights reads a page of every mebibyte."""
MAPPED = 1 << 26
"""Bytes read from a file before it is mapped anew, which lets go of the pages that were read."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint, as the header of its file describes it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it."""


class Checkpoint:
    """The tensors of a folder by name; opening one reads the headers alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, StoredTensor] = {}
        """In the order in which they lie in the files."""
        self._opened: Any = None
        self._file, self._read = folder, 0
        for file in _files(folder):
            with _readable(file):
                opened: Any = safe_open(file, framework="pt", device="cpu")
                for name in opened.offset_keys():
                    part = opened.get_slice(name)
                    self.tensors[name] = StoredTensor(file, tuple(part.get_shape()), part.get_dtype())

    def dtype(self) -> torch.dtype:
        """Of most of its tensors. Raises ModelError where that is none of a weight's."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + 1
        name = max(counts, key=lambda name: counts[name], default="missing")
        if name not in DTYPES:
            raise ModelError(f"{self.folder}: the dtype of the weights is {name}; supported are {', '.join(DTYPES)}")
        return DTYPES[name]

    def read(self, name: str, part: Sequence[Span] = ()) -> Tensor:
        """A view of the mapped file, of all or a part of each dimension. Let go of it before the next one is read."""
        file = self.tensors[name].file
        with _readable(file):
            if self._opened is None or file != self._file or self._read >= MAPPED:
                self.close()
                self._opened, self._file = safe_open(file, framework="pt", device="cpu"), file
            tensor: Tensor
            if all(len(span) == span.whole for span in part):
                tensor = self._opened.get_tensor(name)
            else:
                tensor = self._opened.get_slice(name)[tuple(span.slice for span in part)]
        self._read += _bytes(tensor)
        return tensor

    def digest(self) -> str:
        """Of every tensor's name, shape, dtype and a sample of its bytes."""
        digest = hashlib.sha256()
        for name in self.tensors:
            _update(digest, name, self.read(name))
        self.close()
        return digest.hexdigest()

    def close(self) -> None:
        """Let go of the mapped file."""
        self._opened, self._read = None, 0


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ModelError(f"{file} is missing") from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} is not a whole safetensors file: {error}") from error


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        others = ", ".join(sorted(file.name for file in folder.glob("*.bin")))
        hint = f"; weights in {others} must be converted to safetensors" if others else ""
        raise ModelError(f"{folder} holds neither {SINGLE} nor {INDEX}{hint}")
    try:
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder / INDEX} cannot be read: {error!r}") from error
    return [folder / name for name in sorted(names)]


def resolve_dtype(asked: str, config: HFConfig, checkpoint: Checkpoint | None) -> torch.dtype:
    """The dtype of the engine's weights: as asked for; with ``auto`` the config's, else that of the tensors."""
    name = config.get("dtype", str) or config.get("torch_dtype", str) if asked == "auto" else asked
    if name is None:
        return torch.float32 if checkpoint is None else checkpoint.dtype()
    if name not in DTYPES_BY_NAME:
        raise config.error("dtype", f"is {name}; supported are {', '.join(DTYPES_BY_NAME)}")
    return DTYPES_BY_NAME[name]


def load_weights(model: Model, checkpoint: Checkpoint, progress: Progress) -> None:
    """Fill and pack every layer of the model. ``check`` comes first: what is missing is a KeyError here."""
    places = {name: place for place, name in enumerate(checkpoint.tensors)}
    repeated = {name: other for other, name in model.tied_weights.items() if other in checkpoint.tensors}

    def fill(slot: WeightSlot) -> None:
        slot.destination.copy_(checkpoint.read(slot.name, slot.part))
        if slot.name in repeated:
            _check_repeated(checkpoint, repeated[slot.name], slot)

    def place(layer: Layer) -> int:
        return min(places[slot.name] for slot in layer.weights())

    fill_and_pack(sorted(model.layers(), key=place), fill, progress)
    checkpoint.close()


def fill_and_pack(layers: Iterable[Layer], fill: Callable[[WeightSlot], None], progress: Progress) -> None:
    """Layer by layer: ``fill`` each weight, then pack. A layer's own memory is free before the next is touched.

    A mistake that packing finds (what a quantization cannot do, say) is raised with the layer's name.
    """
    layers = list(layers)
    done, total = 0, sum(_bytes(slot.destination) for layer in layers for slot in layer.weights())
    for layer in layers:
        # Nothing here may hold on to a slot: its destination keeps the memory of the layer.
        names, filled = _fill(layer, fill)
        try:
            layer.pack()
        except EngineError as error:
            raise type(error)(f"{names}: {error}") from error
        done += filled
        progress("weights", done, total, "bytes")


def _fill(layer: Layer, fill: Callable[[WeightSlot], None]) -> tuple[str, int]:
    """Names of the layer's weights, and their bytes."""
    names, filled = [], 0
    for slot in layer.weights():
        fill(slot)
        names.append(slot.name)
        filled += _bytes(slot.destination)
    return ", ".join(names), filled


def parameters(model: Model) -> int:
    """How many numbers of weights this rank has. Asked before they are loaded."""
    return sum(slot.destination.numel() for layer in model.layers() for slot in layer.weights())


def held_bytes(model: Model) -> int:
    """What the weights take now: packed, quantized, padded."""
    storages = [tensor.untyped_storage() for layer in model.layers() for tensor in _tensors(vars(layer))]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    """In a layer's members, in its parts (layers as well) and in a provider's form of a weight."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in fields(value)])
    elif hasattr(value, "pack") and hasattr(value, "weights"):
        yield from _tensors(vars(value))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _update(digest: Any, name: str, tensor: Tensor) -> None:
    """Add a tensor's name, shape and dtype and a sample of its bytes."""
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    values = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    for start in range(0, len(values), STRIDE):
        digest.update(values[start : start + PAGE].tobytes())
    digest.update(values[-PAGE:].tobytes())


def check(model: Model, checkpoint: Checkpoint) -> None:
    """Raises ModelError where names, shapes or dtypes are not exactly those of the model, which is whole."""
    slots = {slot.name: slot for layer in model.layers() for slot in layer.weights()}
    stored, tied = checkpoint.tensors, model.tied_weights
    missing = [f"{name}: expected {slot.shape}" for name, slot in slots.items() if name not in stored]
    extra = [
        f"{name}: found {tensor.shape}"
        for name, tensor in stored.items()
        if name not in slots and name not in tied and not name.endswith(TOLERATED_SUFFIX)
    ]
    shapes = [
        f"{name}: expected {slot.shape}, found {stored[name].shape}"
        for name, slot in slots.items()
        if name in stored and stored[name].shape != slot.shape
    ]
    dtypes = [
        f"{name}: found {stored[name].dtype}, supported are {', '.join(DTYPES)}"
        for name in slots
        if name in stored and stored[name].dtype not in DTYPES
    ]
    kinds = {"missing": missing, "extra": extra, "of the wrong shape": shapes, "of an unsupported dtype": dtypes}
    lines = [line for kind, found in kinds.items() if found for line in _listed(f"Weights {kind}", found)]
    if lines:
        raise ModelError("\n".join([f"{checkpoint.folder} does not hold the weights of its config.json.", *lines]))


def _listed(title: str, found: list[str]) -> Iterator[str]:
    yield f"{title} ({len(found)}):"
    yield from (f"  {line}" for line in found[:LISTED])
    if len(found) > LISTED:
        yield f"  and {len(found) - LISTED} more"


def _check_repeated(checkpoint: Checkpoint, repeated: str, slot: WeightSlot) -> None:
    """A tied weight that the checkpoint repeats must be the same one."""
    if checkpoint.tensors[repeated].shape != slot.shape or not all(
        torch.equal(part.to(other), other)
        for part, other in zip(
            torch.split(checkpoint.read(repeated, slot.part), ROWS), torch.split(slot.destination, ROWS), strict=True
        )
    ):
        raise ModelError(
            f"{checkpoint.folder}: config.json ties {repeated} to {slot.name} (tie_word_embeddings), "
            "but the checkpoint holds both and they differ"
        )


def eos_token_ids(folder: Path, config: HFConfig) -> list[int]:
    """As in transformers' generate: of generation_config.json, else of config.json.

    Ids outside the vocabulary, with which some checkpoints say "none", can never be sampled and are left out.
    """
    vocab_size = config.size("vocab_size")
    return [token_id for token_id in _named_eos_ids(folder, config) if 0 <= token_id < vocab_size]


def _named_eos_ids(folder: Path, config: HFConfig) -> list[int]:
    if (folder / "generation_config.json").exists():
        generation = HFConfig.read_json(folder / "generation_config.json")
        if ids := generation.token_ids("eos_token_id"):
            return ids
    return config.token_ids("eos_token_id")
