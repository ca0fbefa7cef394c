"""The dashboards: Overview, Engine, Tenants and Recovery.

``x / (y > 0)`` shows "no traffic" where nothing happens, not zero. ``$__rate_interval`` is Grafana's.
"""

from __future__ import annotations

from scripts.monitoring.grafana import Dashboard, Panel, Query, Variable
from scripts.monitoring.rules import ITL_BOUND, OBJECTIVES, TTFT_BOUND

MODEL = 'model=~"$model"'
ENGINE = 'model=~"$model", replica=~"$replica"'
TENANT = 'model=~"$model", tenant=~"$tenant"'
QUANTILES = (0.5, 0.95, 0.99)
TOKENS = "suffix:tokens/s"

_MODEL = Variable(name="model", metric="penstock_requests_running")
_REPLICA = Variable(name="replica", metric="penstock_engine_up")
_TENANT = Variable(name="tenant", metric="penstock_requests_total")


def _rate(metric: str, selector: str, by: str = "", **more: str) -> str:
    labels = ", ".join([selector, *(f'{name}="{value}"' for name, value in more.items())])
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate(penstock_{metric}{{{labels}}}[$__rate_interval]))"


def _increase(metric: str, selector: str, by: str) -> str:
    return f"sum by ({by}) (increase(penstock_{metric}{{{selector}}}[$__rate_interval]))"


def _ratio(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def _quantiles(metric: str, selector: str) -> list[Query]:
    return [
        Query(f"histogram_quantile({q}, {_rate(metric + '_bucket', selector, 'le')})", f"p{q * 100:.0f}")
        for q in QUANTILES
    ]


def _latency(title: str, metric: str, text: str, selector: str = MODEL) -> Panel:
    return Panel(title=title, queries=_quantiles(metric, selector), unit="s", help=text)


def _heatmap(title: str, metric: str, text: str) -> Panel:
    queries = [Query(_increase(f"{metric}_bucket", MODEL, "le"))]
    return Panel(title=title, queries=queries, kind="heatmap", unit="s", help=text)


def _tile(title: str, name: str, text: str) -> Panel:
    objective = next(each for each in OBJECTIVES if each.name == name)
    expression = f"1 - max({objective.recorded('1h')}{{{MODEL}}})"
    return Panel(
        title=title, queries=[Query(expression)], kind="stat", unit="percentunit", width=4, height=4,
        objective=objective.share, maximum=1, help=f"{text}, over the last hour; promised is {objective.share:.0%}.",
    )  # fmt: skip


def _number(title: str, expression: str, unit: str, text: str) -> Panel:
    return Panel(title=title, queries=[Query(expression)], kind="stat", unit=unit, width=4, height=4, help=text)


OVERVIEW = Dashboard(
    title="Overview",
    uid="penstock-overview",
    help="How requests fare.",
    variables=(_MODEL,),
    rows={
        "Objectives": (
            _tile(f"First token within {TTFT_BOUND} s", "ttft_slow", "Share of requests"),
            _tile(f"Next token within {ITL_BOUND} s", "itl_slow", "Share of tokens"),
            _tile("No fault of the server", "errors", "Share of requests"),
            _number("Requests", _rate("requests_total", MODEL), "reqps", "Requests that end, a second."),
            _number(
                "Output tokens", _rate("generated_tokens_total", MODEL), TOKENS, "Tokens generated a second, by all."
            ),
            _number("Waiting", f"sum (penstock_requests_queued{{{MODEL}}})", "short", "Requests not yet begun."),
        ),
        "Traffic": (
            Panel(
                title="Requests by how they ended", unit="reqps", stacked=True, help="Counted at the end.",
                queries=[Query(_rate("requests_total", MODEL, "finish_reason"), "{{finish_reason}}")],
            ),
            Panel(
                title="Tokens", unit=TOKENS, help="Tokens a second. Prompt tokens that were cached are not computed.",
                queries=[
                    Query(_rate("prompt_tokens_total", MODEL), "prompt, computed"),
                    Query(_rate("cached_prompt_tokens_total", MODEL), "prompt, cached"),
                    Query(_rate("generated_tokens_total", MODEL), "output"),
                ],
            ),
            Panel(
                title="Requests waiting and running", help="Requests accepted, and of these begun by an engine.",
                queries=[
                    Query(f"sum (penstock_requests_queued{{{MODEL}}})", "waiting"),
                    Query(f"sum (penstock_requests_running{{{MODEL}}})", "running"),
                ],
            ),
        ),
        "Latency": (
            _latency("Time to first token", "time_to_first_token_seconds", "From arrival to the first token."),
            _latency("Time between tokens", "inter_token_latency_seconds", "Gaps between successive tokens."),
            _latency("Duration of a request", "request_duration_seconds", "From arrival to the end of the answer."),
            _heatmap("Time to first token, spread", "time_to_first_token_seconds", "Requests in each bucket."),
            _heatmap("Time between tokens, spread", "inter_token_latency_seconds", "Tokens in each bucket."),
            _heatmap("Duration of a request, spread", "request_duration_seconds", "Requests in each bucket."),
            _latency("Time in the queue", "request_queue_time_seconds", "Before the first step of a request."),
            _latency("Time of prefill", "request_prefill_time_seconds", "From that step to the first token."),
            _latency("Time of decoding", "request_decode_time_seconds", "From the first token to the last."),
        ),
        "Errors": (
            Panel(
                title="Errors by type", unit="reqps", stacked=True, width=12, help="Before and after the headers.",
                queries=[Query(_rate("errors_total", MODEL, "error_type"), "{{error_type}}")],
            ),
            Panel(
                title="Requests turned away", unit="reqps", stacked=True, width=12, help="Before they were accepted.",
                queries=[Query(_rate("rejections_total", MODEL, "reason"), "{{reason}}")],
            ),
        ),
    },
)  # fmt: skip

_STEPS = _rate("step_duration_seconds_count", ENGINE, "replica")


def _share_of_step(part: str) -> Query:
    whole = " + ".join(_rate(f"step_{each}_seconds_total", ENGINE) for each in ("plan", "compute", "update"))
    return Query(_ratio(_rate(f"step_{part}_seconds_total", ENGINE), f"({whole})"), part)


ENGINE_BOARD = Dashboard(
    title="Engine",
    uid="penstock-engine",
    help="What engines do, step by step.",
    variables=(_MODEL, _REPLICA),
    rows={
        "Batch": (
            Panel(
                title="Sequences", help="Those that hold blocks, and those that wait in the engine's queue.",
                queries=[
                    Query(f"penstock_sequences_running{{{ENGINE}}}", "running, replica {{replica}}"),
                    Query(f"penstock_sequences_waiting{{{ENGINE}}}", "waiting, replica {{replica}}"),
                ],
            ),
            Panel(
                title="Tokens of a step", help="Mean number of tokens computed together.",
                queries=[Query(_ratio(_rate("step_tokens_sum", ENGINE, "replica"), _STEPS), "replica {{replica}}")],
            ),
            Panel(
                title="Tokens", unit=TOKENS, help="Tokens a second.",
                queries=[
                    Query(_rate("prompt_tokens_total", ENGINE, "replica"), "prompt, replica {{replica}}"),
                    Query(_rate("generated_tokens_total", ENGINE, "replica"), "output, replica {{replica}}"),
                ],
            ),
        ),
        "Steps": (
            _latency("Duration of a step", "step_duration_seconds", "A step of all sequences together.", ENGINE),
            Panel(
                title="Where the time goes", unit="percentunit", stacked=True, maximum=1,
                help="Of the engine's thread: planning, waiting for the model, taking in its tokens.",
                queries=[_share_of_step(part) for part in ("plan", "compute", "update")],
            ),
            Panel(
                title="Steps", unit="suffix:steps/s", help="Steps a second.",
                queries=[Query(_STEPS, "replica {{replica}}")],
            ),
        ),
        "Cache": (
            Panel(
                title="KV cache in use", unit="percentunit", maximum=1, help="Share of blocks that sequences hold.",
                queries=[Query(f"penstock_kv_cache_usage_ratio{{{ENGINE}}}", "replica {{replica}}")],
            ),
            Panel(
                title="Prefix cache hits", unit="percentunit", maximum=1, help="Share of prompt tokens found there.",
                queries=[
                    Query(
                        _ratio(
                            _rate("prefix_cache_hits_total", ENGINE, "replica"),
                            _rate("prefix_cache_queries_total", ENGINE, "replica"),
                        ),
                        "replica {{replica}}",
                    )
                ],
            ),
            Panel(
                title="Preemptions", unit="suffix:sequences/s",
                help="Sequences a second that gave up their blocks to others.",
                queries=[Query(_rate("preemptions_total", ENGINE, "replica"), "replica {{replica}}")],
            ),
        ),
        "Gateway": (
            Panel(
                title="Routing", unit="suffix:choices/s", stacked=True,
                help="Choices a second sent to a replica, by what decided it.",
                queries=[Query(_rate("routed_total", ENGINE, "replica, reason"), "replica {{replica}}: {{reason}}")],
            ),
            _latency("Compiling grammars", "grammar_compile_seconds", "Before a request is accepted."),
            Panel(
                title="Gateway process", unit="percentunit", help="Share of a core that the gateway's process takes.",
                queries=[
                    Query('rate(process_cpu_seconds_total{job="penstock"}[$__rate_interval])', "{{instance}}"),
                ],
            ),
        ),
    },
)  # fmt: skip


TENANTS = Dashboard(
    title="Tenants",
    uid="penstock-tenants",
    help="Who asks for what. A tenant is the name of an API key.",
    variables=(_MODEL, _TENANT),
    rows={
        "Use": (
            Panel(
                title="Requests", unit="reqps", stacked=True, width=12, help="Requests that ended, a second.",
                queries=[Query(_rate("requests_total", TENANT, "tenant"), "{{tenant}}")],
            ),
            Panel(
                title="Output tokens", unit=TOKENS, stacked=True, width=12,
                help="A second, of requests that have ended.",
                queries=[Query(_rate("tenant_generated_tokens_total", TENANT, "tenant"), "{{tenant}}")],
            ),
            Panel(
                title="Prompt tokens", unit=TOKENS, stacked=True, width=12,
                help="A second, of requests that have ended.",
                queries=[Query(_rate("tenant_prompt_tokens_total", TENANT, "tenant"), "{{tenant}}")],
            ),
            Panel(
                title="Prompt tokens cached", unit="percentunit", maximum=1, width=12, help="Share of prompt tokens.",
                queries=[
                    Query(
                        _ratio(
                            _rate("cached_prompt_tokens_total", TENANT, "tenant"),
                            _rate("tenant_prompt_tokens_total", TENANT, "tenant"),
                        ),
                        "{{tenant}}",
                    )
                ],
            ),
        ),
        "Trouble": (
            Panel(
                title="Turned away", unit="reqps", stacked=True, help="Requests a second, by why.",
                queries=[Query(_rate("rejections_total", TENANT, "tenant, reason"), "{{tenant}}: {{reason}}")],
            ),
            Panel(
                title="Errors", unit="reqps", stacked=True, help="Requests a second that failed.",
                queries=[Query(_rate("errors_total", TENANT, "tenant, error_type"), "{{tenant}}: {{error_type}}")],
            ),
            Panel(
                title="Fields ignored", unit="suffix:fields/s",
                help="Unknown request fields a second that --unknown-fields has let through.",
                queries=[Query(_rate("ignored_fields_total", TENANT, "tenant"), "{{tenant}}")],
            ),
        ),
    },
)  # fmt: skip


RECOVERY = Dashboard(
    title="Recovery",
    uid="penstock-recovery",
    help="What was lost, and how streams went on.",
    variables=(_MODEL, _REPLICA),
    rows={
        "Engines": (
            Panel(
                title="Engines that serve", help="1 while a replica's engine is up.", maximum=1,
                queries=[Query(f"penstock_engine_up{{{ENGINE}}}", "replica {{replica}}")],
            ),
            Panel(
                title="Engines lost", stacked=True, help="Engines lost, by cause.",
                queries=[
                    Query(
                        _increase("engine_losses_total", ENGINE, "replica, cause"),
                        "replica {{replica}}: {{cause}}",
                    )
                ],
            ),
            Panel(
                title="Engines restarted", stacked=True, help="Engines that came up again.",
                queries=[
                    Query(
                        _increase("engine_restarts_total", ENGINE, "replica"),
                        "replica {{replica}}",
                    )
                ],
            ),
        ),
        "Streams": (
            Panel(
                title="Replays", stacked=True, help="Choices handed to an engine again, to go on where they were.",
                queries=[
                    Query(
                        _increase("replays_total", ENGINE, "replica"),
                        "replica {{replica}}",
                    )
                ],
            ),
            _latency("Pauses", "replay_pause_seconds", "How long a stream stood still for a replay."),
            _heatmap("Pauses, spread", "replay_pause_seconds", "Choices in each bucket."),
            Panel(
                title="Readers that came back", stacked=True, help="By what they were answered.",
                queries=[
                    Query(
                        _increase("resumes_total", MODEL, "outcome"),
                        "{{outcome}}",
                    )
                ],
            ),
            Panel(
                title="Streams held", help="That may be resumed.",
                queries=[Query(f"sum (penstock_streams_held{{{MODEL}}})", "held")],
            ),
            Panel(
                title="Requests given up", help="Those that crash engines.",
                queries=[
                    Query(f"sum (increase(penstock_poison_requests_total{{{MODEL}}}[$__rate_interval]))", "requests")
                ],
            ),
        ),
        "Journal": (
            _latency("Duration of a commit", "journal_commit_seconds", "Duration of a commit of the durable journal."),
            Panel(
                title="Messages written", unit="suffix:messages/s", help="Messages of tokens a second.",
                queries=[Query(_rate("journal_entries_total", MODEL), "messages")],
            ),
            Panel(
                title="Journal cannot be written", maximum=1, help="1 while streams would not outlive the server.",
                queries=[Query(f"max (penstock_journal_failed{{{MODEL}}})", "failed")],
            ),
        ),
    },
)  # fmt: skip

DASHBOARDS = (OVERVIEW, ENGINE_BOARD, TENANTS, RECOVERY)
