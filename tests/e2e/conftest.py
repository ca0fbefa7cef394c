from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.demo_model import PATH

ModelWithTokens = Callable[..., Path]


@pytest.fixture
def model_with_tokens(tmp_path: Path) -> ModelWithTokens:
    """A folder with the demo model, in whose vocabulary the tokens of the last merges have given way to these."""

    def make(*names: str) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(PATH, folder)
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
        for name in names:
            token = vocabulary.pop("".join(merges.pop()))
            tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": token, "content": name})
        file.write_text(json.dumps(tokenizer))
        return folder

    return make
