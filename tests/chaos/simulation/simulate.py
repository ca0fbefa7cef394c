"""Runs histories: ``--seed N`` is one of them, ``--count N`` the first N, ``--seconds N`` random ones for so long."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator

import sim_history
import sim_planted


def run_quietly(seed: int) -> tuple[int, Counter[str], str]:
    """(seed, what happened, the report of a failure or nothing)."""
    logging.disable()  # supervisors warn of every engine that is lost
    try:
        return seed, sim_history.run(seed).happened, ""
    except sim_history.FailedHistoryError as error:
        return seed, Counter(), str(error)


def run_one(seed: int) -> int:
    logging.disable()
    try:
        outcome = sim_history.run(seed)
    except sim_history.FailedHistoryError as error:
        print(error)
        return 1
    print(f"history {seed}: digest {outcome.digest}, {outcome.simulated_seconds:.3f} simulated seconds")
    return 0


def run_many(seeds: Iterable[int], jobs: int) -> int:
    """Stops at the first that fails."""
    began, count, total = time.monotonic(), 0, Counter[str]()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for _, happened, failure in pool.imap_unordered(run_quietly, seeds, chunksize=4):
            if failure:
                print(failure)
                return 1
            count += 1
            total += happened
    for what, often in sorted(total.items()):
        print(f"{often:9}  {what}")
    print(f"{count} histories in {time.monotonic() - began:.0f} s, and every invariant has held")
    return 0


def run_planted(most: int) -> int:
    """For each planted bug, after how many histories it is caught."""
    missed = 0
    for name, plant in sim_planted.BUGS.items():
        with plant():
            for seed in range(most):
                _, _, failure = run_quietly(seed)
                if failure:
                    reason = failure.split("\n\n")[1]
                    print(f"| {name} | {seed + 1} | {reason[:140]}", flush=True)
                    break
            else:
                missed += 1
                print(f"| {name} | not caught |", flush=True)
    return missed


def random_seeds(seconds: float) -> Iterator[int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield random.getrandbits(48)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this history alone, and show what happened in it if it fails")
    parser.add_argument("--count", type=int, help="run so many, with the seeds 0, 1, 2 …")
    parser.add_argument("--seconds", type=float, default=60.0, help="run random ones for so long")
    parser.add_argument("--planted", action="store_true", help="say after how many each planted bug is caught")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.planted:
        return run_planted(options.count or 300)
    if options.seed is not None:
        return run_one(options.seed)
    if options.count is not None:
        return run_many(range(options.count), options.jobs)
    return run_many(random_seeds(options.seconds), options.jobs)


if __name__ == "__main__":
    sys.exit(main())
