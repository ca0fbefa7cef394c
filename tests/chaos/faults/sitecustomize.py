"""Faults for the chaos tests, put into engine processes from outside: the product knows nothing of them.

Python imports a module of this name at its start. It lets ``Worker.execute`` fail at one position of the requests with
certain seeds, and hang once or be slow where a file says so.
"""

import importlib.abc
import importlib.machinery
import os
import pathlib
import signal
import sys
import time

POSITION = 40
"""Output tokens that a request has when it fails."""


def segfault():
    os.kill(os.getpid(), signal.SIGSEGV)


def raise_in_kernel():
    raise ValueError("a kernel has failed")


def run_out_of_memory():
    raise MemoryError("not enough for this step")


def exit_without_a_word():
    os._exit(9)


FAULTS = {666001: segfault, 666002: raise_in_kernel, 666003: run_out_of_memory, 666004: exit_without_a_word}


def slow_down():
    """While there is a file of that name, by the seconds that it holds, or 0.2."""
    try:
        seconds = pathlib.Path(os.environ["CHAOS_SLOW"]).read_text()
    except (KeyError, FileNotFoundError):
        return
    time.sleep(float(seconds or "0.2"))


def hang_once():
    try:
        pathlib.Path(os.environ["CHAOS_HANG"]).unlink()
    except (KeyError, FileNotFoundError):
        return
    time.sleep(10_000)


class Loader(importlib.abc.Loader):
    def __init__(self, real):
        self.real = real

    def create_module(self, spec):
        return self.real.create_module(spec)

    def exec_module(self, module):
        self.real.exec_module(module)
        execute = module.Worker.execute

        def execute_or_fail(worker, batch):
            slow_down()
            hang_once()
            for sample in batch.samples:
                if sample.seed in FAULTS and sample.position == POSITION:
                    FAULTS[sample.seed]()
            return execute(worker, batch)

        module.Worker.execute = execute_or_fail


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "engine.worker.worker":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = Loader(spec.loader)
        return spec


sys.meta_path.insert(0, Finder())
