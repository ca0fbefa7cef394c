"""One reader of three sources: what wins, what is refused, and what the refusal says."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineConfig
from gateway.settings import GROUPS, ServeSettings, SettingsError, option_of, unknown_variables


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    yield


def load(**flags: object) -> ServeSettings:
    return ServeSettings.load(flags, os.environ)


def mistakes(**flags: object) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(**flags)
    return list(caught.value.mistakes)


def yaml_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "penstock.yaml"
    path.write_text(text)
    return str(path)


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml_file(tmp_path, "port: 1\nmax-n: 1\nseed: 1\n")
    monkeypatch.setenv("PENSTOCK_PORT", "2")
    monkeypatch.setenv("PENSTOCK_MAX_N", "2")
    settings = load(config=config, port="3")
    assert (settings.port, settings.max_n, settings.seed, settings.block_size) == (3, 2, 1, 16)


def test_the_file_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CONFIG", yaml_file(tmp_path, "max_model_len: 99\nserved-model-name: [a, b]\n"))
    settings = load()
    assert settings.max_model_len == 99
    assert settings.served_model_name == ("a", "b")


def test_lists_from_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_API_KEY", "one, two,")
    assert load().api_key == ("one", "two")
    assert load(api_key=["three"]).api_key == ("three",)
    assert load(config=yaml_file(tmp_path, "cors-origins: '*'")).cors_origins == ("*",)


@pytest.mark.parametrize(
    ("written", "number"),
    [("2GiB", 2**31), ("1.5 MiB", 3 * 2**19), ("512MB", 512_000_000), ("4k", 4000), ("1048576", 2**20), (77, 77)],
)
def test_sizes(written: object, number: int) -> None:
    assert load(kv_cache_memory=written).kv_cache_memory == number


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"port": "70000"}, "--port must be at most 65535, not '70000'"),
        ({"port": "http"}, "--port must be a whole number, not 'http'"),
        ({"block_size": "0"}, "--block-size must be at least 1, not '0'"),
        (
            {"kv_cache_dtype": "fp8_e5m2"},
            "--kv-cache-dtype must be one of 'auto', 'float32', 'bfloat16', 'float16', 'fp8' or 'int8', not 'fp8_e5m2'",
        ),
        ({"dtype": "float8"}, "--dtype must be one of 'auto', 'float32', 'bfloat16' or 'float16', not 'float8'"),
        ({"gpu_memory_utilization": "0"}, "--gpu-memory-utilization must be more than 0, not '0'"),
        ({"gpu_memory_utilization": "most"}, "--gpu-memory-utilization must be a number, not 'most'"),
        ({"kv_cache_memory": "0"}, "--kv-cache-memory must be more than 0, not '0'"),
        (
            {"kv_cache_memory": "two gigs"},
            "--kv-cache-memory must be a size in bytes, such as 2GiB, 512MiB or 1073741824",
        ),
        ({"executor": "../x"}, "--executor must be a name, not '../x'"),
        ({"api_keys": "/nowhere/keys.yaml"}, "--api-keys names no file: /nowhere/keys.yaml"),
        ({"prot": "1"}, "--prot is not a setting; did you mean port?"),
    ],
)
def test_a_mistake_is_one_readable_line(flags: dict[str, object], line: str) -> None:
    assert mistakes(**flags) == [line]


def test_all_mistakes_are_told_at_once() -> None:
    assert len(mistakes(port="x", block_size="-1", unknown_fields="explode")) == 3


def test_a_mistake_names_the_variable_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_MAX_N", "0")
    assert mistakes() == ["PENSTOCK_MAX_N must be at least 1, not '0'"]


def test_a_service_link_of_kubernetes_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PORT", "tcp://10.0.0.1:8000")
    assert "enableServiceLinks: false" in mistakes()[0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("max-modl-len: 3", "max_modl_len is not a setting; did you mean max_model_len?"),
        ("config: other.yaml", "config is not a setting"),
        ("- port", "must hold a mapping"),
        ("port: [", "not valid YAML"),
        ("port: true", "must not be true"),
        ("port: 99999", "port in "),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, part: str) -> None:
    (line,) = mistakes(config=yaml_file(tmp_path, text))
    assert part in line
    assert str(tmp_path) in line


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert mistakes(config=str(tmp_path / "none.yaml")) == [f"{tmp_path}/none.yaml: No such file or directory"]


def test_a_key_is_shown_neither_in_a_mistake_nor_in_the_repr() -> None:
    assert "sk-secret" not in repr(load(api_key=["sk-secret"]))
    assert "sk-secret" not in mistakes(api_key={"sk-secret": 1})[0]


def test_unknown_variables_are_told_with_the_nearest_name() -> None:
    environ = {"PENSTOCK_PROT": "1", "PENSTOCK_PORT": "2", "HOME": "/"}
    assert unknown_variables(environ) == ["PENSTOCK_PROT is set but is not a setting; did you mean PENSTOCK_PORT?"]


def test_settings_do_not_change_after_they_are_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1


def test_the_engine_is_told_every_one_of_its_settings(tmp_path: Path) -> None:
    configs = load(block_size="32", kv_cache_memory="1MiB", enable_prefix_caching=False).engine_configs(tmp_path)
    assert configs == [
        EngineConfig(model=str(tmp_path), block_size=32, kv_cache_memory=2**20, enable_prefix_caching=False)
    ]


def test_defaults_are_the_engines_own() -> None:
    assert load().engine_configs(Path("m")) == [EngineConfig(model="m")]


def test_each_replica_knows_which_one_it_is() -> None:
    assert load(replicas="2").engine_configs(Path("m")) == [
        EngineConfig(model="m", replicas=2, replica=replica, cache_events=True) for replica in (0, 1)
    ]


def test_nobody_is_told_of_caches_who_does_not_look_at_them() -> None:
    configs = load(replicas="3", routing="random").engine_configs(Path("m"))
    assert [config.cache_events for config in configs] == [False] * 3


@pytest.mark.parametrize("written", ["fp8", "fp8_e4m3"])
def test_the_kv_caches_dtype_by_either_name(written: str) -> None:
    (config,) = load(kv_cache_dtype=written).engine_configs(Path("m"))
    assert config.kv_cache_dtype == "fp8"


@pytest.mark.parametrize("name", ServeSettings.model_fields)
def test_a_field_is_described_and_stands_in_a_group(name: str) -> None:
    description = ServeSettings.model_fields[name].description
    assert description and description.endswith(".")
    assert option_of(name).group in GROUPS
    if ServeSettings.model_fields[name].default is None:
        assert option_of(name).default, "None says nothing to a reader"
