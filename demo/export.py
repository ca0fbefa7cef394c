"""Write a checkpoint as a Hugging Face folder: `python -m demo.export runs/demo/checkpoint.pt engine/demo_model`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from demo.model import CONFIG

GENERATION = {"eos_token_id": [2], "pad_token_id": 0, "do_sample": False, "max_new_tokens": 256}
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]


def export(state: dict[str, Tensor], tokenizer: Path, folder: Path) -> None:
    """bfloat16 weights, config and tokenizer files. The tied output projection is not stored twice."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: p.to(torch.bfloat16).contiguous() for name, p in state.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION, indent=2) + "\n")
    (folder / "model.safetensors").chmod(0o644)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, folder / name)


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    state = torch.load(args.checkpoint, weights_only=True)
    export(state["model"], args.checkpoint.parent / "tokenizer", args.folder)


if __name__ == "__main__":
    main()
