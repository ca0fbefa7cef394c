"""Two engines behind one gateway, over HTTP: sessions, prefixes, metrics and the end of it all."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

WORDS = "What is Penstock and how does it work? Tell me about it in a few words, if you please. " * 8


@pytest.fixture(scope="module")
def replicas(start_server: Any) -> Iterator[Any]:
    with start_server("--dtype", "float32", "--replicas", "2") as server:
        server.wait_for_replicas(2)
        yield server


def sent(server: Any) -> Counter[str]:
    """Choices that each replica was sent."""
    return Counter({replica: int(server.counted("penstock_routed_total", replica=replica)) for replica in "01"})


def test_a_session_goes_to_one_replica_by_any_of_its_names(replicas: Any) -> None:
    with replicas.client() as client:
        for number, name in enumerate(({"session_id": "s"}, {"prompt_cache_key": "k"}, {"user": "u"})):
            before, by_session = sent(replicas), replicas.counted("penstock_routed_total", reason="session")
            for turn in range(6):
                client.chat.completions.create(
                    model="demo",
                    messages=[{"role": "user", "content": f"{number}{turn}"}],
                    max_tokens=2,
                    extra_body=name,
                )
            assert sorted((sent(replicas) - before).values()) == [6]
            assert replicas.counted("penstock_routed_total", reason="session") == by_session + 5


def test_a_conversation_finds_its_prefix(replicas: Any) -> None:
    before, messages = sent(replicas), []
    hits = replicas.counted("penstock_prefix_cache_hits_total")
    with replicas.client() as client:
        for turn in range(5):
            messages.append({"role": "user", "content": str(turn or WORDS)})
            answer = client.chat.completions.create(model="demo", messages=messages, max_tokens=4)
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
            if turn:
                assert answer.usage.prompt_tokens_details.cached_tokens >= 64
    assert sorted((sent(replicas) - before).values()) == [5]
    assert replicas.counted("penstock_prefix_cache_hits_total") >= hits + 4 * 64


async def test_n_choices_stay_together_and_requests_spread(replicas: Any) -> None:
    before, siblings = sent(replicas), replicas.counted("penstock_routed_total", reason="sibling")
    async with replicas.async_client() as client:
        answers = await asyncio.gather(
            *[
                client.completions.create(model="demo", prompt=[100 + number] * 40, n=4, max_tokens=60, seed=number)
                for number in range(8)
            ]
        )
    assert all(len(answer.choices) == 4 for answer in answers)
    assert replicas.counted("penstock_routed_total", reason="sibling") == siblings + 24
    now = sent(replicas) - before
    assert now.total() == 32 and set(now) == {"0", "1"} and all(count % 4 == 0 for count in now.values())


def test_gauges_of_engines_are_by_replica_and_their_sums_hold(replicas: Any) -> None:
    replicas.wait_idle()
    for name in ("engine_up", "cache_config_info"):
        assert [replicas.metric(f"penstock_{name}", replica=replica) for replica in "01"] == [1, 1]
    for name in ("sequences_running", "sequences_waiting", "kv_cache_usage_ratio"):
        assert replicas.metric(f"penstock_{name}") == 0
    assert replicas.counted("penstock_generated_tokens_total") == sum(
        replicas.counted("penstock_generated_tokens_total", replica=replica) for replica in "01"
    )
    assert replicas.log.read_text().count("in each of 2 replicas") == 1


def test_sigterm_ends_all_engines(replicas: Any) -> None:
    """The last of this file: no other starts one."""
    pids = replicas.engine_pids()
    assert len(pids) == 2
    replicas.process.send_signal(signal.SIGTERM)
    assert replicas.process.wait(20) == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
