"""The admin routes, and who may use them."""

from __future__ import annotations

import hashlib

import pytest
from http_for_tests import serving

from gateway.admission import Key, Keys, Tenant

KEYS = Keys([Key(hashlib.sha256(b"key").digest(), Tenant("alice"))])
ADMIN_KEYS = Keys.load(["root"])
API, ADMIN = {"authorization": "Bearer key"}, {"authorization": "Bearer root"}
ROUTES = [("GET", "/admin/replicas"), ("POST", "/admin/replicas/0/drain"), ("POST", "/admin/reset_prefix_cache")]


@pytest.mark.parametrize("keys", [Keys(), KEYS])
@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/admin"), ("POST", "/admin/anything")])
async def test_without_admin_keys_there_are_no_admin_routes(method, path, keys):
    async with serving(keys=keys) as server:
        for headers in ({}, API):
            response = await server.client.request(method, path, headers=headers)
            assert response.status_code == 404
            assert "--admin-key" in response.json()["error"]["message"]
        assert not server.lifecycle.resets


@pytest.mark.parametrize("keys", [Keys(), KEYS])
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_an_admin_key_opens_them(method, path, keys):
    async with serving(keys=keys, admin_keys=ADMIN_KEYS) as server:
        for headers in ({}, API):
            assert (await server.client.request(method, path, headers=headers)).status_code == 401
        assert not server.lifecycle.resets
        assert not any(view.draining for view in server.lifecycle.views)
        assert (await server.client.request(method, path, headers=ADMIN)).status_code == 200


async def test_an_admin_key_is_no_api_key():
    async with serving(keys=KEYS, admin_keys=ADMIN_KEYS) as server:
        assert (await server.client.get("/v1/models", headers=ADMIN)).status_code == 401
        assert (await server.client.post("/tokenize", json={"prompt": "a"}, headers=ADMIN)).status_code == 401


async def test_what_is_no_admin_route_is_not_found():
    async with serving(admin_keys=ADMIN_KEYS) as server:
        assert (await server.client.post("/admin/anything", headers=ADMIN)).json()["error"]["code"] == "unknown_url"


async def test_a_replica_is_drained():
    async with serving(admin_keys=ADMIN_KEYS) as server:
        answer = (await server.client.post("/admin/replicas/2/drain", headers=ADMIN)).json()
        assert answer == (await server.client.get("/admin/replicas", headers=ADMIN)).json()
        assert answer == {
            "ready": True,
            "replicas": [
                {"replica": 0, "up": True, "epoch": 4, "draining": False, "running": 2},
                {"replica": 1, "up": False, "epoch": None, "draining": False, "running": 0},
                {"replica": 2, "up": True, "epoch": 1, "draining": True, "running": 0},
            ],
        }


@pytest.mark.parametrize(("replica", "status"), [("1", 404), ("3", 404), ("-1", 404), ("x", 400)])
async def test_what_is_not_up_cannot_be_drained(replica, status):
    async with serving(admin_keys=ADMIN_KEYS) as server:
        response = await server.client.post(f"/admin/replicas/{replica}/drain", headers=ADMIN)
        assert (response.status_code, response.json()["error"]["param"]) == (status, "replica")


async def test_caches_are_reset():
    async with serving(admin_keys=ADMIN_KEYS) as server:
        answer = await server.client.post("/admin/reset_prefix_cache", headers=ADMIN)
        assert (answer.json(), server.lifecycle.resets) == ({"replicas": [0, 2]}, 1)
