"""Tiny random checkpoints of each architecture, written by transformers; helpers are imported by name from here."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

MakeCheckpoint = Callable[..., Path]

SMALL = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "initializer_range": 0.2,
    "use_cache": True,
}


def _write(folder: Path, architecture: str, overrides: dict[str, Any], dtype: str, seed: int) -> None:
    import torch
    import transformers

    family = architecture.removesuffix("ForCausalLM")
    config = getattr(transformers, f"{family}Config")(**(SMALL | overrides))
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # Otherwise constants, which would hide mistakes.
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.to(getattr(torch, dtype)).save_pretrained(folder)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """``make_checkpoint("LlamaForCausalLM", head_dim=16, …) -> folder``, the same one for the same arguments.

    The config is ``SMALL`` with the overrides; ``dtype`` names the dtype of the weights, ``seed`` seeds them. The
    folder is shared between tests: copy it before changing anything in it.
    """
    made: dict[str, Path] = {}

    def make(architecture: str, *, dtype: str = "float32", seed: int = 0, **overrides: Any) -> Path:
        key = json.dumps([architecture, dtype, seed, overrides], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{architecture}-{hashlib.sha256(key.encode()).hexdigest()[:8]}")
            _write(folder, architecture, overrides, dtype, seed)
            made[key] = folder
        return made[key]

    return make
