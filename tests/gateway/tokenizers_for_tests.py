"""Small real tokenizers of each family, trained here in milliseconds."""

from __future__ import annotations

import functools

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from gateway.tokenizer import Tokenizer

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and then again; don't you think?",
    "naïve café déjà vu – “quotes” … 日本語のテキスト と 中文文本 и немного русского",
    "family 👩‍👩‍👧‍👦 flags 🇫🇷 thumbs 👍🏽 done\n\tindented  twice",
]
SPECIAL = ["<s>", "</s>"]


@functools.cache
def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen. Special: <s> = 0, </s> = 1; two added tokens that are not special."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 3, trainer)
    backend.add_tokens([AddedToken("<tool call>", normalized=False), AddedToken("<think>", normalized=False)])
    return Tokenizer(backend)


@functools.cache
def byte_fallback() -> Tokenizer:
    """As Llama 2 and Mistral: sentencepiece's pieces, ▁ for a space, <0x00> … <0xFF> for what has no piece."""
    characters = [*sorted(set(SENTENCES[0]) - {" "}), "▁", "é", "日"]
    vocabulary = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "f"), ("o", "x"), ("▁f", "ox"), ("▁", "▁")]
    vocabulary += ["".join(pair) for pair in merges]
    backend = Backend(
        models.BPE(
            {token: number for number, token in enumerate(vocabulary)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(backend)


@functools.cache
def metaspace() -> Tokenizer:
    """As older sentencepiece conversions: the decoder drops the space that the first token begins with."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator(SENTENCES * 3, trainer)
    return Tokenizer(backend)


@functools.cache
def words() -> Tokenizer:
    """No decoder at all: words with spaces between them."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, "<unk>", "one", "two", "three"])}
    backend = Backend(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(backend)


ALL = (byte_level, byte_fallback, metaspace, words)
