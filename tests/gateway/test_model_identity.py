"""What makes a model another one for the streams of a journal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.model_identity import PAGE, PAGES, model_identity

SIZE = 3 * PAGE * PAGES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (made / name).write_text(name)
    for number in (1, 2):
        (made / f"model-{number}.safetensors").write_bytes(bytes(range(256)) * (SIZE // 256))
    return made


def test_a_copy_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert model_identity(tmp_path / "copy") == model_identity(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer.model"])
def test_another_configuration_or_tokenizer_is_another_model(folder: Path, name: str) -> None:
    before = model_identity(folder)
    (folder / name).write_text("other")
    assert model_identity(folder) != before


@pytest.mark.parametrize("tensor", [(0, 4 * PAGE), (SIZE // 2, SIZE // 2 + 4 * PAGE), (SIZE - 8, SIZE)])
def test_another_tensor_in_any_file_is_another_model(folder: Path, tensor: tuple[int, int]) -> None:
    before = model_identity(folder)
    begin, end = tensor
    for file in folder.glob("*.safetensors"):
        held = file.read_bytes()
        file.write_bytes(held[:begin] + bytes(byte ^ 1 for byte in held[begin:end]) + held[end:])
        assert model_identity(folder) != before
        file.write_bytes(held)
    assert model_identity(folder) == before


def test_a_change_anywhere_in_a_small_file_is_seen(folder: Path) -> None:
    small = folder / "model-1.safetensors"
    for size in (0, 100, PAGE + 1, PAGE * 2):
        small.write_bytes(bytes(size))
        before = model_identity(folder)
        for place in {0, size // 2, size - 1} if size else ():
            changed = bytearray(size)
            changed[place] = 1
            small.write_bytes(changed)
            assert model_identity(folder) != before


def test_files_have_names_and_sizes(folder: Path) -> None:
    before = model_identity(folder)
    (folder / "model-2.safetensors").rename(folder / "model-3.safetensors")
    renamed = model_identity(folder)
    (folder / "model-3.safetensors").unlink()
    assert len({before, renamed, model_identity(folder)}) == 3
