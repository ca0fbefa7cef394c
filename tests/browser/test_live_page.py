"""The live page in a real browser: against a scripted status for its looks, and against the real server under load."""

from __future__ import annotations

import asyncio
import base64
import random
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, Route, expect

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

HISTOGRAMS = ("time_to_first_token_seconds", "inter_token_latency_seconds", "request_duration_seconds")

COLORS_OF_THE_POOL = """(wanted) => {
  const canvas = document.querySelector(".pool canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const colors = new Set();
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] === 255) colors.add(data.slice(at, at + 3).join());
  }
  return colors.size >= wanted;
}"""


def status(blocks: int) -> dict[str, Any]:
    """A pool of so many blocks, of which some are held, shared and kept."""
    rng = random.Random(blocks)
    cells = bytearray(blocks)
    at = 0
    for owner in [2, *range(3, 9), 1]:
        length = rng.randrange(blocks // 20, blocks // 9)
        cells[at : at + length] = bytes([owner]) * length
        at += length
    sequences = [
        {"owner": owner, "prompt_tokens": 900 + owner, "cached_tokens": 512, "output_tokens": owner * 7, "blocks": 40}
        for owner in range(3, 9)
    ]
    counts = {"running": 6, "waiting": 2, "blocks_used": at, "blocks_total": blocks, "block_size": 16, "stride": 1}
    pool = counts | {"cells": base64.b64encode(cells).decode(), "sequences": sequences}
    replicas = [
        {"replica": 0, "up": True, "draining": False, "pool": pool},
        {"replica": 1, "up": False, "draining": False, "pool": None},
    ]
    return {"model": "penstock-demo", "version": "1", "ready": True, "queued": 2, "replicas": replicas}


def metrics(second: int) -> str:
    lines = [f'penstock_generated_tokens_total{{model="a",replica="0"}} {1000 * second + (second % 7) * 60}']
    for name in HISTOGRAMS:
        for le, share in (("0.01", 2), ("0.1", 7 + second % 3), ("1", 10), ("+Inf", 10)):
            lines.append(f'penstock_{name}_bucket{{le="{le}",model="a"}} {share * second}')
    return "\n".join(["# HELP x y", *lines, ""])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_it_looks_right(
    open_page: Any, fake: Any, poor_contrast: str, tmp_path: Path, width: int, scheme: str
) -> None:
    phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    seconds = 0

    async def answer(route: Route) -> None:
        nonlocal seconds
        if route.request.url.endswith("/v1/status"):
            await route.fulfill(json=status(1200))
        else:
            seconds += 1
            await route.fulfill(body=metrics(seconds), content_type="text/plain")

    async with open_page(viewport={"width": width, "height": 844}, color_scheme=scheme, **phone) as page:
        await page.route("**/v1/status", answer)
        await page.route("**/metrics", answer)
        await page.clock.install()
        await page.goto(page.url + "live")
        for _ in range(12):
            await page.clock.run_for(1000)
        tile = page.get_by_role("region", name="First token")
        await expect(tile).to_contain_text("ms")
        await expect(page.get_by_role("region", name="Running")).to_contain_text("6")
        await expect(page.locator(".sequences li").first).to_have_text("903 + 21 tokens512 from the cache")
        await page.screenshot(path=tmp_path / f"live-{width}-{scheme}.png", full_page=True)
        assert await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert await page.evaluate(poor_contrast) == []


async def test_quantiles_and_sums_are_those_of_prometheus(browser_page: Page) -> None:
    found = await browser_page.evaluate(
        r"""async () => {
          const { parseMetrics, quantile, sum } = await import("/static/promtext.js");
          const text = (a, b, c) => '# TYPE h histogram\n' +
            'h_bucket{le="1.0",t="x\\"}"} ' + a + '\nh_bucket{le="3.0"} ' + b +
            '\nh_bucket{le="+Inf"} ' + c + '\nc_total{r="0"} 1.5\nc_total{r="1"} 2e0\n';
          const [before, now] = [parseMetrics(text(0, 4, 4)), parseMetrics(text(10, 24, 25))];
          return [quantile(before, now, "h", 0.5), quantile(before, now, "h", 1), quantile(now, now, "h", 0.5),
            quantile(null, now, "none", 0.5), sum(now, "c_total"), sum(now, "none")];
        }"""
    )
    assert found == [pytest.approx(1.1), 3, None, None, 3.5, 0]


class TestRealServer:
    """The pool fills while something runs, and the page says so."""

    @pytest.fixture
    def server_url(self, server: Any) -> str:
        return f"{server.url}/"

    async def test_it_shows_a_batch_as_it_runs(self, open_page: Any, server: Any, long_answer: dict[str, Any]) -> None:
        enough = asyncio.Event()

        async def load() -> None:
            """One request after the other, as no single one is long on every machine."""
            async with httpx.AsyncClient(timeout=60) as client:
                while not enough.is_set():
                    body = {"prompt": "Once upon a time", "stream": True} | long_answer
                    async with client.stream("POST", f"{server.url}/v1/completions", json=body) as response:
                        assert response.status_code == 200
                        async for _ in response.aiter_bytes():
                            if enough.is_set():
                                break

        idle = "Nothing is running. Ask something"
        async with open_page() as page:
            await page.goto(page.url + "live")
            await expect(page.get_by_text(idle)).to_be_visible(timeout=60_000)
            loading = asyncio.create_task(load())
            running = page.get_by_role("region", name="Running").locator(".value")
            await expect(running).to_have_text(re.compile(r"[1-9]\d*"), timeout=60_000)
            await expect(page.locator(".sequences li").first).to_be_visible(timeout=60_000)
            await page.wait_for_function(COLORS_OF_THE_POOL, arg=5, timeout=60_000)  # empty, shared, and several owners
            await expect(page.get_by_text(idle)).to_be_hidden(timeout=60_000)
            enough.set()
            await loading
            await expect(page.get_by_text(idle)).to_be_visible(timeout=60_000)
        await asyncio.to_thread(server.wait_idle)
