"""Which part of everything a rank has: parts are disjoint, in order, as even as can be, and all there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigurationError
from engine.parallel import ALONE, Parallel, Span

RANKS = st.integers(1, 9)


def ranks(size: int) -> list[Parallel]:
    return [Parallel(tensor_size=size, tensor_rank=rank) for rank in range(size)]


@given(st.integers(1, 5000), RANKS, st.integers(1, 64))
def test_shares_are_a_partition_in_whole_units(size, count, unit):
    everyone = ranks(count)
    if -(-size // unit) < count:
        with pytest.raises(ConfigurationError, match=f"--tensor-parallel-size {count}: .* only {size} rows"):
            everyone[0].shares(size, unit)
        return
    spans = everyone[0].shares(size, unit)
    assert spans == [rank.share(size, unit) for rank in everyone]
    assert [index for span in spans for index in range(size)[span.slice]] == list(range(size))
    assert all(span.whole == size and span.start % unit == 0 for span in spans)
    lengths = [-(-len(span) // unit) for span in spans]
    assert max(lengths) - min(lengths) <= 1


@given(RANKS, st.integers(1, 12), st.integers(1, 8))
def test_query_heads_find_their_key_value_heads(count, kv_heads, group):
    heads = kv_heads * group
    even = heads % count == 0 and max(count, kv_heads) % min(count, kv_heads) == 0
    for rank in ranks(count):
        if not even:
            with pytest.raises(ConfigurationError, match=f"--tensor-parallel-size {count}: the model's"):
                rank.share_heads(heads, kv_heads)
            continue
        own, keys = rank.share_heads(heads, kv_heads)
        assert len(own) == heads // count and len(own) % len(keys) == 0
        for place, head in enumerate(range(heads)[own.slice]):
            local = place // (len(own) // len(keys))
            assert range(kv_heads)[keys.slice][local] == head // group


@pytest.mark.parametrize(
    ("heads", "kv_heads", "message"),
    [
        (6, 2, "--tensor-parallel-size 4: the model's 6 attention heads cannot be shared evenly"),
        (12, 3, "the model's 3 key-value heads can be neither shared evenly nor repeated evenly"),
    ],
)
def test_heads_that_are_left_over_are_refused(heads, kv_heads, message):
    with pytest.raises(ConfigurationError, match=message):
        ranks(4)[0].share_heads(heads, kv_heads)


@given(st.integers(1, 100), st.integers(1, 12))
def test_stages_share_the_layers_and_the_last_never_has_more(layers, stages):
    places = [Parallel(stages=stages, stage=stage) for stage in range(stages)]
    if layers < stages:
        with pytest.raises(ConfigurationError, match=f"--pipeline-parallel-size {stages}: the model has {layers}"):
            places[0].layers(layers)
        return
    found = [place.layers(layers) for place in places]
    assert [layer for part in found for layer in part] == list(range(layers))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert len(found[-1]) == min(map(len, found))


def test_one_rank_is_first_and_last_and_samples():
    assert (ALONE.ranks, ALONE.first, ALONE.last, ALONE.samples) == (1, True, True, True)
    assert ALONE.share(7) == Span.all(7)


def test_one_rank_of_many_samples():
    places = [Parallel(tensor_size=2, tensor_rank=rank, stages=3, stage=stage) for stage in range(3) for rank in (0, 1)]
    assert [place.samples for place in places] == [False] * 4 + [True, False]
    assert {place.ranks for place in places} == {6}


def test_a_span_of_units():
    assert Span(1, 3, 4).times(5) == Span(5, 15, 20)
