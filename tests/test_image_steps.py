"""The Dockerfile as ``scripts.image_steps`` reads it, and what it copies. Its steps run under ``make image-steps``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.image_steps import Builder, Built, Stage, Step, StepError, read, sources_of

ROOT = Path(__file__).parents[1]
DOCKERFILE = """# The first line.
FROM python:3 AS sources
# In between.
RUN apt-get update && \\
    # and a comment
    apt-get install gcc
COPY one two ./
FROM sources AS last
ENV PATH=/here:$PATH GREETING="good day"
COPY --from=sources /a /b
"""


def test_a_dockerfile_is_read_into_stages_and_steps() -> None:
    stages = read(DOCKERFILE)
    assert stages["sources"] == Stage(
        "python:3", [Step("RUN", "apt-get update && apt-get install gcc"), Step("COPY", "one two ./")]
    )
    assert stages["last"].base == "sources"
    assert [sources_of(step) for step in (stages["sources"].steps[1], stages["last"].steps[1])] == [
        ("", ["one", "two"], "./"),
        ("sources", ["/a"], "/b"),
    ]


def test_variables_build_on_those_before(tmp_path: Path) -> None:
    built = Built(tmp_path, {"PATH": "/bin"})
    builder = Builder({}, tmp_path)
    builder._apply(read(DOCKERFILE)["last"].steps[0], built)
    assert built.env == {"PATH": "/here:/bin", "GREETING": "good day"}
    with pytest.raises(StepError, match="ONBUILD"):
        builder._apply(Step("ONBUILD", "RUN true"), built)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_what_our_images_copy_is_there_and_not_ignored(target: str) -> None:
    stages = read((ROOT / "Dockerfile").read_text())
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    pending, copied = [target], set()
    while pending:
        stage = stages.get(pending.pop())
        for step in [] if stage is None else stage.steps:
            if step.word == "COPY":
                origin, sources, _ = sources_of(step)
                pending += [origin] if origin else []
                copied |= set() if origin else set(sources)
        pending += [] if stage is None else [stage.base]
    assert {"gateway", "engine", "kernels", "observability", "pyproject.toml"} <= copied
    for source in copied:
        assert (ROOT / source).exists() and Path(source).parts[0] in allowed, source


def test_the_image_starts_the_server_and_asks_whether_it_is_ready() -> None:
    words = {step.word: step.text for step in read((ROOT / "Dockerfile").read_text())["runtime"].steps}
    built = Built(ROOT, {}, words=words)
    assert built.command == ["penstock", "serve"]
    assert built.health_check[:2] == ["python", "-c"] and "/ready" in built.health_check[2]
    assert json.loads(words["CMD"]) == ["serve"]
