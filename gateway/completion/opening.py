"""From an accepted request to its choices."""

from __future__ import annotations

from collections.abc import Collection

from gateway.completion.choice import ActiveRequest, Choice
from gateway.completion.detokenizer import StopStrings
from gateway.completion.fold import Fold
from gateway.completion.journal import Journal
from gateway.tokenizer import Tokenizer


def open_choices(active: ActiveRequest, tokenizer: Tokenizer, journal: Journal, eos_ids: Collection[int]) -> None:
    """Give the request its choices, each pending and open in the journal; ``eos_ids`` are the model's stop tokens."""
    request = active.request
    stops, known = StopStrings(request.stop), frozenset(eos_ids)
    shown = tokenizer.special_ids_of(request.parsing.markers) if request.parsing else frozenset()
    for index in range(request.num_choices):
        choice_id = f"{request.id}:{index}"
        fold = Fold(
            index,
            tokenizer,
            request.params[index // request.n],
            stops=stops,
            include_stop=request.include_stop_str_in_output,
            skip_special_tokens=request.skip_special_tokens,
            eos_ids=known,
            continues=request.continues_prompt,
            parser=request.parser(index),
            shown=shown,
        )
        active.choices.append(Choice(active, index, choice_id, journal.open(choice_id), fold))
    active.remaining = len(active.choices)
