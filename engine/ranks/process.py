"""A rank process: ``python -m engine.ranks.process``, started by ``engine.ranks.crew``, with a part of the model.

What it is to do comes through the ring, in the same order to every rank. It ends with the engine process, whose death
the system tells it by SIGKILL: that reaches a rank that is stuck, or stopped, as well.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import distributed

from engine.collectives import DistributedGroup, DistributedPipe
from engine.config import EngineConfig
from engine.errors import EngineError, ModelError
from engine.linux import die_with, set_process_name
from engine.parallel import Parallel
from engine.ranks.line import RankLine
from engine.ranks.messages import (
    CacheMade,
    Capacity,
    Compute,
    Computed,
    FromRank,
    Load,
    Loaded,
    MakeCache,
    MeasureCache,
    RankFailed,
    RankLoading,
    decode_to_rank,
    encode,
)
from engine.ranks.ring import RingReader
from engine.worker.worker import Worker, choose_device
from kernels.registry import Machine
from observability.logging import configure_logging, log_context

logger = logging.getLogger(__name__)


class RankProcess:
    """One rank, from its first message to its end."""

    def __init__(self, rank: int, ranks: int, ring: int, line: int, meeting: int) -> None:
        """``ring``, ``line`` and ``meeting`` are file descriptors."""
        self._rank, self._ranks, self._meeting = rank, ranks, meeting
        self._line = RankLine(line)
        self._ring = RingReader(ring, ranks, rank, self._line.wait)
        self._parallel: Parallel | None = None

    def run(self) -> int:
        """Exit status: 0 where the engine has let go of its line, 1 a mistake of model or settings, 70 a fault."""
        try:
            self._serve()
        except EOFError:
            return os.EX_OK
        except EngineError as error:
            self._say(RankFailed(str(error), "model" if isinstance(error, ModelError) else "configuration"))
            return 1
        except Exception as error:
            self._say(RankFailed(f"{type(error).__name__}: {error}", "fault", traceback.format_exc()))
            return os.EX_SOFTWARE

    def _serve(self) -> NoReturn:
        worker: Worker | None = None
        while True:
            message = decode_to_rank(self._ring.read())
            if isinstance(message, Load):
                worker = self._load(message.config)
                continue
            assert worker is not None, "loading comes first"
            match message:
                case MeasureCache():
                    self._say(Capacity(worker.cache_capacity()))
                case MakeCache(num_blocks):
                    worker.allocate_cache(num_blocks)
                    self._line.chore = worker.use_idle_time
                    self._say(CacheMade())
                case Compute(batch):
                    if (result := worker.execute(batch)) is not None:
                        self._say(Computed(result))

    def _load(self, config: EngineConfig) -> Worker:
        if self._parallel is None:
            configure_logging(config.log_level, config.log_format)
            self._parallel = self._join(config)
        worker = Worker(config, self._progress, self._parallel)
        self._say(Loaded(worker.load()))
        return worker

    def _join(self, config: EngineConfig) -> Parallel:
        """Meet the other ranks. Raises ConfigurationError where there is no device for this one."""
        rank, size, stages = self._rank, config.tensor_parallel_size, config.pipeline_parallel_size
        device = choose_device(config, rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # A file with no name: nothing listens on a port for it, and nothing is left of it.
        store = distributed.FileStore(f"/proc/self/fd/{self._meeting}", self._ranks)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=self._ranks)
        members = [list(range(stage * size, (stage + 1) * size)) for stage in range(stages)]
        groups = [distributed.new_group(each) for each in members]
        stage, tensor_rank = divmod(rank, size)
        machine = Machine.detect(device)
        before, after = rank - size if stage else None, rank + size if stage < stages - 1 else None
        return Parallel(
            tensor_size=size,
            tensor_rank=tensor_rank,
            stages=stages,
            stage=stage,
            reduces=config.tp_reduce == "allreduce",
            group=DistributedGroup(groups[stage], machine) if size > 1 else None,
            pipe=DistributedPipe(before, after) if stages > 1 else None,
        )

    def _progress(self, stage: str, done: int, total: int, unit: str) -> None:
        self._say(RankLoading(stage, done, total, unit))

    def _say(self, message: FromRank) -> None:
        self._line.send(encode(message))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.ranks.process", description="One rank of an engine.")
    for name in ("replica", "rank", "ranks", "parent", "ring", "line", "meeting"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args(arguments)
    die_with(options.parent)
    # What these mean is the gateway's decision, see engine.process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    set_process_name(f"penstock-r{options.replica}.{options.rank}")
    with log_context(engine=str(options.replica), rank=str(options.rank)):
        return RankProcess(options.rank, options.ranks, options.ring, options.line, options.meeting).run()


if __name__ == "__main__":
    sys.exit(main())
