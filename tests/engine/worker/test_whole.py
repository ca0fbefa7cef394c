"""The numerics fingerprint of a rank is the one of the whole model, unless its part is computed otherwise."""

import pytest

from engine.config import EngineConfig
from engine.parallel import ALONE, Parallel
from engine.worker.worker import Worker
from kernels.providers.cpu import loader
from kernels.registry import Kernels


class Silent:
    """A group whose other ranks never say anything: enough to build and load a part."""


def facts(folder, parallel=ALONE, **config):
    settings = {"num_threads": 4, "quantization": "int8"} | config
    return Worker(EngineConfig(model=str(folder), **settings), lambda *_: None, parallel).load()


def tensor(rank=0, **fields):
    return Parallel(tensor_size=2, tensor_rank=rank, group=Silent(), **fields)


@pytest.fixture
def folder(make_checkpoint):
    return make_checkpoint("Qwen2ForCausalLM", tie_word_embeddings=True)


PLACES = [tensor(0), tensor(1), Parallel(stages=3, stage=0), Parallel(stages=3, stage=1), Parallel(stages=3, stage=2)]


@pytest.mark.parametrize("place", PLACES)
def test_every_rank_tells_of_the_whole(folder, place):
    one, part = facts(folder), facts(folder, place)
    if loader.available():
        assert part.fingerprint == one.fingerprint
    assert (part.parameters, part.kernels, part.kernel_builds) == (one.parameters, one.kernels, one.kernel_builds)
    assert part.weight_bytes < one.weight_bytes
    assert part.block_bytes < one.block_bytes


def test_partial_sums_are_other_numerics(folder):
    found = {
        facts(folder).fingerprint,
        facts(folder, tensor()).fingerprint,
        facts(folder, tensor(reduces=True)).fingerprint,
    }
    assert len(found) == (2 if loader.available() else 3)


@pytest.mark.parametrize("place", [tensor(), Parallel(stages=3, stage=1)])
def test_where_torch_computes_the_degrees_count(folder, place, monkeypatch):
    monkeypatch.setattr(Kernels, "_candidates", lambda self, op: [])
    assert facts(folder, place).fingerprint != facts(folder).fingerprint
