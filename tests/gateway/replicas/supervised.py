"""A supervisor and a lifecycle over real child processes that speak the engine's protocol."""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from engine.config import EngineConfig
from engine.sampling_params import SamplingParams
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.request import Request
from gateway.completion.stream import Stream
from gateway.replicas.launchers.process import ProcessLauncher
from gateway.replicas.supervisor import Supervisor
from gateway.replicas.watched_engine import Limits
from gateway.tokenizer import Tokenizer
from observability.records import EngineEvent, Record

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
LIMITS = Limits(check_interval=0.05, silence=0.5, startup_silence=20, stall=0.5, dump=0.05, stop=5, first_backoff=0.01)


def tokenizer() -> Tokenizer:
    backend = Backend(models.WordLevel({f"w{n}": n for n in range(100)}, unk_token="w0"))
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)


class Host:
    """A supervisor and a lifecycle over fake engines."""

    def __init__(self, misbehave: str = "", pace: float = 0.002) -> None:
        self.records: list[Record] = []
        self.loading: list[str] = []
        self.lifecycle = Lifecycle(tokenizer(), record=self.record)
        command = [sys.executable, str(FAKE_ENGINE), "--pace", str(pace), "--misbehave", misbehave]
        self.supervisor = Supervisor(
            EngineConfig(model="none"),
            ProcessLauncher(command),
            self.lifecycle,
            limits=LIMITS,
            on_loading=lambda message: self.loading.append(message.stage),
        )

    def record(self, record: Record, *, replica: str = "0") -> None:
        self.records.append(record)

    @property
    def causes(self) -> list[str]:
        return [r.message for r in self.records if isinstance(r, EngineEvent) and r.kind == "lost"]

    def submit(self, request_id: str, max_tokens: int) -> Stream:
        request = Request(
            id=request_id, tenant="t", prompts=([1],), params=(SamplingParams(max_tokens=max_tokens),), seed=0
        )
        return self.lifecycle.submit(request)
