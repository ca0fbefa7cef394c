"""``docs/architectures.md``: the models that the package scan finds, and what a config may not ask of them."""

from __future__ import annotations

import inspect
import json
from collections import defaultdict

from engine.models import Build, architectures
from engine.models.hf_config import NO_OP_VALUES
from engine.quantization import quantization_names
from scripts.page import NOTICE, table

_INTRODUCTION = """\
A checkpoint is served if its `config.json` names one of these architectures. [A model of your own](models.md) says what
else a model's folder holds, [adding a model](adding-a-model.md) how one more is added.
"""
_FIELDS = """\
These fields change the mathematics of a decoder in a way that no model here has. A config that sets one to another
value than those shown ends the start with one line that names the field.
"""


def models_page() -> str:
    named = defaultdict(list)
    for name, build in architectures().items():
        named[build].append(name)
    rows = [(", ".join(f"`{name}`" for name in sorted(names)), *_source(build)) for build, names in named.items()]
    fields = [
        (f"`{name}`", ", ".join(f"`{json.dumps(value)}`" for value in values)) for name, values in NO_OP_VALUES.items()
    ]
    weights = ", ".join(f"`{name}`" for name in quantization_names())
    return "\n".join(
        [
            NOTICE.format(source="engine/models/"),
            "# Supported models\n",
            _INTRODUCTION,
            table(("Architecture", "What it is", "File"), sorted(rows)),
            f"`--quantization` takes {weights} with each of them ([narrower weights](quantization.md)).\n",
            "## Fields of a config that are refused\n",
            _FIELDS,
            table(("Field", "Accepted"), fields),
        ]
    )


def _source(build: Build) -> tuple[str, str]:
    """What the module of a model says of it in its first paragraph, and where it is."""
    module = inspect.getmodule(build)
    assert module is not None
    first, _, _ = (module.__doc__ or "").partition("\n\n")
    return " ".join(first.split()), f"`{module.__name__.replace('.', '/')}.py`"
