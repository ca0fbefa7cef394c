"""``benchmarks.gpu`` goes through to its end on a CPU, with nothing but the packages that a GPU machine may have."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import gpu

PROGRAM = """
import re
import runpy
import sys
from importlib import metadata


def needed(roots):
    # Names of distributions: these and all that they depend on.
    found, waiting = set(), list(roots)
    while waiting:
        name = re.sub("[-_.]+", "-", waiting.pop()).lower()
        if name not in found:
            try:
                requires = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            found.add(name)
            plain = [each for each in requires if "extra" not in each.partition(";")[2]]
            waiting += [re.match("[A-Za-z0-9._-]+", each)[0] for each in plain]
    return found


allowed = needed(["torch", "triton", "transformers", "safetensors"])
refused = {
    package
    for package, owners in metadata.packages_distributions().items()
    if not any(re.sub("[-_.]+", "-", owner).lower() in allowed for owner in owners)
} - {"benchmarks", "engine", "kernels", "observability"}
refused.add("pydantic")  # Something may want it for what nobody calls here.
assert {"fastapi", "msgspec", "zmq", "prometheus_client", "llguidance"} <= refused, refused
assert not {"torch", "numpy", "transformers"} & refused


class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in refused else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = map(Hiding, sys.meta_path)
sys.argv[:] = ["benchmarks.gpu", "--device", "cpu", "--small", "--out", sys.argv[1]]
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
assert sys.modules["msgspec"].__spec__ is None
"""


@pytest.mark.slow
def test_it_needs_no_other_packages_and_reports_every_section(tmp_path: Path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "gpu")],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    sections = {"kernels", "peaks", "decoding", "without_graphs", "without_overlap", "prefill", "deterministic"}
    sections.add("transformers")
    assert set(found) == {"about", *sections}
    assert all(found[name]["rows"] for name in sections)
    assert not [row for row in found["kernels"]["rows"] if row["problem"]]
    measured = {row["op"] for row in found["kernels"]["rows"] if row["greatest"] is not None}
    assert measured >= {"linear", "paged_attention", "rms_norm", "token_logprobs"}
    same = [row["same_logits"] for row in found["deterministic"]["rows"] if "same_logits" in row]
    assert same and all(same)
    models = {row["model"] for row in found["decoding"]["rows"]}
    report = (tmp_path / "gpu.md").read_text()
    assert all(model in report for model in models)
    assert "(gpu.svg)" in report
    bars = [row for row in found["decoding"]["rows"] if "roofline_share" in row]
    drawn = ElementTree.parse(tmp_path / "gpu.svg").getroot().findall("{http://www.w3.org/2000/svg}rect")
    assert len(drawn) == 1 + len(bars) > 1


def test_a_section_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_):
        raise RuntimeError("no such speed")

    monkeypatch.setitem(gpu.SECTIONS, "prefill", broken)
    sections = ["--sections", "prefill", "peaks"]
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--device", "cpu", "--small", *sections, "--out", str(tmp_path / "g")])
    assert ended.value.code == 1
    found = json.loads((tmp_path / "g.json").read_text())
    assert found["prefill"]["failed"] == "RuntimeError: no such speed"
    assert found["peaks"]["rows"]
    assert "**Failed:** `RuntimeError: no such speed`" in (tmp_path / "g.md").read_text()
