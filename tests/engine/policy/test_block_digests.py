"""The names of blocks, which gateway and engine must agree on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.block_digests import prompt_chain
from engine.messages import Start
from engine.sampling_params import SamplingParams
from engine.sequence import Sequence

token_ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20)


def test_digests_depend_on_salt_position_and_content() -> None:
    a, b = prompt_chain([7, 7, 7], "", 1), prompt_chain([7, 7, 7], "other", 1)
    assert len({*a, *b}) == 4
    assert all(len(digest) == 16 for digest in a)
    assert prompt_chain([7, 8, 0], "", 1)[1] != a[1]
    assert prompt_chain([7, 7, 0], "", 1) == a


@given(token_ids, st.integers(1, 5))
def test_the_last_token_is_never_reused(tokens: list[int], block_size: int) -> None:
    chain = prompt_chain(tokens, "", block_size)
    assert len(chain) * block_size < len(tokens) <= (len(chain) + 1) * block_size


@given(token_ids, token_ids, st.integers(1, 5), st.text(max_size=3))
def test_the_gateway_s_chain_is_the_engine_s(prompt: list[int], output: list[int], block_size: int, salt: str) -> None:
    params = SamplingParams(max_tokens=99)
    start = Start(id="a", attempt=1, prompt=prompt, output_prefix=output[1:], params=params, seed=0, cache_salt=salt)
    sequence = Sequence(start, arrival=0, arrived_at=0.0, block_size=block_size)
    chain = prompt_chain(prompt + output[1:], salt, block_size)
    assert sequence.digests(0, len(chain) // 2) == chain[: len(chain) // 2]
    assert sequence.digests(0, len(chain)) == chain
