"""Where a model's files are: a local folder as it is, or a Hugging Face id, downloaded to the Hub's cache."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError

if TYPE_CHECKING:
    from engine.executor.base import Progress

FILES = ["*.safetensors", "*.json", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt", "*.tiktoken"]
"""What is downloaded: weights as safetensors only, configuration, tokenizer and chat template."""
OTHER_FORMATS = ["*/*", "consolidated*"]
"""What is not, though it matches: copies of the weights in other layouts."""

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

Download = Callable[..., str]
"""``huggingface_hub.snapshot_download``."""


def resolve(model: str, revision: str | None, progress: Progress, *, download: Download | None = None) -> Path:
    """The folder of a model, with its ``config.json``.

    ``download`` stands in for the Hub's own function in tests. Honours HF_HOME, HF_TOKEN and HF_HUB_OFFLINE.
    Raises ModelError with one readable line.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _checked(folder, model)
    if folder.exists():
        raise ModelError(f"{model} is a file; a model is a folder with config.json, or a Hugging Face id.")
    if not _HUB_ID.fullmatch(model):
        raise ModelError(f"There is no folder {model}, and it is not a Hugging Face id (like Qwen/Qwen3-0.6B).")
    return _checked(Path(_download(model, revision, progress, download)), model)


def _checked(folder: Path, model: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{model} has no config.json: it is not a Hugging Face model.")
    return folder


def _download(model: str, revision: str | None, progress: Progress, download: Download | None) -> str:
    # Imported here: it takes a quarter of a second, and a local folder does not need it.
    from huggingface_hub import errors, snapshot_download

    at = f" at revision {revision}" if revision else ""
    fetch: Download = download or snapshot_download
    try:
        return fetch(
            model,
            revision=revision,
            allow_patterns=FILES,
            ignore_patterns=OTHER_FORMATS,
            tqdm_class=_progress_bar(progress),
        )
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{model} is gated: accept its terms at https://huggingface.co/{model} and set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{model} has no revision {revision}.") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"There is no folder {model} here and no model {model} on the Hugging Face Hub"
            " (a private one needs HF_TOKEN)."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{model}{at} is neither a folder here nor complete in the Hugging Face cache, and the Hub cannot be"
            " reached (offline, or HF_HUB_OFFLINE is set)."
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(
            f"There is no folder {model}, and it is not a Hugging Face id: {_first_line(error)}"
        ) from error
    except Exception as error:
        # Network, disk, whatever the Hub's HTTP client raises: one line for all of them.
        raise ModelError(f"{model}{at} could not be downloaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def _progress_bar(progress: Progress) -> type:
    """A tqdm that draws nothing and reports bytes.

    The Hub's client makes one bar that counts files and one or two that count bytes; of the latter the last
    one made is what has reached the disk.
    """
    tqdm: Any = import_module("tqdm").tqdm
    bars: list[Any] = []

    def begin(bar: Any, *args: Any, **options: Any) -> None:
        tqdm.__init__(bar, *args, **(options | {"file": _Nowhere(), "disable": False}))
        if bar.unit == "B":
            bars.append(bar)

    def update(bar: Any, n: float | None = 1) -> None:
        tqdm.update(bar, n)
        if bars and bars[-1] is bar:
            progress("download", int(bar.n), int(bar.total or 0), "B")

    return type("ProgressBar", (tqdm,), {"__init__": begin, "update": update})
