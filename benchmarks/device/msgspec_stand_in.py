"""What the engine needs of msgspec to run inside one process, on a machine that has no msgspec.

Structs are made, compared, copied and shown as msgspec's are; they are neither checked, nor frozen, nor encoded.
"""

from __future__ import annotations

import copy
import inspect
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class Struct:
    __struct_fields__: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """``options`` are msgspec's (frozen, tag, ...): none changes what is done here."""
        own = [name for name in inspect.get_annotations(cls) if name not in cls.__struct_fields__]
        cls.__struct_fields__ = (*cls.__struct_fields__, *own)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        given = dict(zip(self.__struct_fields__, arguments, strict=False)) | named
        for name in self.__struct_fields__:
            if name not in given and not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} needs {name}")
            setattr(self, name, given.pop(name) if name in given else copy.copy(getattr(type(self), name)))
        if given:
            raise TypeError(f"{type(self).__name__} has no {', '.join(given)}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def replace(struct: Any, /, **changes: Any) -> Any:
    return type(struct)(**(vars(struct) | changes))


class _Codec:
    """Nothing is sent to another process."""

    def __init__(self, kind: Any = None) -> None: ...


def install() -> bool:
    """Answer to the name ``msgspec`` where nothing else does; whether that was so."""
    if "msgspec" in sys.modules or find_spec("msgspec") is not None:
        return False
    module, structs, msgpack = (ModuleType(name) for name in ("msgspec", "msgspec.structs", "msgspec.msgpack"))
    structs.__dict__.update(replace=replace)
    msgpack.__dict__.update(Encoder=_Codec, Decoder=_Codec)
    module.__dict__.update(Struct=Struct, structs=structs, msgpack=msgpack, DecodeError=ValueError)
    sys.modules |= {each.__name__: each for each in (module, structs, msgpack)}
    return True
