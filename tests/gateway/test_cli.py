"""The command as a user meets it: help, mistakes and keys, in a process of its own where that matters."""

import hashlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

import gateway.cli
import gateway.commands
from gateway.cli_help import print_help
from gateway.head_start import HeadStart
from gateway.settings import ServeSettings, flag_of
from gateway.version import VERSION

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from gateway.cli import main; main()"]


def penstock(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, env=environment | variables, cwd=ROOT, text=True, capture_output=True
    )


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    """What the server would have been started with."""
    started: list[ServeSettings] = []

    def run(settings: ServeSettings, head_start: HeadStart, predecessor: None) -> int:
        started.append(settings)
        return 7

    monkeypatch.setattr(gateway, "server", SimpleNamespace(run=run), raising=False)
    return started


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["penstock", *arguments])
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            gateway.cli.main()
    finally:
        signal.signal(signal.SIGINT, interrupt)
    return ended.value.code


def test_flags_reach_the_server_and_its_status_is_the_commands(
    served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = "some/model --port 8123 --served-model-name a --served-model-name b --kv-cache-memory 2GiB"
    status = main(
        monkeypatch, "serve", *arguments.split(), "--no-enable-prefix-caching", "--api-key", "k", "-tp", "2", "-pp=3"
    )
    (settings,) = served
    assert status == 7
    assert settings.model == "some/model"
    assert (settings.port, settings.kv_cache_memory) == (8123, 2 * 2**30)
    assert settings.served_model_name == ("a", "b")
    assert settings.enable_prefix_caching is False
    assert settings.api_key == ("k",)
    assert (settings.tensor_parallel_size, settings.pipeline_parallel_size) == (2, 3)


def test_a_flag_that_is_not_given_leaves_variables_alone(
    served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_ENABLE_PREFIX_CACHING", "false")
    monkeypatch.setenv("PENSTOCK_SERVED_MODEL_NAME", "x,y")
    monkeypatch.setenv("PENSTOCK_MODEL", "from/variable")
    main(monkeypatch, "serve")
    assert served[0].enable_prefix_caching is False
    assert served[0].served_model_name == ("x", "y")
    assert served[0].model == "from/variable"


@pytest.mark.parametrize("width", [80, 100, 140])
def test_help_has_every_setting_and_fits_the_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    print_help(console)
    text = console.file.getvalue()
    words = text.replace("│", " ").split()
    for name in ServeSettings.model_fields:
        assert flag_of(name) in words or name == "model"
    assert {"-tp", "-pp"} <= set(words)
    assert "MODEL" in words and "--no-enable-prefix-caching" in words and "auto|float32|bfloat16|float16" in words
    assert max(map(len, text.splitlines())) <= width


def test_help_of_the_real_command_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['penstock', 'serve', '--help']\n"
        "from gateway.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'transformers', 'fastapi', 'uvicorn', 'yaml', 'zmq'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0
    assert result.stdout.rstrip().endswith("[]")
    assert "--max-model-len TOKENS" in result.stdout


@pytest.mark.parametrize(("arguments", "status"), [(("--help",), 0), (("-h",), 0), ((), 2)])
def test_the_overview_names_every_command(arguments: tuple[str, ...], status: int) -> None:
    result = penstock(*arguments)
    assert result.returncode == status
    assert result.stderr == ""
    for command in gateway.commands.app.registered_commands:
        assert f"{command.name} " in result.stdout


def test_version() -> None:
    assert penstock("--version").stdout.strip() == VERSION


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("serve", "--port", "99999"), "penstock: error: --port must be at most 65535, not '99999'"),
        (
            ("serve", "--quantization", "foo"),
            "penstock: error: --quantization must be one of none, int4, int8, not 'foo'",
        ),
        (("serve", "-tp", "0"), "penstock: error: --tensor-parallel-size must be at least 1, not '0'"),
        (("serve", "--prot", "1"), "penstock: error: No such option: --prot"),
        (("serve", "one", "two"), "penstock: error: Got unexpected extra argument"),
        (("server",), "penstock: error: No such command 'server'"),
        (("hash-key", ""), "penstock: error: the name must be text of 1 to 64 characters"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: tuple[str, ...], line: str) -> None:
    result = penstock(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith(line)


def test_ctrl_c_ends_a_start_though_what_is_imported_swallows_it() -> None:
    code = (
        "import os, signal, sys\n"
        "class Swallowing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'gateway.commands':\n"
        "            try: os.kill(os.getpid(), signal.SIGINT)\n"
        "            except KeyboardInterrupt: pass\n"
        "sys.meta_path.insert(0, Swallowing())\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.argv = ['penstock', 'serve', '--port', 'x']\n"
        "from gateway.cli import main\n"
        "main()"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


def test_an_unknown_variable_is_warned_of() -> None:
    result = penstock("serve", "--port", "x", PENSTOCK_PROT="1")
    assert result.stderr.splitlines()[0].startswith("penstock: warning: PENSTOCK_PROT is set but is not a setting")


def test_hash_key_makes_a_key_whose_hash_it_prints() -> None:
    result = penstock("hash-key", "alice", "--max-concurrency", "4")
    (entry,) = yaml.safe_load(result.stdout)
    key = result.stderr.split()[-1]
    assert entry == {"name": "alice", "sha256": hashlib.sha256(key.encode()).hexdigest(), "max_concurrency": 4}
    assert key not in result.stdout


def test_hash_key_reads_a_key_from_standard_input() -> None:
    result = penstock("hash-key", "bob", "--key", "-", stdin="a given key\n")
    assert yaml.safe_load(result.stdout) == [{"name": "bob", "sha256": hashlib.sha256(b"a given key").hexdigest()}]
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench", "--prompt-tokens", "many"), "--prompt-tokens: many: a length is 128"),
        (("bench", "--slo", "speed=1"), "--slo: 'speed' is none of ttft"),
        (("bench", "--slo", "ttft"), "--slo: 'ttft': write milliseconds, as in ttft=500"),
        (("chat", "Hi", "--set", "temperature"), "write NAME=VALUE"),
        (("chat", "Hi", "--url", "nowhere"), "is no address of a server"),
        (("top", "--interval", "0"), "--interval"),
        (("completion", "tcsh"), "'SHELL': 'tcsh' is not one of 'bash', 'zsh', 'fish'"),
        (("completion",), "Missing argument 'SHELL'. Choose from: bash, zsh, fish"),
    ],
)
def test_mistakes_of_the_other_commands_are_one_line(arguments: tuple[str, ...], words: str) -> None:
    result = penstock(*arguments)
    assert result.returncode in (1, 2) and result.stdout == ""
    assert result.stderr.startswith("penstock: error: ") and result.stderr.count("\n") == 1
    assert words in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_asks_this_command(shell: str) -> None:
    script = penstock("completion", shell).stdout
    assert f"_PENSTOCK_COMPLETE=complete_{shell}" in script


def test_commands_and_flags_are_completed() -> None:
    for typed, found in (("penstock to", "top"), ("penstock bench --conc", "--concurrency")):
        words = {"_PENSTOCK_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        assert penstock(**words).stdout.split() == [found]
