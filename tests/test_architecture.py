"""Imports go one way, and what must start fast or stay pure imports nothing heavy. Read from the sources."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "gateway": {"gateway", "engine", "observability"},
    "engine": {"engine", "kernels", "observability"},
    "kernels": {"kernels"},
    "observability": {"observability"},
}
POLICY = (
    "engine.batch",
    "engine.block_digests",
    "engine.block_pool",
    "engine.block_tables",
    "engine.cache_log",
    "engine.config",
    "engine.flight_record",
    "engine.grammar",
    "engine.messages",
    "engine.outbox",
    "engine.patience",
    "engine.prefill_policy",
    "engine.prefix_cache",
    "engine.request",
    "engine.sampling_params",
    "engine.schedule",
    "engine.scheduler",
    "engine.sequence",
)
HEAVY = {"torch", "transformers", "triton"}
NEVER = {
    "pickle": "nothing is unpickled",
    "marshal": "nothing is unpickled",
    "shelve": "nothing is unpickled",
    "starlette.middleware.base": "BaseHTTPMiddleware breaks streams",
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(module: str, *, at_start_only: bool = False) -> set[str]:
    """Modules that ``module`` imports: anywhere, or only those that its own import runs."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(MODULES[module].read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative name"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else str(node.module))
        deferred = is_type_checking(node) or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not (at_start_only and deferred):
            pending.extend(ast.iter_child_nodes(node))
    return found


def test_the_rooms_are_where_they_should_be() -> None:
    assert {"gateway.app", "engine.engine", "kernels.registry", "observability.records"} <= MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    room = module.partition(".")[0]
    ours = {name for name in imports(module) if name.partition(".")[0] in {*MAY_IMPORT, "demo", "tests", "scripts"}}
    assert {name for name in ours if name.partition(".")[0] not in MAY_IMPORT[room]} == set()


@pytest.mark.parametrize("module", MODULES)
def test_what_is_never_imported(module: str) -> None:
    assert {name: NEVER[name] for name in imports(module) if name in NEVER} == {}


@pytest.mark.parametrize("module", MODULES)
def test_no_collective_of_objects(module: str) -> None:
    """They unpickle what other processes send."""
    names = [node.attr for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.Attribute)]
    assert [name for name in names if "object_list" in name or name.endswith("_object")] == []


def test_no_module_is_needed_for_its_own_import() -> None:
    graph = {module: imports(module, at_start_only=True) & MODULES.keys() - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(("engine.models", "engine.layers"))])
def test_models_know_nothing_of_the_scheduler(module: str) -> None:
    policy = {*POLICY, "engine.engine", "engine.process"}
    assert imports(module) & (policy - {"engine.config"}) == set()


def imported_by(statement: str) -> set[str]:
    """Top-level packages that a new interpreter has loaded after ``statement``."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {statement}\n"
    code += "print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-I", "-c", code], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_policy_imports_no_torch() -> None:
    loaded = imported_by("import " + ", ".join(POLICY))
    assert loaded & (HEAVY | {"fastapi", "zmq"}) == set()


def test_the_gateway_starts_without_torch_and_numpy() -> None:
    modules = [name for name in MODULES if name.startswith("gateway")]
    assert imported_by("import " + ", ".join(modules)) & (HEAVY | {"numpy"}) == set()


def test_nothing_comes_before_the_head_start_of_the_engine() -> None:
    assert imported_by("import gateway.cli") & (HEAVY | {"typer", "pydantic", "msgspec", "asyncio", "numpy"}) == set()


def test_records_and_metrics_are_a_leaf() -> None:
    loaded = imported_by("import observability.metrics, observability.logging")
    assert loaded & (HEAVY | {"gateway", "engine", "kernels"}) == set()
