"""Ops, providers and the choice between them.

An *op* is a module of ``kernels.ops``: a signature with its torch reference, tolerances and example inputs. A
*provider* is a module ``kernels.providers.<name>.<op>`` that declares ``PROVIDER``: another implementation of the op
of that name. Both are found by package scan; there is no table to edit.

A provider is chosen when a layer is built, by declared priority among those that support the machine and accept the
layer's shapes and dtypes. The choice is never re-timed, and every choice made is part of the fingerprint.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import pkgutil
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

logger = logging.getLogger(__name__)

F = TypeVar("F")
S = TypeVar("S")

REFERENCE = "torch"
"""Name under which an op's reference is chosen where no provider fits."""


class NotInvariantError(ValueError):
    """No implementation of an op is deterministic here."""


class NotUsableError(RuntimeError):
    """What a provider would load is installed, but is not what the provider knows. The message is one line."""


@dataclass(frozen=True)
class Tolerance:
    """Greatest difference between a provider and the reference: ``atol + rtol * |reference|``."""

    atol: float
    rtol: float


EXACT = Tolerance(0.0, 0.0)


@dataclass(frozen=True)
class Example(Generic[S]):
    """Inputs an op is tried with."""

    spec: S
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def _call(implementation: Any, *arguments: Any, **options: Any) -> Any:
    return implementation(*arguments, **options)


@dataclass(frozen=True)
class Op(Generic[F, S]):
    """One operation. F is the type of an implementation, S of the shapes and dtypes that a choice depends on."""

    name: str
    reference: F
    tolerances: Mapping[torch.dtype, Tolerance]
    """The dtypes the op is defined for, each with the tolerance a provider is held to."""
    examples: Callable[[torch.dtype, torch.Generator], Iterable[Example[S]]]
    invariant: bool = False
    """Whether the reference computes a row in the same bits in any company, on any device."""
    run: Callable[..., Any] = _call
    """``run(implementation, *arguments, **options)`` returns every tensor the op produces, those it writes included."""


@dataclass(frozen=True)
class Machine:
    """What a provider may ask about the hardware."""

    device: str
    """``cpu`` or ``cuda``."""
    capability: str
    """Instruction set of a CPU as torch dispatches on it (``AVX2``), or architecture of a GPU (``sm_90``)."""
    name: str
    """Of the processor model: a library may dispatch on it."""
    threads: int
    """That torch computes with; 1 on a GPU."""
    deterministic: bool = False
    """Whether what is computed of a row has to have the same bits in any company, at whatever cost."""

    @classmethod
    def detect(cls, device: torch.device, *, deterministic: bool = False) -> Machine:
        if device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(device)
            return cls("cuda", f"sm_{major}{minor}", torch.cuda.get_device_name(device), 1, deterministic)
        capability = torch.backends.cpu.get_cpu_capability()
        return cls("cpu", capability, _cpu_name(), torch.get_num_threads(), deterministic)


def _cpu_name() -> str:
    """As Linux tells it; elsewhere, and on processors that have no name there, the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@dataclass(frozen=True)
class Provider(Generic[F, S]):
    """One implementation of one op. Its module must import anywhere: what a machine may lack is imported by load."""

    name: str
    version: str
    priority: int
    """The highest of those that fit is chosen; the reference has 0."""
    supported: Callable[[Machine], bool]
    accepts: Callable[[S], bool]
    load: Callable[[], F]
    """Raises NotUsableError where another provider has to be taken."""
    build: Callable[[], str] = str
    """Name and digest of the compiled code, where it has any. A package of providers that defines ``build`` has one."""


def ops() -> Iterator[Op[Any, Any]]:
    """Every op, by name."""
    package = importlib.import_module("kernels.ops")
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        yield importlib.import_module(f"kernels.ops.{module.name}").OP


def providers(op: str) -> Iterator[Provider[Any, Any]]:
    """Every provider of an op, on whatever machine, the first choice first."""
    package = importlib.import_module("kernels.providers")
    found = []
    for folder in pkgutil.iter_modules(package.__path__):
        inner = importlib.import_module(f"kernels.providers.{folder.name}")
        if op in (module.name for module in pkgutil.iter_modules(inner.__path__)):
            provider = importlib.import_module(f"kernels.providers.{folder.name}.{op}").PROVIDER
            found.append(replace(provider, build=getattr(inner, "build", provider.build)))
    yield from sorted(found, key=lambda provider: (-provider.priority, provider.name))


class Kernels:
    """The implementations that one engine computes with: chosen while its model is built, then fixed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._supported: dict[str, list[Provider[Any, Any]]] = {}
        self._loaded: dict[tuple[str, str], Any] = {}
        """None where that is not usable."""
        self._chosen: dict[tuple[str, str], str] = {}
        self._builds: set[str] = set()

    def select(self, op: Op[F, S], spec: S) -> F:
        """The implementation of an op for these shapes and dtypes.

        Raises NotInvariantError where the machine is to be deterministic and nothing here is that.
        """
        for provider in self._candidates(op.name):
            implementation: F | None = self._load(op.name, provider) if provider.accepts(spec) else None
            if implementation is not None:
                self._chosen[op.name, repr(spec)] = f"{provider.name} {provider.version}"
                return implementation
        if self.machine.deterministic and not op.invariant:
            raise NotInvariantError(f"nothing on this machine computes {op.name} in one order for {spec}")
        self._chosen[op.name, repr(spec)] = f"{REFERENCE} {torch.__version__}"
        return op.reference

    def _load(self, op: str, provider: Provider[F, S]) -> F | None:
        """Its implementation, once; None where it cannot be used here, which is said once."""
        key = (op, provider.name)
        if key not in self._loaded:
            try:
                self._loaded[key] = provider.load()
                self._builds |= {provider.build()} - {""}
            except NotUsableError as error:
                logger.warning("%s does not compute %s: %s", provider.name, op, error)
                self._loaded[key] = None
        implementation: F | None = self._loaded[key]
        return implementation

    def _candidates(self, op: str) -> list[Provider[Any, Any]]:
        if op not in self._supported:
            self._supported[op] = [provider for provider in providers(op) if provider.supported(self.machine)]
        return self._supported[op]

    def add_others(self, kernels: Kernels) -> None:
        """Take over what was chosen there for ops that nothing has been chosen for here."""
        known = {op for op, _ in self._chosen}
        self._chosen |= {key: provider for key, provider in kernels._chosen.items() if key[0] not in known}
        self._builds |= kernels._builds

    @property
    def chosen(self) -> dict[str, str]:
        """Op name → providers in use, joined by ``+`` where shapes differ in it."""
        names: dict[str, set[str]] = {}
        for (op, _), provider in self._chosen.items():
            names.setdefault(op, set()).add(provider.split(" ")[0])
        return {op: "+".join(sorted(used)) for op, used in sorted(names.items())}

    @property
    def builds(self) -> list[str]:
        """Name and digest of each compiled build in use."""
        return sorted(self._builds)

    @cached_property
    def _environment(self) -> list[str]:
        machine = self.machine
        return [torch.__version__, machine.device, machine.capability, machine.name, str(machine.threads)]

    def fingerprint(self) -> str:
        """Hex digest over machine, torch, builds and every choice made so far: equal digests compute equal numbers."""
        choices = sorted([op, spec, provider] for (op, spec), provider in self._chosen.items())
        return hashlib.sha256(json.dumps([self._environment, choices, self.builds]).encode()).hexdigest()
