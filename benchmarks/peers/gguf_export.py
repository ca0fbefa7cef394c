"""llama.cpp's own converter, told that the tokenizer splits text as GPT-2's does: ``gguf_export.py SOURCE ARGS...``.

The converter knows tokenizers by a digest and refuses others; the benchmark's tokenizer is trained on the spot, and its
splitting is GPT-2's. Runs in the environment ``export``.
"""

import sys
from pathlib import Path

source = Path(sys.argv.pop(1))
sys.path.insert(0, str(source))

import convert_hf_to_gguf  # type: ignore[import-not-found]  # noqa: E402
from conversion.base import TextModel  # type: ignore[import-not-found]  # noqa: E402

TextModel.get_vocab_base_pre = lambda *_: "gpt-2"
convert_hf_to_gguf.main()
