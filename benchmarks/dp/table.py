"""The tables: one line per case, the peers, targets with MET or MISSED, and the machine."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from dp.summary import MODES, Row, memory_ratio

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def machine(device: str) -> dict[str, str]:
    """Return what the numbers depend on: processor, its vector units, threads, versions."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    facts = dict(_pair(line) for line in info.splitlines() if ":" in line)
    flags = set(facts.get("flags", "").split())
    has = ", ".join(f"{flag} {'yes' if flag in flags else 'no'}" for flag in _FLAGS)
    found = {
        "processor": f"{facts.get('model name', platform.processor())}, {platform.machine()}",
        "vector units": has,
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "opacus": version("opacus"),
        "python": platform.python_version(),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def fast_bf16(device: str) -> bool:
    """Return whether bf16 matrix products have hardware of their own: AMX, or a GPU."""
    return device == "cuda" or "amx_bf16 yes" in machine(device)["vector units"]


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def render(rows: list[Row], *, load: tuple[float, float], minutes: float, device: str) -> str:
    """Return the whole Markdown text."""
    clock = (
        "device milliseconds between CUDA events" if device == "cuda" else "CPU milliseconds of the process"
    )
    facts = "; ".join(f"{name}: {value}" for name, value in machine(device).items())
    intro = (
        "A step is forward, backward, clip, noise and SGD with momentum. Time: "
        + clock
        + "; a ratio is the median over\n"
        "rounds against the non-private step of the same round [least, most], all variants in turn "
        "in one process.\n"
        "Targets of time hold against non-private SGD of the same model, memory format and dtype; "
        "the next column and all other\n"
        "ratios are against whichever format is faster for non-private SGD. Private variants run "
        "in the format that suits them.\n"
        "Of it noise: drawing and adding the noise, as a share of the non-private step; it depends "
        "on the parameters alone.\n"
        "Memory is the growth of the resident set over the loaded model in steady steps, each "
        "variant in its own process.\n\n"
        f"{facts}; load average {load[0]:.1f} before, {load[1]:.1f} after; {minutes:.0f} minutes."
    )
    missed = [f"{row['title']}: {test['what']}" for row in rows for test in row["judged"] if not test["met"]]
    total = sum(len(row["judged"]) for row in rows)
    verdict = f"{total - len(missed)} of {total} targets met." + (
        f" MISSED: {'; '.join(missed)}." if missed else ""
    )
    return (
        "\n\n".join(
            [intro, _main(rows), "Every engine, ratio to non-private:", _peers(rows), verdict, _targets(rows)]
        )
        + "\n"
    )


def _main(rows: list[Row]) -> str:
    head = (
        "case | non-private ms | ours, same format | ours, faster format | of it noise | Opacus' "
        "best | ours faster than best"
        " | than hooks | memory ours / SGD | memory hooks / SGD | target time, memory | "
    )
    return _table(head, [_main_line(row) for row in rows])


def _main_line(row: Row) -> list[str]:
    best, up = row["best_peer"], row["speed_up"]
    targets = [test for test in row["judged"] if "planning" not in test["what"]]
    limits = [f"≤ {test['limit']:.2f}" for test in targets if test["at_most"]]
    missed = sum(not test["met"] for test in row["judged"])
    return [
        row["title"],
        f"{row['reference_ms']:.0f} ({row['reference_format']})",
        _same(row),
        _ratio(row, "ours"),
        _number(row["noise_ratio"]),
        f"{best} {_ratio(row, best)}" if best else "not offered",
        _times(up.get(best)),
        _times(up.get("hooks")),
        _number(memory_ratio(row, "ours")),
        _number(memory_ratio(row, "hooks")),
        ", ".join(limits) or "–",
        f"MISSED ({missed})" if missed else "met" if row["judged"] else "",
    ]


def _same(row: Row) -> str:
    """Return the ratio to non-private SGD of the format that ours ran in."""
    found = row.get("same_format")
    return (
        f"{found['ratio']:.2f} [{found['least']:.2f}, {found['most']:.2f}] ({found['format']})"
        if found
        else "–"
    )


def _peers(rows: list[Row]) -> str:
    names = ("ours", *MODES, "torch.func")
    lines = [
        [row["title"], *(_ratio(row, name, count=True) for name in names), _wall(row), _planning(row)]
        for row in rows
    ]
    return _table("case | " + " | ".join(names) + " | ours, wall time | planning, steps: new, known", lines)


def _targets(rows: list[Row]) -> str:
    lines = [
        [
            row["title"],
            test["what"],
            f"{'≤' if test['at_most'] else '≥'} {test['limit']:g}",
            _number(test["value"]),
            "met" if test["met"] else "MISSED",
        ]
        for row in rows
        for test in row["judged"]
    ]
    extra = [
        [
            row["title"],
            "time / non-private fp32",
            "asked only with AMX or a GPU",
            _number(row["against_fp32"]["ratio"]),
            "–",
        ]
        for row in rows
        if "against_fp32" in row and not any(test["what"].endswith("fp32") for test in row["judged"])
    ]
    return _table("case | what | target | measured | ", lines + extra)


def _table(head: str, lines: list[list[str]]) -> str:
    columns = [name.strip() for name in head.split("|")]
    parts = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(part)} |" for part in parts)


def _ratio(row: Row, name: str, *, count: bool = False) -> str:
    """Return median [least, most] of a variant's ratios, or why there is none."""
    if name in row["fails"]:
        return f"fails: {row['fails'][name]}"
    if name not in row["variants"]:
        return "–"
    found = row["variants"][name]
    return f"{found['ratio']:.2f} [{found['least']:.2f}, {found['most']:.2f}]" + (
        f" n {found['n']}" if count else ""
    )


def _wall(row: Row) -> str:
    return _number(row["variants"].get("ours", {}).get("wall_ratio"))


def _planning(row: Row) -> str:
    return (
        ", ".join(
            f"{row['planning_steps'][word]:.1f}"
            for word in ("new", "cached")
            if word in row["planning_steps"]
        )
        or "–"
    )


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def in_words(row: Row) -> str:
    """Return a case in one line."""
    missed = [test["what"] for test in row["judged"] if not test["met"]]
    best = row["best_peer"]
    peer = (
        f", Opacus' best {best} {_ratio(row, best)}, ours {_times(row['speed_up'].get(best))} faster"
        if best
        else ""
    )
    return f"ours {_ratio(row, 'ours', count=True)}{peer}; " + (
        f"MISSED: {', '.join(missed)}" if missed else "all targets met"
    )
