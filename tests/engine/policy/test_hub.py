from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import errors

from engine.errors import ModelError
from engine.hub import resolve

Reports = list[tuple[str, int, int, str]]


def no_progress(*report: object) -> None:
    raise AssertionError("nothing is downloaded here")


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    assert resolve(str(folder), None, no_progress) == folder


def test_a_folder_goes_before_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    assert resolve("org/model", None, no_progress) == Path("org/model")


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve(str(tmp_path), None, no_progress)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="is a file"):
        resolve(str(tmp_path / "model.safetensors"), None, no_progress)


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "a/b/c", "", "a b"])
def test_what_is_neither_a_folder_nor_an_id(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"There is no folder|has no config"):
        resolve(model, None, no_progress)


def test_a_hub_id_is_downloaded_with_progress_in_bytes(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "snapshot")
    reports: Reports = []
    asked: dict[str, Any] = {}

    def download(repo_id: str, *, tqdm_class: Any, **options: Any) -> str:
        asked.update(options, repo_id=repo_id)
        files = tqdm_class(total=2, desc="Fetching 2 files")
        size = tqdm_class(total=0, initial=0, unit="B", unit_scale=True)
        size.total += 100
        size.update(60)
        files.update(1)
        size.update(40)
        for bar in (files, size):
            bar.close()
        return str(folder)

    assert resolve("org/model", "v2", lambda *report: reports.append(report), download=download) == folder
    assert reports == [("download", 60, 100, "B"), ("download", 100, 100, "B")]
    assert (asked["repo_id"], asked["revision"]) == ("org/model", "v2")
    assert "*.safetensors" in asked["allow_patterns"] and not [p for p in asked["allow_patterns"] if "bin" in p]


def test_progress_draws_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def download(repo_id: str, *, tqdm_class: Any, **options: Any) -> str:
        with tqdm_class(total=5, unit="B") as bar:
            bar.update(5)
        return str(model_folder(tmp_path / "snapshot"))

    resolve("org/model", None, lambda *report: None, download=download)
    assert capfd.readouterr() == ("", "")


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError("401\nlong", response=response(401)), "is gated: accept its terms"),
        (errors.RepositoryNotFoundError("404", response=response(404)), "no model org/model on the Hugging Face Hub"),
        (errors.RevisionNotFoundError("404", response=response(404)), "has no revision v2"),
        (errors.LocalEntryNotFoundError("offline\nlong"), "at revision v2 is neither a folder here nor complete"),
        (errors.HfHubHTTPError("503 Server Error\nlong", response=response(503)), "downloaded: 503 Server Error"),
        (OSError(28, "No space left on device"), "could not be downloaded: .*No space left on device"),
        (TimeoutError(), "could not be downloaded: TimeoutError"),
    ],
)
def test_a_failed_download_is_one_readable_line(error: Exception, message: str) -> None:
    def download(repo_id: str, **options: Any) -> str:
        raise error

    with pytest.raises(ModelError, match=message) as caught:
        resolve("org/model", "v2", no_progress, download=download)
    assert "\n" not in str(caught.value)


def test_offline_the_real_client_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="cannot be reached"):
        resolve("org/model", None, no_progress)
    with pytest.raises(ModelError, match="not a Hugging Face id: Cannot have -- or"):
        resolve("org/a--b", None, no_progress)
