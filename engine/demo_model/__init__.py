"""The embedded demo model: a Hugging Face folder of about four million parameters, trained by `demo/train.py`."""

from pathlib import Path

PATH = Path(__file__).parent
