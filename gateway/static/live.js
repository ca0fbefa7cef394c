// The live page: what the server does now, asked for once a second while the page can be seen.

import { apiKey, request } from "./client.js";
import { byId, element } from "./elements.js";
import { drawLines, drawPool, ownerColor } from "./drawing.js";
import { connect, hindrance, showModel, withKey } from "./connection.js";
import { parseMetrics, quantile, sum } from "./promtext.js";
import { pause } from "./stream.js";

const KEPT = 90; // samples in a line
const EVERY_SECONDS = 1;
const TTFT = "penstock_time_to_first_token_seconds";
const ITL = "penstock_inter_token_latency_seconds";
const E2E = "penstock_request_duration_seconds";

const rate = (name) => ({ before, now, seconds }) => Math.max(0, (sum(now, name) - sum(before, name)) / seconds);
const latency = (name) => ({ before, now }) => [quantile(before, now, name, 0.5), quantile(before, now, name, 0.95)];
const TILES = [
  { id: "running", title: "Running", unit: "sequences", of: ({ status }) => total(status, "running"), show: count },
  { id: "waiting", title: "Waiting", unit: "requests", of: ({ status }) => status.queued, show: count },
  { id: "output", title: "Tokens out", unit: "a second", of: rate("penstock_generated_tokens_total"), show: count },
  { id: "input", title: "Prompt tokens", unit: "a second", of: rate("penstock_prompt_tokens_total"), show: count },
  { id: "ttft", title: "First token", unit: "p50, p95", of: latency(TTFT), show: times },
  { id: "itl", title: "Between tokens", unit: "p50, p95", of: latency(ITL), show: times },
  { id: "e2e", title: "Whole answer", unit: "p50, p95", of: latency(E2E), show: times },
  { id: "hits", title: "Prefix cache", unit: "found", of: hits, show: ([share]) => (share === null ? "–" : `${Math.round(share * 100)} %`) },
].map((tile) => ({ ...tile, lines: [] }));

function total(status, name) {
  return status.replicas.reduce((all, replica) => all + (replica.pool?.[name] ?? 0), 0);
}

function hits({ before, now }) {
  const asked = sum(now, "penstock_prefix_cache_queries_total") - sum(before, "penstock_prefix_cache_queries_total");
  const found = sum(now, "penstock_prefix_cache_hits_total") - sum(before, "penstock_prefix_cache_hits_total");
  return asked > 0 ? found / asked : null;
}

function count([value]) {
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString() : value.toFixed(1);
}

function times(values) {
  if (values.every((value) => value === null)) return "–";
  return values.map((value) => (value === null ? "–" : value < 1 ? `${(value * 1000).toPrecision(2) * 1} ms` : `${value.toFixed(1)} s`)).join(", ");
}

function makeTiles() {
  for (const tile of TILES) {
    const node = element("section", "tile");
    node.ariaLabel = tile.title;
    tile.value = element("p", "value", "–");
    tile.canvas = element("canvas");
    tile.canvas.role = "img";
    tile.canvas.ariaLabel = `${tile.title}, the last ${KEPT} seconds`;
    const title = element("h3", "", tile.title);
    if (tile.unit) title.append(" ", element("span", "fine", tile.unit));
    node.append(title, tile.value, tile.canvas);
    byId("tiles").append(node);
  }
}

function drawTile(tile, sample) {
  const values = [tile.of(sample)].flat();
  tile.value.textContent = tile.show(values);
  values.forEach((value, at) => {
    const line = (tile.lines[at] ??= []);
    line.push(value);
    if (line.length > KEPT) line.shift();
  });
  drawLines(tile.canvas, tile.lines, KEPT);
}

// --- The block pool -------------------------------------------------------------------------------------------------

const pools = new Map();

function drawReplica(replica) {
  const view = pools.get(replica.replica) ?? makePool(replica.replica);
  const { pool } = replica;
  view.canvas.hidden = view.list.hidden = !pool;
  if (!pool) {
    view.summary.textContent = replica.up ? "No picture of it yet." : "Its engine is not up; streams that it had go on once it is.";
    return;
  }
  const each = pool.stride === 1 ? "" : `; one in ${pool.stride} is drawn`;
  const tokens = pool.blocks_total * pool.block_size;
  view.summary.textContent = `${pool.blocks_used.toLocaleString()} of ${pool.blocks_total.toLocaleString()} blocks in use (room for ${tokens.toLocaleString()} tokens)${each}`;
  view.canvas.ariaLabel = view.summary.textContent;
  drawPool(view.canvas, Uint8Array.from(atob(pool.cells), (character) => character.charCodeAt(0)));
  view.list.replaceChildren(...pool.sequences.map(sequenceRow));
}

function makePool(number) {
  const node = element("section", "pool");
  const view = { summary: element("p", "fine"), canvas: element("canvas"), list: element("ul", "sequences") };
  view.canvas.role = "img";
  node.append(element("h3", "", `Replica ${number}`), view.summary, view.canvas, view.list);
  byId("pools").append(node);
  pools.set(number, view);
  return view;
}

function sequenceRow({ owner, prompt_tokens: prompt, cached_tokens: cached, output_tokens: output }) {
  const row = element("li");
  const mark = element("span", "mark");
  mark.style.background = ownerColor(owner);
  row.append(mark, `${prompt} + ${output} tokens`);
  if (cached) row.append(element("span", "fine", `${cached} from the cache`));
  return row;
}

// --- Once a second --------------------------------------------------------------------------------------------------

async function sample() {
  const [status, text] = await Promise.all([
    request("v1/status", {}).then((response) => response.json()),
    request("metrics", {}).then((response) => response.text()),
  ]);
  return { status, now: parseMetrics(text), at: performance.now() };
}

async function run() {
  makeTiles();
  connect();
  for (let last = null; ; ) {
    if (!document.hidden) {
      try {
        const next = await withKey(sample);
        if (last) TILES.forEach((tile) => drawTile(tile, { ...next, before: last.now, seconds: (next.at - last.at) / 1000 }));
        next.status.replicas.forEach(drawReplica);
        byId("empty").hidden = next.status.replicas.some((replica) => replica.pool?.running);
        showModel(next.status.ready ? "ready" : "waiting", next.status.ready ? next.status.model : "The model is still loading");
        last = next;
      } catch (error) {
        last = null;
        if (error.status !== 401) showModel("waiting", hindrance(error));
        for (const refused = apiKey.value; error.status === 401 && apiKey.value === refused; ) await pause(EVERY_SECONDS);
      }
    }
    await pause(EVERY_SECONDS);
  }
}

run();
