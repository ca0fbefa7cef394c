from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import tokenizers_for_tests as families
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from engine.errors import ModelError
from engine.token_pieces import decoding_rules
from gateway.tokenizer import Tokenizer

DEMO_MODEL = Path(__file__).parents[2] / "engine" / "demo_model"


def saved(tmp_path: Path, tokenizer: Tokenizer, **config: object) -> Path:
    tokenizer._backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_others_run_while_a_long_text_is_encoded_or_decoded() -> None:
    tokenizer = families.byte_level()
    text = "some words, " * 40_000
    for work in (
        lambda: tokenizer.encode(text, add_special_tokens=False),
        lambda: tokenizer.decode([70] * 1_000_000, skip_special_tokens=True),
    ):
        at_work = threading.Thread(target=work)
        at_work.start()
        turns = 0
        while at_work.is_alive():
            time.sleep(0.001)
            turns += 1
        assert turns >= 5


def test_the_demo_models_tokenizer_takes_linear_time() -> None:
    """A look-ahead without a bound took a minute for a tenth of these letters."""
    tokenizer = Tokenizer.load(DEMO_MODEL)
    assert tokenizer.encode("a" * 1_000_000, add_special_tokens=False)


@pytest.mark.parametrize("family", families.ALL)
def test_vocabulary_and_special_ids(family) -> None:
    tokenizer = family()
    assert tokenizer.special_ids == {0, 1}
    assert tokenizer._backend.id_to_token(tokenizer.vocab_size - 1) is not None
    assert tokenizer._backend.id_to_token(tokenizer.vocab_size) is None


@given(st.text())
def test_byte_level_round_trip_and_exact_bytes(text: str) -> None:
    tokenizer = families.byte_level()
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@given(st.text())
def test_byte_fallback_exact_bytes(text: str) -> None:
    tokenizer = families.byte_fallback()
    ids = tokenizer.encode(text, add_special_tokens=False)
    joined = b"".join(map(tokenizer.token_bytes, ids))
    assert joined == (b" " + text.replace("▁", " ").encode() if text else b"")


def test_bytes_of_special_and_added_tokens() -> None:
    tokenizer = families.byte_level()
    for text in ("<s>", "<tool call>"):
        (token_id,) = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.token_bytes(token_id) == text.encode()
        assert tokenizer.token_text(token_id) == text


def test_text_of_a_token_that_is_part_of_a_character() -> None:
    tokenizer = families.byte_fallback()
    first, *_ = tokenizer.encode("🦊", add_special_tokens=False)[1:]
    assert tokenizer.token_bytes(first) == "🦊".encode()[:1]
    assert tokenizer.token_text(first) == "\ufffd"


def test_no_joiner_in_the_bytes_of_a_word() -> None:
    assert families.words().token_bytes(3) == b"one"


def test_load_reads_special_tokens_however_they_are_written(tmp_path: Path) -> None:
    folder = saved(
        tmp_path,
        families.byte_level(),
        bos_token={"content": "<s>", "lstrip": False},
        eos_token="</s>",
        pad_token=None,
        add_bos_token=True,
        additional_special_tokens=["<a>", {"content": "<b>"}],
    )
    assert Tokenizer.load(folder).special_tokens == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "additional_special_tokens": ["<a>", "<b>"],
    }


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path: Path) -> None:
    backend = Backend.from_str(families.byte_level()._backend.to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path)
    for text, shortest, longest in (("a", 1, 4), ("the quick brown fox jumps over the lazy dog", 5, 50)):
        ids = loaded.encode(text, add_special_tokens=True)
        assert ids == families.byte_level().encode(text, add_special_tokens=True)
        assert shortest <= len(ids) <= longest


def test_a_folder_without_a_tokenizer_is_a_mistake_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="no tokenizer could be read"):
        Tokenizer.load(tmp_path)


def test_a_decoder_of_another_kind_is_refused() -> None:
    with pytest.raises(ModelError, match="WordPiece"):
        decoding_rules({"type": "WordPiece", "prefix": "##", "cleanup": True})


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    """transformers would make one of an architecture's config alone, with no vocabulary."""
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}')
    with pytest.raises(ModelError, match=r"holds neither tokenizer\.json nor tokenizer\.model"):
        Tokenizer.load(tmp_path)


def test_a_broken_tokenizer_config_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path, families.byte_level())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match="no tokenizer could be read"):
        Tokenizer.load(tmp_path)
