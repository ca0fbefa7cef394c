"""What is known of the end of an engine process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from observability.records import LossKind


@dataclass(frozen=True, slots=True)
class Loss:
    kind: LossKind
    cause: str
    """For people."""
    own_doing: bool
    """Whether nobody from outside ended it, as far as can be seen: another one may end in the same way."""
    executing: Mapping[str, Sequence[int]] | None = None
    """Ids of the choices that the step under way computed, and how many tokens, of prompt and output together, each
    had before it samples one; two numbers where another step had begun before that one had ended. None where nobody
    knows."""
