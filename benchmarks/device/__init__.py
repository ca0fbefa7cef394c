"""Parts of ``benchmarks.gpu``. What is here may import the engine on a machine that has no msgspec."""

from benchmarks.device import msgspec_stand_in

msgspec_stand_in.install()
