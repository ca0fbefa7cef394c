"""The kernels of a GPU on a CPU; each provider and each kernel is noted in a file when it is first launched."""

import os
from dataclasses import replace
from pathlib import Path

from triton.runtime.interpreter import GridExecutor

import kernels.registry

_told = set()


def tell(what: str) -> None:
    if what not in _told:
        _told.add(what)
        with Path(os.environ["LAUNCHED"]).open("a", encoding="utf-8") as file:
            file.write(what + "\n")


class Told:
    """An implementation of an op."""

    def __init__(self, implementation, name):
        self._implementation, self._name = implementation, name

    def __call__(self, *arguments, **options):
        tell(self._name)
        return self._implementation(*arguments, **options)

    def __getattr__(self, name):
        return getattr(self._implementation, name)


def install() -> None:
    found, launch, machine = kernels.registry.providers, GridExecutor.__call__, kernels.registry.Machine

    def providers(op):
        for provider in found(op):
            name = f"{provider.name} {op}"
            yield replace(provider, load=lambda load=provider.load, name=name: Told(load(), name))

    def told_launch(self, *arguments, **options):
        tell(f"kernel {self.fn.__name__}")
        return launch(self, *arguments, **options)

    kernels.registry.providers, GridExecutor.__call__ = providers, told_launch
    machine.detect = classmethod(lambda cls, *_, **options: cls("cuda", "sm_90", "interpreted", 1, **options))
