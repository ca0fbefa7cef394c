"""Start-up output on a terminal and elsewhere, and a curl line that a shell really runs."""

import io
import json
import shlex

import msgspec
import pytest
from rich.console import Console

from engine.messages import EngineInfo, Loading
from gateway.banner import Started, StartupProgress, curl_line, format_bytes, format_count, print_banner

INFO = EngineInfo(
    device="cpu",
    dtype="bfloat16",
    parameters=5_300_000,
    weight_bytes=10_600_000,
    max_model_len=2048,
    block_size=16,
    num_blocks=4096,
    cache_bytes=2**28,
    vocab_size=4096,
    eos_token_ids=[0],
    fingerprint="abc",
    kernels={"rms_norm": "torch"},
    load_seconds={},
)


def started(**changes: object) -> Started:
    facts: dict = {
        "url": "http://127.0.0.1:8000",
        "model": "penstock-demo",
        "needs_key": False,
        "info": INFO,
        "seconds": 3.44,
        "stages": {"import torch": 1.91, "weights": 0.01, "cache": 0.3},
    }
    return Started(**facts | changes)


def plain(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width)


def test_plain_lines_tell_the_beginning_the_course_and_the_end_of_a_stage() -> None:
    console, now = plain(), [0.0]
    with StartupProgress(console, clock=lambda: now[0]) as progress:
        for second in range(13):
            now[0] = float(second)
            progress.update(Loading(stage="Loading weights", done=second, total=12, unit="layers"))
        progress.update(Loading(stage="Loading weights", done=12, total=12, unit="layers"))
    assert console.file.getvalue().splitlines() == [
        "Loading weights … 0/12 layers",
        "Loading weights … 5/12 layers",
        "Loading weights … 10/12 layers",
        "Loading weights: done in 12.0 s (12 layers)",
    ]


def test_a_stage_without_a_total_ends_when_the_next_begins() -> None:
    console, now = plain(), [0.0]
    with StartupProgress(console, clock=lambda: now[0]) as progress:
        progress.update(Loading(stage="imports", done=0, total=0))
        now[0] = 2.0
        progress.update(Loading(stage="weights", done=0, total=0))
        progress.update(Loading(stage="weights", done=2**20, total=2**20, unit="bytes"))
        progress.update(Loading(stage="imports", done=0, total=0))
    assert console.file.getvalue().splitlines() == [
        "imports …",
        "imports: done in 2.0 s",
        "weights …",
        "weights: done in 0.0 s (1.0 MiB)",
    ]


def test_the_last_stage_ends_with_the_start_unless_it_fails() -> None:
    console, now = plain(), [0.0]
    with StartupProgress(console, clock=lambda: now[0]) as progress:
        progress.update(Loading(stage="warm-up", done=0, total=0))
        now[0] = 1.0
    assert console.file.getvalue().splitlines() == ["warm-up …", "warm-up: done in 1.0 s"]
    console = plain()
    with pytest.raises(KeyError), StartupProgress(console) as progress:
        progress.update(Loading(stage="weights", done=0, total=0))
        raise KeyError
    assert console.file.getvalue().splitlines() == ["weights …"]


def test_a_terminal_gets_a_bar_and_no_plain_lines() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with StartupProgress(console) as progress:
        progress.update(Loading(stage="Download", done=2**20, total=2**30, unit="bytes"))
        progress.update(Loading(stage="Download", done=2**30, total=2**30, unit="bytes"))
    text = console.file.getvalue()
    assert "Download" in text and "━" in text and "1.0 GiB/1.0 GiB" in text
    assert "done in" not in text


@pytest.mark.parametrize("width", [60, 100])
def test_the_banner_says_what_a_newcomer_needs(width: int) -> None:
    console = plain(width)
    print_banner(console, started())
    text = console.file.getvalue()
    for part in ("http://127.0.0.1:8000/v1", "penstock-demo", "5.3 M", "bfloat16", "cpu", "65,536 tokens", "2,048"):
        assert part in text
    assert "3.4 s: import torch 1.9, cache 0.3" in " ".join(text.split())
    assert curl_line(started()) in text.splitlines(), "the line to copy is broken"


def test_the_banner_tells_of_replicas() -> None:
    for replicas, said in ((1, False), (4, True)):
        console = plain()
        print_banner(console, started(replicas=replicas))
        assert ("65,536 tokens, 256.0 MiB, in each of 4 replicas" in console.file.getvalue()) == said


def test_the_banner_tells_of_quantization() -> None:
    for quantization, said in (("none", False), ("int8", True)):
        console = plain()
        print_banner(console, started(info=msgspec.structs.replace(INFO, quantization=quantization)))
        assert ("cpu, bfloat16, weights quantized to int8" in console.file.getvalue()) == said


def test_the_banner_tells_of_ranks() -> None:
    for ranks, said in ((1, "cpu, bfloat16\n"), (4, "cpu, bfloat16, 4 ranks\n")):
        console = plain()
        print_banner(console, started(info=msgspec.structs.replace(INFO, ranks=ranks)))
        lines = [line.rstrip() + "\n" for line in console.file.getvalue().splitlines()]
        assert [line for line in lines if line.endswith(said)]


@pytest.mark.parametrize(
    ("builds", "kernels", "said"),
    [
        (["avx2 12ab"], {"linear": "cpu", "rms_norm": "cpu"}, "avx2 build"),
        (["avx2 12ab"], {"linear": "cpu", "rms_norm": "cpu+torch"}, "avx2 build; PyTorch computes rms_norm"),
        ([], {"linear": "torch"}, "none that are compiled: PyTorch computes"),
    ],
)
def test_the_banner_names_the_build_that_computes(builds: list[str], kernels: dict[str, str], said: str) -> None:
    console = plain()
    print_banner(console, started(info=msgspec.structs.replace(INFO, kernel_builds=builds, kernels=kernels)))
    (line,) = [line for line in console.file.getvalue().splitlines() if line.startswith("Kernels")]
    assert line.split(maxsplit=1)[1].rstrip() == said


def test_the_curl_line_survives_a_shell() -> None:
    words = shlex.split(curl_line(started(model="it's a model")))
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == "it's a model"
    assert words[1] == "http://127.0.0.1:8000/v1/chat/completions"
    assert "Authorization" not in curl_line(started())
    assert "Bearer $PENSTOCK_API_KEY" in curl_line(started(needs_key=True))


def test_numbers_for_people() -> None:
    assert [format_bytes(number) for number in (12, 1536, 3 * 2**29)] == ["12 B", "1.5 KiB", "1.5 GiB"]
    assert [format_count(number) for number in (12, 4_700_000, 8_030_000_000)] == ["12", "4.7 M", "8.0 B"]
