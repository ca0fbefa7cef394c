"""From an accepted request to its choices."""

from __future__ import annotations

from collections.abc import Collection

from gateway.completion.choice import ActiveRequest, Choice
from gateway.completion.fold import folds_of
from gateway.completion.journal import Journal
from gateway.completion.stored import Stored
from gateway.tokenizer import Tokenizer


def open_choices(active: ActiveRequest, tokenizer: Tokenizer, journal: Journal, eos_ids: Collection[int]) -> None:
    """Give the request its choices, each pending and open in the journal; ``eos_ids`` are the model's stop tokens."""
    for index, fold in enumerate(folds_of(active.request, tokenizer, eos_ids)):
        choice_id = f"{active.request.id}:{index}"
        active.choices.append(Choice(active, index, choice_id, journal.open(choice_id), fold))
    active.remaining = len(active.choices)


def bring_back(active: ActiveRequest, journal: Journal, stored: Stored) -> None:
    """Give the new choices what an earlier process has emitted; nothing of it is folded yet."""
    active.restored = any(held.emitted.ids for held in stored.choices)
    active.scored_prompts = {event.prompt_index for event in stored.scored}
    for choice, held in zip(active.choices, stored.choices, strict=True):
        choice.fingerprint, choice.cached_tokens = held.fingerprint, held.cached_tokens
        journal.append(choice.id, held.emitted.ids, held.emitted.logprobs, held.emitted.finish)
