"""docs/kubernetes.md: its manifests are Kubernetes' by the schemas, Penstock's by routes, port, flags and metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.settings import ServeSettings, flag_of, variable_of
from observability.metrics_table import METRICS, PREFIX
from scripts.api_page import openapi

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
MANIFESTS: list[dict[str, Any]] = [each for block in BLOCKS for each in yaml.safe_load_all(block) if "kind" in each]
BY_KIND = {manifest["kind"]: manifest for manifest in MANIFESTS}
PORT = ServeSettings.model_fields["port"].default


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    (container,) = BY_KIND["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def built_in() -> list[dict[str, Any]]:
    """All that is not of an extension."""
    return [manifest for manifest in MANIFESTS if manifest["kind"] != "InferencePool"]


@pytest.mark.parametrize("manifest", built_in(), ids=lambda manifest: manifest["kind"])
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_a_manifest_is_what_kubernetes_knows(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_slip_of_the_pen_would_be_noticed() -> None:
    deployment = yaml.safe_load(yaml.safe_dump(BY_KIND["Deployment"]))
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 45
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_labels_lead_to_the_pods() -> None:
    labels = BY_KIND["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert BY_KIND["Service"]["spec"]["selector"] == labels
    for kind in ("Deployment", "PodDisruptionBudget", "InferencePool"):
        assert BY_KIND[kind]["spec"]["selector"]["matchLabels"] == labels
    target = BY_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", BY_KIND["Deployment"]["metadata"]["name"])


def test_probes_ask_routes_that_there_are_at_the_port_of_the_server(container: dict[str, Any]) -> None:
    routes = openapi()["paths"]
    (port,) = container["ports"]
    assert port["containerPort"] == PORT
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert "get" in routes[asked["path"]] and asked["port"] == port["name"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health", "a pod that recovers is not to be killed"
    assert BY_KIND["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert BY_KIND["InferencePool"]["spec"]["targetPorts"] == [{"number": PORT}]
    annotations = BY_KIND["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert "get" in routes[annotations["prometheus.io/path"]] and annotations["prometheus.io/port"] == str(PORT)


def test_arguments_are_settings_that_hold(container: dict[str, Any]) -> None:
    command, model, *flags = container["args"]
    known = {flag_of(name): name for name in ServeSettings.model_fields}
    given = {known[flag.partition("=")[0]]: flag.partition("=")[2] for flag in flags}
    assert command == "serve"
    settings = ServeSettings.load({"model": model, **given}, {})
    grace = BY_KIND["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= settings.drain_timeout + 10
    assert {each["name"] for each in container["env"]} <= set(map(variable_of, ServeSettings.model_fields))


def test_the_image_has_the_user_and_the_folder_of_the_manifest(container: dict[str, Any]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (mount,) = container["volumeMounts"]
    assert f"install -d -o penstock -g penstock {mount['mountPath']}" in dockerfile
    # The first user that is made in the base image.
    assert "useradd --create-home penstock" in dockerfile
    assert BY_KIND["Deployment"]["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 1000


def test_the_autoscaler_asks_for_gauges_that_there_are() -> None:
    gauges = {PREFIX + row.name for row in METRICS if row.kind == "gauge"}
    metrics = BY_KIND["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert {each["pods"]["metric"]["name"] for each in metrics} <= gauges
