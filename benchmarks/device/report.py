"""What ``benchmarks.gpu`` has found, as Markdown with a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

TITLES = {
    "kernels": "Kernels against their references",
    "peaks": "What the device can do",
    "decoding": "Decoding",
    "without_graphs": "Decoding without CUDA graphs",
    "without_overlap": "Decoding with steps that wait for tokens",
    "prefill": "Prompts",
    "deterministic": "With --deterministic",
    "transformers": "Beside transformers' generate",
}


def markdown(found: Mapping[str, Any], picture_name: str, method: str) -> str:
    about = found["about"]
    lines = [
        f"# {about['device']}",
        "",
        f"Measured on {about['date']} by `python -m benchmarks.gpu` with PyTorch {about['torch']}.",
        *(["", "**Tiny models: a trial of the script, no measurement.**"] if about["small"] else []),
        "",
        method,
        "",
        f"![Decoding, as a share of the memory's roofline]({picture_name})",
    ]
    for name, section in found.items():
        if name != "about":
            lines += ["", f"## {TITLES[name]}", "", *_section(name, section)]
    return "\n".join(lines) + "\n"


def _section(name: str, section: Mapping[str, Any]) -> list[str]:
    lines = [f"**Failed:** `{section['failed']}`", ""] if "failed" in section else []
    if section.get("cut_short"):
        lines += ["**Cut short:** its time was up.", ""]
    rows = section["rows"]
    if name == "kernels":
        wrong = [row for row in rows if row["problem"]]
        examples = sum(row["examples"] for row in rows)
        lines += [f"{len(rows)} kernels and dtypes, {examples} inputs drawn from seed {section['seed']}: "]
        lines[-1] += f"{len(wrong)} of them wrong." if wrong else "all within their op's tolerance."
        lines += [f"- {row['op']} {row['provider']} {row['dtype']}: `{row['problem']}`" for row in wrong]
        return [*lines, "", *_errors(rows)]
    for columns, group in _alike(rows):
        lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(_shown(column, row[column]) for column in columns)} |" for row in group] + [""]
    return [*lines, f"{section['seconds']} s."]


def _errors(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of kernels that may round otherwise than their reference."""
    lines = [
        "Errors against float64 in units in the last place: of the result's dtype, at the size of the number or of the "
        "root mean square of its row. First the greatest, then the root mean square of all; in brackets those of the "
        "op's reference in the same dtype. The results of the other kernels have to be equal.",
        "",
        "| op | provider | dtype | greatest | typical |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["greatest"] is not None:
            pairs = ((row[each], row[f"reference_{each}"]) for each in ("greatest", "typical"))
            errors = " | ".join(f"{mine:.2f} ({its:.2f})" for mine, its in pairs)
            lines.append(f"| {row['op']} | {row['provider']} | {row['dtype']} | {errors} |")
    return lines


def _alike(rows: Sequence[Mapping[str, Any]]) -> list[tuple[tuple[str, ...], list[Mapping[str, Any]]]]:
    """Rows with the same columns, together."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    return list(groups.items())


def _shown(column: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each}" for key, each in value.items())
    if column.endswith("_share"):
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 1e6 else f"{value:.3g}"
    return str(value)


BAR, GAP, LEFT, WIDTH = 18, 6, 190, 420


def picture(found: Mapping[str, Any]) -> str:
    """SVG: a bar for each model and number of streams, as long as its share of the roofline."""
    rows = [row for row in found.get("decoding", {"rows": []})["rows"] if "roofline_share" in row]
    height = (BAR + GAP) * len(rows) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 70}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{LEFT + WIDTH + 70}" height="{height}" fill="#fff"/>',
        '<text x="8" y="18" font-weight="bold">Decoding, share of the memory\'s roofline</text>',
    ]
    for number, row in enumerate(rows):
        top, share = 30 + (BAR + GAP) * number, row["roofline_share"]
        label = escape(f"{row['model']}, {row['streams']} at once")
        length = WIDTH * min(share, 1.0)
        lines += [
            f'<text x="{LEFT - 8}" y="{top + 13}" text-anchor="end">{label}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" fill="#2b6cb0"/>',
            f'<text x="{LEFT + length + 6:.1f}" y="{top + 13}">{share:.1%}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
