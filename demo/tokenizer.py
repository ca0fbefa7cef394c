"""The tokenizer: byte-level BPE of 1,536 entries, learned from the corpus.

Two rules beyond the usual split into words: every digit is a token of its own, and so is every letter of a word that
stands before a closing quote, as in "cat" (but not where `:`, `,`, `}` or `]` follows, which is JSON).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demo.template import CALL, CALL_END, CHAT_TEMPLATE, END, PAD, START

VOCABULARY = 1536
CONTEXT = 2048
SPECIAL = (PAD, START, END)
QUOTED_LETTER = r"""[A-Za-z](?=[A-Za-z]{0,40}"(?![\w:,}\]]))"""
WORDS = r"""\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn the merges; the chat markers come first, so their ids are 0 to 4."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QUOTED_LETTER), behavior="isolated"),
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    markers = [AddedToken(t, special=True, normalized=False) for t in (*SPECIAL, CALL, CALL_END)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=markers,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template as transformers reads them."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    # The trainer makes all markers special; a reader of plain text must still see those of a call.
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    for token in content["added_tokens"]:
        token["special"] = token["content"] in SPECIAL
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    # The name of the class that every version of transformers knows.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.pop("backend", None)
    path.write_text(json.dumps(config, indent=2) + "\n")
