"""An accepted request as the completion layer sees it: tokens in, parameters resolved, nothing of HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from engine.grammar import Grammar
from engine.sampling_params import NOTHING_LEFT, SamplingParams
from gateway.completion.parser import Parser, Parsing
from observability.trace_context import trace_id_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Immutable. Its choices are numbered prompt by prompt: choice ``i`` continues prompt ``i // n``."""

    id: str
    tenant: str
    """Name of the API key, or ``default``; a bounded metrics label."""
    prompts: tuple[list[int], ...]
    """Token ids; one entry except on ``/v1/completions`` with several prompts."""
    n: int = 1
    params: tuple[SamplingParams, ...]
    """One for each prompt: they differ in ``max_tokens`` where it defaults to what the context leaves."""
    seed: int
    """Unsigned 64 bits; drawn by the gateway where the client gave none."""
    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    continues_prompt: bool = False
    """The output goes on with the prompt's text, rather than beginning a text of its own."""
    parsing: Parsing | None = None
    """Where reasoning or tool calls are to be told from the text."""
    cache_salt: str = ""
    grammar: Grammar | None = None
    """What every answer has to look like. It has been tried: an engine can compile it."""
    form_param: str | None = None
    """The field that asks for the grammar, to be named in an error."""
    session: bytes | None = None
    """Requests of a session go to the same replica where they can."""
    traceparent: str = ""
    """The span that it is a part of, as W3C's Trace Context writes it; empty where it is not traced."""

    def parser(self, choice: int) -> Parser | None:
        """For one choice's text."""
        if self.parsing is None:
            return None
        return Parser(self.parsing, seed=self.seed, choice=choice, prompt=self.prompts[choice // self.n])

    def param_of(self, refusal: str) -> str | None:
        """The field to name where an engine cannot go on, given its reason; None where no field is to blame."""
        params = self.params[0]
        if refusal == NOTHING_LEFT:
            if params.allowed_token_ids:
                return "allowed_token_ids"
            if params.bad_words:
                return "bad_words"
            if self.grammar is None:
                return "min_tokens" if params.min_tokens else None
        return self.form_param

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, or empty."""
        return trace_id_of(self.traceparent)

    @property
    def prompts_to_score(self) -> list[int]:
        """Indices of the prompts whose tokens' log-probabilities are asked for."""
        return [index for index, params in enumerate(self.params) if params.prompt_logprobs is not None]

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.n

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))
