"""What the runs of a comparison came to, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one run of the workload. Tokens are prompt tokens, summed over replicas."""

    name: str
    queries: int
    """Tokens looked up in prefix caches."""
    hits: int
    """Those found there."""
    by_replica: tuple[int, ...]
    """Choices that each replica was sent."""
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float
    """Until the last answer had ended."""
    first_token: float
    """Mean seconds from a request to its first token."""

    def share_of(self, other: Outcome) -> float:
        """Hits as a share of another run's."""
        return self.hits / other.hits


def print_table(title: str, outcomes: Sequence[Outcome]) -> None:
    """The first outcome is what the others are compared with."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("prompt tokens", "cached", "share of prompt", "share of the first", "first token, ms", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("requests at each replica")
    for outcome in outcomes:
        table.add_row(
            outcome.name,
            f"{outcome.queries:,}",
            f"{outcome.hits:,}",
            f"{outcome.hits / outcome.queries:.1%}",
            f"{outcome.share_of(outcomes[0]):.1%}",
            f"{1000 * outcome.first_token:,.0f}",
            f"{outcome.seconds:.1f}",
            ", ".join(map(str, outcome.by_replica)),
        )
    Console(width=140).print(table)
