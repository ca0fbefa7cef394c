"""A real Prometheus scrapes a real server under load, and every panel's and alert's expression is evaluated by it."""

import contextlib
import math
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from observability import vllm_names
from scripts.monitoring.boards import DASHBOARDS
from scripts.monitoring.rules import OBJECTIVES, WINDOWS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
LIMIT = 120.0
"""Seconds for anything that happens soon on a machine that is not busy."""
CHOSEN = {"$__rate_interval": "2m", "$model": ".*", "$replica": ".*", "$tenant": ".*"}


def asked(expression: str) -> str:
    """As Grafana sends it, with everything chosen."""
    for name, value in CHOSEN.items():
        expression = expression.replace(name, value)
    return expression


PANELS = {
    f"{board.title}: {panel.title}: {query.legend}": asked(query.expression)
    for board in DASHBOARDS
    for panel in board.panels
    for query in panel.queries
}

RECORDED = {objective.recorded(window): objective.recorded(window) for objective in OBJECTIVES for window in WINDOWS}
THEIRS = {
    name: f'{{__name__=~"{vllm_names.PREFIX}{name}|{vllm_names.PREFIX}{name}_count"}}'
    for name in (*vllm_names.NAMES, *vllm_names.JOINED)
}


class Prometheus:
    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)

    def get(self, path: str, **parameters: str) -> Any:
        response = self._http.get(f"/api/v1/{path}", params=parameters)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def has_data(self, expression: str) -> bool:
        """Whether it gives a number."""
        result = self.get("query", query=expression)["result"]
        return any(not math.isnan(float(series["value"][1])) for series in result)

    def close(self) -> None:
        self._http.close()

    def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self._http.get("/-/ready").status_code == 200
        return False


@pytest.fixture
def prometheus(server, tmp_path: Path) -> Iterator[Prometheus]:
    """The project's configuration and rules; only the target and the pace are the test's."""
    command = shutil.which("prometheus")
    assert command is not None, "scripts/install-debian-packages installs prometheus"
    config = yaml.safe_load((ROOT / "observability/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [server.url.removeprefix("http://")]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(ROOT / "observability/alerts.yml", tmp_path / "alerts.yml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    log = tmp_path / "prometheus.log"
    with log.open("wb") as out:
        process = subprocess.Popen([command, *arguments], stdout=out, stderr=out)
    running = Prometheus(f"http://127.0.0.1:{port}")
    try:
        end = time.monotonic() + LIMIT
        while not running.ready():
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
            time.sleep(0.1)
        yield running
    finally:
        running.close()
        process.terminate()
        process.wait(30)


@pytest.fixture
def server(across_a_kill, start_server, tmp_path: Path) -> Iterator[Any]:
    journal = str(tmp_path / "journal.db")
    with start_server("--journal", journal, "--unknown-fields", "ignore", "--metrics-compat", "vllm") as running:
        yield running


def chat(url: str, **fields: Any) -> httpx.Response:
    headers = fields.pop("headers", {})
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Tell me of the sea."}],
        "max_tokens": 24,
    } | fields
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=LIMIT)


def one_round(url: str, number: int) -> None:
    """A little of everything that is measured."""
    assert chat(url, headers=TRACEPARENT).status_code == 200
    assert chat(url, stream=True, headers={"X-Penstock-Resume": "sse"}).text.endswith("data: [DONE]\n\n")
    schema = {"type": "object", "properties": {f"a{number}": {"type": "boolean"}}, "required": [f"a{number}"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert chat(url, response_format=form, nobody_knows_this=1).status_code == 200
    assert chat(url, max_tokens=-1).status_code == 400
    assert httpx.get(f"{url}/v1/streams/nothing", timeout=LIMIT).status_code == 404


def wait_for(prometheus: Prometheus, expressions: dict[str, str], failures: list[BaseException]) -> None:
    """Until each has given a number, or the load has failed."""
    left, end = expressions, time.monotonic() + 2 * LIMIT
    while left and not failures:
        left = {title: each for title, each in left.items() if not prometheus.has_data(each)}
        assert not left or time.monotonic() < end, left
        time.sleep(0.5)


def test_every_panel_and_every_rule_finds_data(across_a_kill, server, prometheus: Prometheus) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def load() -> None:
        number = 0
        try:
            while not stop.is_set():
                one_round(server.url, number := number + 1)
                if number % 5 == 2:
                    across_a_kill(server)
        except BaseException as failure:
            failures.append(failure)

    loading = threading.Thread(target=load)
    loading.start()
    try:
        wait_for(prometheus, PANELS | RECORDED | THEIRS, failures)
    finally:
        stop.set()
        loading.join(LIMIT)
    assert not failures
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["type"] for rule in rules} == {"recording", "alerting"}
    assert [rule for rule in rules if rule["health"] == "err"] == []
    for rule in rules:
        prometheus.get("query", query=rule["query"])
    now = time.time()
    series = prometheus.get(
        "query_exemplars",
        query="penstock_time_to_first_token_seconds_bucket",
        start=str(now - 3600),
        end=str(now + 60),
    )
    assert {each["labels"]["trace_id"] for labels in series for each in labels["exemplars"]} == {TRACE}
    promtool = shutil.which("promtool")
    assert promtool is not None
    lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    ours = "".join(f"{line}\n" for line in lines if vllm_names.PREFIX not in line)
    checked = subprocess.run([promtool, "check", "metrics"], input=ours, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
