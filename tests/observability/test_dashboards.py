"""Dashboards, rules and the files around them name only what exists."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from observability.metrics_table import METRICS, PREFIX
from scripts.monitoring.boards import DASHBOARDS
from scripts.monitoring.rules import OBJECTIVES, WINDOWS, alerts_file

ROOT = Path(__file__).parents[2]
RULES = [rule for group in yaml.safe_load(alerts_file())["groups"] for rule in group["rules"]]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
EXPRESSIONS = [query.expression for board in DASHBOARDS for panel in board.panels for query in panel.queries]
EXPRESSIONS += [rule["expr"] for rule in RULES]
METRIC = re.compile(r"\bpenstock_[a-z_]+")


def exported() -> set[str]:
    """Every name of a sample."""
    names = set()
    for row in METRICS:
        suffixes = ("_bucket", "_count", "_sum") if row.kind == "histogram" else ("",)
        names |= {PREFIX + row.name + suffix for suffix in suffixes}
    return names


@pytest.mark.parametrize("expression", sorted(set(EXPRESSIONS)))
def test_an_expression_names_only_what_is_measured(expression: str) -> None:
    assert set(METRIC.findall(expression)) <= exported()
    assert set(re.findall(r"\bpenstock:\w+:\w+", expression)) <= RECORDED


def test_the_bounds_of_objectives_are_bounds_of_buckets() -> None:
    bounds = {PREFIX + row.name: {f"{bound:.10g}" for bound in row.buckets} for row in METRICS}
    seen = 0
    for expression in EXPRESSIONS:
        for metric, bound in re.findall(r'(penstock_\w+)_bucket\{le="([^"]+)"\}', expression):
            assert bound in bounds[metric]
            seen += 1
    assert seen >= 2 * len(WINDOWS)


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.title)
def test_a_dashboard_is_laid_out_and_asks_the_chosen_data_source(board) -> None:
    loaded = json.loads(board.json())
    panels = loaded["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24
    for panel in panels:
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
            assert all(
                "rate(" not in target["expr"] or "$__rate_interval" in target["expr"] for target in panel["targets"]
            )
    names = {variable["name"] for variable in loaded["templating"]["list"]}
    assert set(re.findall(r'=~"\$(\w+)"', board.json().replace("\\", ""))) <= names


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.title)
def test_a_panel_says_what_it_shows_without_its_row(board) -> None:
    titles = [(panel.title, panel.kind) for panel in board.panels]
    assert len({title for title, kind in titles if kind != "stat"}) == sum(kind != "stat" for _, kind in titles)
    for panel in board.panels:
        for query in panel.queries:
            assert "{{replica}}" not in query.legend or "replica {{replica}}" in query.legend, panel.title
            if re.match(r"sum (by \([\w, ]+\) )?\(rate\(", query.expression) and " / " not in query.expression:
                assert panel.unit == "reqps" or panel.unit.endswith("/s"), panel.title


def test_only_what_has_an_objective_is_red_and_may_have_no_traffic() -> None:
    for board in DASHBOARDS:
        panels = {panel["title"]: panel for panel in json.loads(board.json())["panels"]}
        for panel in board.panels:
            if panel.kind != "stat":
                continue
            defaults = panels[panel.title]["fieldConfig"]["defaults"]
            promised = panel.objective is not None
            # Without colours or steps of its own, Grafana shows numbers above 80 in red.
            assert (defaults.get("color") is None, "thresholds" in defaults, "noValue" in defaults) == (promised,) * 3


def test_the_page_says_of_every_alert_what_to_do() -> None:
    page = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`Penstock.*?) \|", page, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == {rule["alert"] for rule in RULES if "alert" in rule}


def test_provisioning_finds_the_dashboards_and_the_data_source() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    grafana = compose["services"]["grafana"]
    mounts = dict(mount.removesuffix(":ro").split(":") for mount in grafana["volumes"])
    places = {place: ROOT / folder for folder, place in mounts.items() if folder.startswith(".")}
    provisioning = places["/etc/grafana/provisioning"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/penstock.yml").read_text())["providers"]
    assert sorted(path.stem for path in places[provider["options"]["path"]].iterdir()) == [
        "engine", "overview", "recovery", "tenants",
    ]  # fmt: skip
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (places[str(home.parent)] / home.name).is_file()
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert (source["uid"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert "prometheus" in compose["services"]


def test_what_compose_starts_is_pinned_checked_and_not_root() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    dockerfile = (ROOT / "Dockerfile").read_text()
    for name, service in compose["services"].items():
        if "build" in service:
            stage = dockerfile.split(f"FROM runtime AS {service['build']['target']}\n")[1].split("FROM")[0]
            assert "USER penstock" in stage and "HEALTHCHECK" in dockerfile
            continue
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        assert service["healthcheck"]["test"] and not service["user"].startswith("0"), name


@pytest.mark.parametrize("profile", ["cpu", "nvidia"])
def test_compose_reads_each_profile(profile: str, tmp_path: Path) -> None:
    command = shutil.which("docker-compose")
    assert command is not None, "scripts/install-debian-packages installs docker-compose"
    for name in ("docker-compose.yml", ".env"):
        shutil.copy(ROOT / name, tmp_path / name)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "COMPOSE_PROFILES": profile}
    done = subprocess.run(
        [command, "config"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert f"gateway-{profile}" in services and "prometheus" in services
    target = "penstock"
    scraped = yaml.safe_load((ROOT / "observability/prometheus.yml").read_text())["scrape_configs"]
    assert [job["job_name"] for job in scraped] == [target]
    assert scraped[0]["static_configs"] == [{"targets": ["gateway:8000"]}]
    assert services[f"gateway-{profile}"]["networks"]["default"]["aliases"] == ["gateway"]


def test_objectives_are_recorded_over_every_window() -> None:
    assert {objective.recorded(window) for objective in OBJECTIVES for window in WINDOWS} == RECORDED
