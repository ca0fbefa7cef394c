"""The scripts behind `make`: what they say on a machine that lacks something."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ("chromium", "cc", "prometheus", "promtool", "docker-compose")
CROSS = "" if platform.machine() == "aarch64" else " gcc-aarch64-linux-gnu libc6-dev-arm64-cross"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of commands that is the whole PATH: only bash at first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bash").symlink_to(shutil.which("bash") or "/bin/bash")
    return folder


def command(machine: Path, name: str, script: str) -> None:
    path = machine / name
    path.write_text(f"#!{machine}/bash\n{script}\n")
    path.chmod(0o755)


def run(machine: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command_line = [str(machine / "bash"), str(ROOT / "scripts" / script), *arguments]
    return subprocess.run(command_line, env={"PATH": str(machine)}, text=True, capture_output=True)


def test_nothing_is_installed_where_nothing_is_missing(machine: Path) -> None:
    for name in (
        "chromium",
        "cc",
        "prometheus",
        "promtool",
        "docker-compose",
        "aarch64-linux-gnu-gcc",
        "qemu-aarch64-static",
    ):
        command(machine, name, "exit 0")
    command(machine, "apt-get", "echo called; exit 1")
    result = run(machine, "install-debian-packages")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_machine_without_apt_is_told_what_is_missing(machine: Path) -> None:
    command(machine, "cc", "exit 0")
    result = run(machine, "install-debian-packages")
    assert result.returncode == 1
    assert "the tests need chromium" in result.stderr and len(result.stderr.splitlines()) == 1


def test_missing_packages_are_installed_without_a_question(machine: Path) -> None:
    calls = machine.parent / "calls"
    command(machine, "qemu-aarch64-static", "exit 0")
    command(machine, "apt-get", f'echo "${{DEBIAN_FRONTEND:-}}: $@" >> {calls}; if read -r line; then exit 1; fi')
    command(machine, "sudo", '[[ $1 == -n ]] && shift && exec "$@"')
    for name in ("env", "true"):
        (machine / name).symlink_to(str(shutil.which(name)))
    assert run(machine, "install-debian-packages").returncode == 0
    assert calls.read_text().splitlines() == [
        ": update",
        f"noninteractive: install -y --no-install-recommends chromium gcc libc6-dev prometheus docker-compose{CROSS}",
    ]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 127", "Python 3.11 or newer is needed"),
        ('[[ $2 == *version_info* ]] && exit 1; echo "Python 3.9.2"', "is Python 3.9.2"),
        ("[[ $2 != *ensurepip* ]]", "apt-get install python3-venv"),
    ],
)
def test_an_environment_that_cannot_be_made_is_explained_in_one_line(
    machine: Path, tmp_path: Path, script: str, message: str
) -> None:
    command(machine, "python3", script)
    result = run(machine, "make-environment", "python3", str(tmp_path / "venv"))
    assert result.returncode == 1
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_python_that_is_not_there_is_explained(machine: Path, tmp_path: Path) -> None:
    result = run(machine, "make-environment", "python3.99", str(tmp_path / "venv"))
    assert result.returncode == 1
    assert result.stderr == "penstock: there is no python3.99; choose another with: make PYTHON=python3.12\n"
