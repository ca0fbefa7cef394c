"""On a CPU a request's logits have the same bits alone, in any batch, chunked anyhow, after a preemption, on a prefix
hit and when an engine goes on with what another one began."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import EngineConfig
from engine.engine import Engine
from engine.executor.base import ModelFacts
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Start
from engine.sampling_params import SamplingParams

BLOCK_SIZE = 16
NUM_BLOCKS = 128
OUTPUT = 12

MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 16}, {}),
    "window": ("MistralForCausalLM", {"sliding_window": 21}, {}),
    "odd": ("LlamaForCausalLM", {"hidden_size": 36, "head_dim": 20, "num_attention_heads": 6}, {}),
    "bfloat16": ("Qwen2ForCausalLM", {"dtype": "bfloat16"}, {}),
    "int8": ("LlamaForCausalLM", {}, {"quantization": "int8"}),
    "int4": ("LlamaForCausalLM", {"hidden_size": 64, "intermediate_size": 96}, {"quantization": "int4"}),
    "fp8 cache": ("Qwen3ForCausalLM", {"head_dim": 16}, {"kv_cache_dtype": "fp8"}),
    "int8 cache": ("MistralForCausalLM", {"sliding_window": 21}, {"kv_cache_dtype": "int8"}),
    "threads": ("LlamaForCausalLM", {}, {"num_threads": 3}),
}


def requests() -> list[Start]:
    draw = random.Random(0)

    def ids(count: int) -> list[int]:
        return [draw.randrange(3, 160) for _ in range(count)]

    shared = ids(70)
    prompts = [ids(1), ids(9), shared + ids(5), shared + ids(31), ids(150), shared[:40], ids(16)]
    params = [SamplingParams(max_tokens=OUTPUT, temperature=each) for each in (0.0, 1.0, 0.7, 0.0, 0.0, 1.3, 0.0)]
    return [
        Start(id=str(index), attempt=0, prompt=prompt, params=each, seed=index)
        for index, (prompt, each) in enumerate(zip(prompts, params, strict=True))
    ]


@dataclass
class Observed:
    """An executor whose logits are looked at on their way to the sampler."""

    executor: UniprocExecutor
    config: EngineConfig
    facts: ModelFacts
    logits: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)

    def watch(self) -> None:
        runner = self.executor._worker._runner
        sampler, launch = runner._sampler, runner.launch
        seen: list[torch.Tensor] = []
        sample = sampler.launch

        def watched_sample(drawn, samples):
            seen.append(drawn.logits.clone())
            return sample(drawn, samples)

        def watched_launch(batch, cache):
            seen.clear()
            result = launch(batch, cache)
            for request in batch.samples:
                name = batch.sequence_ids[request.row].partition("/")[0]
                self.logits[name, request.position] = seen[0][request.row]
            return result

        sampler.launch, runner.launch = watched_sample, watched_launch

    def generate(self, starts: dict[str, tuple[int, Start]], **config: Any) -> dict[str, list[int]]:
        """Tokens of each request, begun after so many steps."""
        settings = {name: getattr(self.config, name) for name in self.config.__struct_fields__} | config
        num_blocks = settings.pop("num_blocks", NUM_BLOCKS)
        engine = Engine(EngineConfig(**settings), self.executor, self.facts, num_blocks)
        tokens: dict[str, list[int]] = {name: list(start.output_prefix) for name, (_, start) in starts.items()}
        waiting, step = dict(starts), 0
        while waiting or engine.num_pending:
            for name in [name for name, (when, _) in waiting.items() if when <= step]:
                assert engine.start(waiting.pop(name)[1]) is None
            if engine.num_pending:
                for output in engine.step().outputs:
                    tokens[output.id].extend(output.ids)
            step += 1
        engine.check_integrity()
        return tokens


@pytest.fixture(scope="module", params=list(MODELS))
def observed(request, make_checkpoint):
    architecture, shape, settings = MODELS[request.param]
    config = EngineConfig(
        model=str(make_checkpoint(architecture, **shape)),
        block_size=BLOCK_SIZE,
        kv_cache_memory=1 << 26,
        max_num_batched_tokens=256,
        max_num_seqs=8,
        max_model_len=256,
        **({"num_threads": 2} | settings),
    )
    executor = UniprocExecutor(config, lambda *_: None)
    facts = executor.load()
    assert executor.initialize_cache() >= NUM_BLOCKS
    observed = Observed(executor, config, facts)
    observed.watch()
    yield observed
    executor.shutdown()


@pytest.fixture(scope="module")
def alone(observed):
    """(tokens, logits) of each request in an engine of its own."""
    tokens: dict[str, list[int]] = {}
    for start in requests():
        tokens |= observed.generate({start.id: (0, start)})
    expected, observed.logits = dict(observed.logits), {}
    assert len(expected) == len(requests()) * OUTPUT
    return tokens, expected


@settings(max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_logits_do_not_depend_on_the_schedule(observed, alone, data):
    tokens, expected = alone
    schedule = {
        "max_num_batched_tokens": data.draw(st.sampled_from([8, 17, 33, 64, 256]), "tokens a step"),
        "max_num_seqs": data.draw(st.integers(1, 8), "sequences a step"),
        # 166 tokens, the longest request, take 11 blocks; so few are a cause of many preemptions.
        "num_blocks": data.draw(st.sampled_from([16, 20, 40, NUM_BLOCKS]), "blocks"),
        "enable_prefix_caching": data.draw(st.booleans(), "prefix caching"),
    }
    starts = {}
    for start in data.draw(st.permutations(requests()), "order"):
        done = data.draw(st.integers(0, OUTPUT - 1), "tokens of an earlier engine")
        again = Start(
            id=start.id,
            attempt=1,
            prompt=start.prompt,
            output_prefix=tokens[start.id][:done],
            params=start.params,
            seed=start.seed,
        )
        starts[start.id] = (data.draw(st.integers(0, 12), "arrival"), again)
    observed.logits.clear()
    assert observed.generate(starts, **schedule) == tokens
    assert observed.logits
    for place, logits in observed.logits.items():
        assert torch.equal(logits, expected[place]), place
