"""Which build is chosen and which is refused; and that running kernels elsewhere shows what it is there to show."""

import ctypes
import logging
import subprocess

import builds_for_tests
import pytest
import torch
from remote_library import RemoteLibrary, harness

from kernels.ops.silu_and_mul import OP, SiluAndMulSpec
from kernels.providers.cpu import loader, variants
from kernels.providers.cpu.library import Library
from kernels.registry import Kernels, Machine

FAULTY = """
#include "team.h"
struct numbers { const float *from; float *to; int64_t count; };
EXPORT void penstock_copy(const void *args, const struct step *step, struct member *member)
{
    const struct numbers *a = args;
    if (next_piece(member) == 0)
        for (int64_t i = 0; i < a->count; i++)
            a->to[i] = a->from[i] + (float)step->tokens;
}
"""


@pytest.fixture
def machine(monkeypatch):
    return lambda name: monkeypatch.setattr(variants.platform, "machine", lambda: name)


@pytest.mark.parametrize(
    ("name", "capability", "expected"),
    [
        ("x86_64", "AVX512", "avx512"),
        ("x86_64", "AVX2", "avx2"),
        ("AMD64", "DEFAULT", "baseline"),
        ("aarch64", "DEFAULT", "neon"),
        ("arm64", "SVE256", "neon"),
    ],
)
def test_a_processor_has_one_build(machine, name, capability, expected):
    machine(name)
    assert variants.choose(capability).name == expected


def test_other_machines_have_none(machine):
    machine("riscv64")
    assert variants.choose("DEFAULT") is None


@pytest.fixture
def find(monkeypatch, caplog):
    """Find the kernels anew, in place of what was found before; returns them and what the log says."""
    caplog.set_level(logging.DEBUG, loader.logger.name)

    def find():
        caplog.clear()
        library = loader.find.__wrapped__()
        (record,) = caplog.records
        return library, record.getMessage()

    return find


def test_the_build_is_named_in_the_log(find):
    library, said = find()
    assert said == f"the kernels are the {library.variant} build"


def test_a_missing_build_is_not_replaced_by_another(find, monkeypatch, tmp_path):
    monkeypatch.setattr(loader, "FOLDER", tmp_path)
    assert find()[0] is None
    assert "build is missing; install a C compiler" in find()[1]


def test_a_build_of_other_sources_is_refused(find, monkeypatch, tmp_path):
    for source in variants.SOURCES.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(variants, "SOURCES", tmp_path)
    assert find()[0] is not None
    changed = tmp_path / "vec.h"
    changed.write_bytes(changed.read_bytes() + b"\n")
    library, said = find()
    assert library is None
    assert "not of the sources beside it; install Penstock again" in said


def test_a_build_that_does_not_say_what_it_is_made_of_is_refused(find, monkeypatch, tmp_path):
    source = tmp_path / "old.c"
    source.write_text("void penstock_run(void) {}")
    name = variants.choose(torch.backends.cpu.get_cpu_capability()).file
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(tmp_path / name)], check=True)
    monkeypatch.setattr(loader, "FOLDER", tmp_path)
    assert "not of the sources beside it" in find()[1]


def test_flags_are_part_of_the_digest():
    assert len({variants.digest(variant) for variant in variants.builds()}) == len(variants.builds())


def test_every_build_says_what_it_is_made_of():
    for variant in builds_for_tests.INSTALLED.values():
        assert loader.sources_of(loader.open_build(variant)) == variants.digest(variant)


def test_a_changed_source_changes_the_fingerprint(monkeypatch, tmp_path):
    variant = variants.choose(torch.backends.cpu.get_cpu_capability())
    before = chosen_for_this_processor()
    assert before.builds == [f"{variant.name} {variants.digest(variant)}"]
    for source in variants.SOURCES.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    changed = tmp_path / "activation.c"
    changed.write_bytes(changed.read_bytes() + b"/* changed */\n")
    monkeypatch.setattr(variants, "SOURCES", tmp_path)
    made_of = f'-DPENSTOCK_SOURCES="{variants.digest(variant)}"'
    command = ["cc", "-shared", "-fPIC", *variant.flags, made_of, str(tmp_path / "team.c"), str(changed)]
    subprocess.run([*command, "-o", str(tmp_path / variant.file), "-lm"], check=True)
    library = Library(tmp_path / variant.file, variant.name)
    monkeypatch.setattr(loader, "find", lambda: library)
    after = chosen_for_this_processor()
    assert after.builds == [f"{variant.name} {variants.digest(variant)}"] != before.builds
    assert after.fingerprint() != before.fingerprint()


def chosen_for_this_processor():
    kernels = Kernels(Machine.detect(torch.device("cpu")))
    kernels.select(OP, SiluAndMulSpec(64, torch.float32))
    return kernels


class Numbers(ctypes.Structure):
    _fields_ = [("source", ctypes.c_void_p), ("target", ctypes.c_void_p), ("count", ctypes.c_int64)]


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A kernel that reads as far as it is told to, in a process of its own."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty.c").write_text(FAULTY)
    include, sources = f"-I{variants.SOURCES}", [str(folder / "faulty.c"), str(variants.SOURCES / "team.c")]
    target = str(folder / "faulty.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-fvisibility=hidden", include, *sources, "-o", target], check=True)
    library = RemoteLibrary([str(harness(folder, "cc", variants.SOURCES)), target], "faulty")
    yield library
    library.close()


def copy(remote, count, covered=True):
    source, target = torch.arange(5.0), torch.zeros(7)
    arguments = Numbers(source[1:].data_ptr(), target.data_ptr(), count)
    remote.launch(remote.kernel("copy"), arguments, (source, target) if covered else (target,), 10)
    return target.tolist()


def test_a_launch_elsewhere_brings_its_results_back(remote):
    assert copy(remote, 4) == [11.0, 12.0, 13.0, 14.0, 0.0, 0.0, 0.0]
    assert copy(remote, 0) == [0.0] * 7


def test_one_number_too_many_ends_the_process_and_the_next_launch_has_another(remote):
    with pytest.raises(RuntimeError, match="copy of the faulty build ended with status -11"):
        copy(remote, 5)
    assert copy(remote, 2)[:3] == [11.0, 12.0, 0.0]


def test_memory_that_a_launch_does_not_name_is_an_error(remote):
    with pytest.raises(ValueError, match="the tensors of copy do not cover what source points to"):
        copy(remote, 1, covered=False)


def test_a_kernel_that_is_not_there_is_an_error(remote):
    with pytest.raises(AttributeError, match="penstock_paste"):
        remote.kernel("paste")
