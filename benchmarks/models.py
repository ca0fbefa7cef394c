"""Random-weight models of real shapes: ``python -m benchmarks.models FOLDER``.

Speed depends on shapes and types alone, so no download is needed. A byte-level BPE tokenizer is trained on the
standard library's sources; every peer's converter knows that kind. M is as Qwen2.5-0.5B, with a vocabulary of 32,000.
"""

from __future__ import annotations

import argparse
import itertools
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILES_TO_TRAIN_ON = 3000
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder with gated feed-forward layers."""

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    """Whether the embedding is the output layer, too."""

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def multiplied(self) -> int:
        """Weights that every decoded token is multiplied with: all but biases, norms and an untied input embedding."""
        attention = 2 * self.hidden * (self.hidden + self.kv_heads * self.head_size)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.hidden * self.vocabulary

    def cache_bytes(self, itemsize: int) -> int:
        """Bytes of keys and values that one token leaves behind."""
        return 2 * self.layers * self.kv_heads * self.head_size * itemsize


SHAPES = {
    "S": Shape("llama", 6, 288, 768, 6, 6, 8192, tied=False),
    "M": Shape("qwen2", 24, 896, 4864, 14, 2, 32000, tied=True),
}
CHECKPOINTS = {"S": ("S", "float32"), "M": ("M", "float32"), "M-bf16": ("M", "bfloat16"), "S-bf16": ("S", "bfloat16")}
"""Folder → its shape and the type of its weights."""


def corpus() -> Iterator[str]:
    sources = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    for path in itertools.islice((p for p in sources if "site-packages" not in p.parts), FILES_TO_TRAIN_ON):
        yield path.read_text(encoding="utf-8", errors="ignore")


def train_tokenizer(vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    # A small standard library gives fewer merges; ids and logits must agree all the same.
    tokenizer.add_tokens([f"<|pad{i}|>" for i in range(vocabulary - tokenizer.get_vocab_size())])
    make_fast: Any = PreTrainedTokenizerFast
    fast = make_fast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        bos_token=None,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def config_of(shape: Shape) -> Any:
    from transformers import LlamaConfig, Qwen2Config

    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[shape.architecture]
    return kind(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        rms_norm_eps=1e-6,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        max_position_embeddings=4096,
    )


def make(folder: Path, name: str) -> Path:
    """The checkpoint ``folder/name``; it is made, the same each time, where it is missing."""
    target = folder / name
    if (target / "model.safetensors").is_file():
        return target
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    shape_name, dtype = CHECKPOINTS[name]
    shape = SHAPES[shape_name]
    print(f"making {target}", flush=True)
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    model = auto.from_config(config_of(shape), dtype=torch.float32)
    settings: Any = GenerationConfig
    model.generation_config = settings(eos_token_id=2, pad_token_id=0)
    model.config.dtype = dtype
    train_tokenizer(shape.vocabulary).save_pretrained(target)
    model.to(getattr(torch, dtype)).save_pretrained(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS))
    options = parser.parse_args()
    for name in options.only:
        print(make(options.folder, name))


if __name__ == "__main__":
    main()
