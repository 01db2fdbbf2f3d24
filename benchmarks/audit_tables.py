"""Tables and the figure of ``audit_results.py``: bounds beside measured attacks, never mixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
ENCODERS = {"imprint-whitened": "#7b3294", "imprint-pca": "#c2a5cf", "imprint-centred": "#008837"}
COLOURS = {
    **ENCODERS,
    "imprint-raw": "#a6dba0",
    "cumulative": "#b3421f",
    "trap": "#e0a458",
    "readout": "#1f5a92",
}
WORDS = {
    "imprint-whitened": "imprint, whitened", "imprint-pca": "imprint, PCA",
    "imprint-centred": "imprint, centred", "imprint-raw": "imprint, raw",
    "cumulative": "imprint, cumulative (published)", "trap": "trap weights",
    "readout": "readout of a linear layer",
}  # fmt: skip
ENCODER_WORDS = {"whitened": "fitted on public images", "candidates": "fitted on the ten candidates"}
NO_PRIVACY = "none"
NO_LIMIT = "no limit"
_NO_GUARANTEE = 0.995
"""Success of picking one of ten from which on a bound excludes nothing that matters."""


def part_of(rows: Sequence[Row], study: str, arm: str, part: str, seed: int = 0) -> Row | None:
    """Return a part of a run of an arm; the last one where there are several."""
    wanted = (study, arm, part, seed)
    found = [row for row in rows if (row["study"], row["arm"], row["part"], row["seed"]) == wanted]
    return found[-1] if found else None


def guaranteed(rows: Sequence[Row], studies: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was trained and what is proven."""
    yield from header(
        "run",
        "epsilon",
        "noise multiplier",
        "quality on test patients",
        "most members that any attack can find at 1 % false positives (exact)",
        "how often any attack can pick 1 of 10 (exact)",
        "1 of 1,000 (exact)",
    )
    for name, study in studies.items():
        for arm in study.arms:
            train = part_of(rows, name, arm, "train")
            if train is None:
                continue
            bounds = part_of(rows, name, arm, "bounds")
            cells = [NO_LIMIT] * 3
            if bounds is not None:
                worst = bounds["operating"]["worst"]
                limits = (bounds["membership"]["tpr_at_fpr"]["0.01"], worst["1 of 10"], worst["1 of 1,000"])
                cells = [percentage(limit["upper"]) for limit in limits]
            spent = train["privacy"]
            noise = f"{spent['noise_multiplier']:.3g}" if spent.get("epsilon") else "0"
            quality = f"{train['metric']} {train['value']:.3f} [{train['low']:.3f}, {train['high']:.3f}]"
            yield table_row(
                study.title, epsilon_words(arm), noise, f"{quality}, n = {train['patients']:,}", *cells
            )


def implementation(rows: Sequence[Row], studies: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the audits by canaries measured."""
    yield from header(
        "run",
        "epsilon",
        "canaries",
        "mu [95 %], allowed",
        "epsilon at least (f-DP)",
        "noise over the promised one [99.9 % limits]",
        "length of a clipped canary",
        "verdict",
        "half of the noise",
        "CPU s, share of canaries",
    )
    for name, study in studies.items():
        for arm in study.arms:
            row = part_of(rows, name, arm, "one-run")
            if row is None:
                continue
            record, audit = row["record"], row["record"]["audit"]
            check, control = record["mechanism"], record["control_mechanism"]
            allowed = "any" if audit["claim_mu"] is None else f"{audit['claim_mu']:.2f}"
            length = "hidden"
            if check["length"] is not None:
                length = f"{check['length']:.3f} [{check['length_low']:.3f}, {check['length_high']:.3f}]"
            refuted = audit["verdict"] == "refuted" or check["refuted_by"]
            by_score, by_noise = record["control"]["verdict"] == "refuted", "noise" in control["refuted_by"]
            found = [word for word, flag in (("scores", by_score), ("the noise", by_noise)) if flag]
            yield table_row(
                study.title, epsilon_words(arm), f"{audit['included'] + audit['excluded']:,}",
                f"{audit['mu']:.2f} [{audit['mu_low']:.2f}, {audit['mu_high']:.2f}], {allowed}",
                f"{audit['fdp_epsilon']:.2f}",
                f"{check['noise']:.3f} [{check['noise_low']:.3f}, {check['noise_high']:.3f}]",
                length, "**refuted**" if refuted else "consistent",
                f"noticed by {' and '.join(found)}" if found else "not noticed",
                f"{row['cpu']:.0f}, {100 * row['overhead']:.1f} %",
            )  # fmt: skip


def membership(rows: Sequence[Row], studies: Mapping[str, Any]) -> Iterator[str]:
    """Yield what membership attacks found."""
    yield from header(
        "run",
        "epsilon",
        "members, non-members",
        "references",
        "attack",
        "AUC [95 %]",
        "TPR at 10 % FPR",
        "TPR at 1 % FPR",
        "AUC and TPR at 1 % allowed",
        "verdict",
        "CPU s",
    )
    for name, study in studies.items():
        for arm in study.arms:
            row = part_of(rows, name, arm, "membership")
            if row is None:
                continue
            record = row["record"]
            bound = NO_LIMIT
            if record["bound_auc"] is not None:
                bound = f"{record['bound_auc']:.3f}, {percentage(record['bound']['0.01'])}"
                if record["bound"]["0.01"] > 0.9995:
                    bound = NO_LIMIT
            head = [study.title, epsilon_words(arm), "", f"{record['references']}"]
            first = record["attacks"][0]
            head[2] = f"{first['members']:,}, {first['others']:,}"
            tail = [bound, record["verdict"], f"{row['cpu']:.0f}"]
            named = [(attack["attack"], attack) for attack in record["attacks"]]
            controls = {
                "positive control, knows a few patients": record["positive"],
                "negative control, trained on nothing": record["negative"],
                "negative control, knows half of both splits": record.get("split_control"),
            }
            named += [(words, attack) for words, attack in controls.items() if attack is not None]
            for words, attack in named:
                points = {point["fpr"]: _point(point) for point in attack["points"]}
                area = f"{attack['auc']:.3f} [{attack['auc_low']:.3f}, {attack['auc_high']:.3f}]"
                yield table_row(*head, words, area, points[0.1], points[0.01], *tail)
                head, tail = [""] * 4, [""] * 3


def reconstruction(rows: Sequence[Row], studies: Mapping[str, Any]) -> Iterator[str]:
    """Yield what attacks on the steps of the runs reach at the runs' own noise."""
    yield from header(
        "run",
        "epsilon",
        "rank 1 of 10 [95 %], allowed",
        "1 of 1,000 [95 %], allowed",
        "best attack on one step: reconstructions most like their own patient [95 %]",
        "among members",
        "from noise alone",
        "verdict",
        "CPU s",
    )
    for name, study in studies.items():
        for arm in study.arms:
            row = part_of(rows, name, arm, "reconstruction")
            if row is None:
                continue
            record, cells = row["record"], ["", "", ""]
            own = next(level["name"] for level in record["levels"] if level["own"])
            linked = [item for item in row["linked"] if item["level"] == own]
            if linked:
                best = max(linked, key=lambda item: item["success"])
                named = WORDS.get(best["attack"], best["attack"])
                noise = _pooled(row["linked"], best["attack"])
                cells = [
                    f"{named}: {_rate(best)} of {best['originals']}",
                    f"{best['gallery']:,}",
                    _rate(noise),
                ]
            yield table_row(
                study.title, epsilon_words(arm), _rank(record, own, 10), _rank(record, own, 1000), *cells,
                record["verdict"], f"{row['cpu']:.0f}",
            )  # fmt: skip


def last_noise(rows: Sequence[Row], name: str, arm: str) -> Iterator[str]:
    """Yield up to which noise each attack's reconstructions are most like their own patient."""
    yield from header(
        "attack",
        "without noise [95 %]",
        "from noise alone, all levels [95 %]",
        "up to noise multiplier, epsilon",
        "there [95 %]",
        "next level [95 %]",
        "the average of several steps: up to",
    )
    one, averaged = (part_of(rows, name, arm, part) for part in ("reconstruction", "reconstruction-averaged"))
    if one is None:
        return
    for attack in dict.fromkeys(item["attack"] for item in one["linked"]):
        found, lost = _reach(one["linked"], attack)
        clean = series(one["linked"], attack)[0]
        again = "not tried"
        if averaged is not None and any(item["attack"] == attack for item in averaged["linked"]):
            again = _level(averaged["record"], _reach(averaged["linked"], attack)[0])
        there, after = (_rate(item) if item is not None else "" for item in (found, lost))
        yield table_row(
            WORDS.get(attack, attack), _rate(clean), _rate(_pooled(one["linked"], attack)),
            _level(one["record"], found), there, after, again,
        )  # fmt: skip


def sums_of_sites(rows: Sequence[Row], name: str, arm: str) -> Iterator[str]:
    """Yield how often images are named from sums over sites and from differences of two rounds."""
    row = part_of(rows, name, arm, "reconstruction-sites")
    if row is None:
        return
    record = row["record"]
    levels = {level["name"]: level for level in record["levels"]}
    yield from header(
        "what the coordinator sees",
        "attack",
        *(_level_words(level) for level in levels.values()),
        "largest by noise or by others",
        "images in it, patients attacked, ranked among",
    )
    series = dict.fromkeys((match["view"], match["attack"]) for match in record["matches"])
    for view, attack in series:
        found = {
            match["level"]: match
            for match in record["matches"]
            if (match["view"], match["attack"]) == (view, attack) and match["ranking"]
        }
        if not found:
            continue
        cells = [_named(found[level]) if level in found else "" for level in levels]
        null = max(_null(match["ranking"]) for match in found.values())
        first = next(iter(found.values()))
        images = first["batch"] * _added(view)
        counts = f"{images}, {first['originals']}, {first['ranking']['pool']:,}"
        yield table_row(view, WORDS.get(attack, attack), *cells, percentage(null), counts)


def _level_words(level: Row) -> str:
    if not level["noise_multiplier"]:
        return "without noise [95 %]"
    epsilon = f"epsilon {level['epsilon']:.3g}"
    return f"{epsilon} [95 %]"


def _named(match: Row) -> str:
    """Return a share, bold where the audit calls it a success."""
    rate = _rate(match["ranking"])
    return f"**{rate}**" if match["found"] else rate


def _null(ranking: Row) -> float:
    names = ("noise_null", "heldout_null", "steps_null", "control")
    return max(ranking[name] or 0.0 for name in names)


def _added(view: str) -> int:
    """Return the number of sites whose batches are in what is seen.

    A difference of two rounds holds one site's batch alone.
    """
    return int(view.split()[2]) if view.startswith("sum of") else 1


def identity(rows: Sequence[Row], studies: Mapping[str, Any]) -> Iterator[str]:
    """Yield how often images are linked to other images of their patient."""
    yield from header(
        "images",
        "attack",
        "most similar image is the patient's [95 %]",
        "by chance",
        "pairs: AUC [95 %]",
        "images, patients",
        "CPU s",
    )
    for name, study in studies.items():
        row = part_of(rows, name, "", "identity")
        if row is None:
            continue
        record, head, tail = row["record"], study.title, f"{row['cpu']:.0f}"
        links = [(link["attack"], link) for link in record["links"]]
        links += [("labels and attributes alone", record["floor"])] if record["floor"] else []
        links += [(f"negative control, {link['attack']}", link) for link in record["negative"]]
        for words, link in links:
            yield table_row(head, words, *_link(link), tail)
            head = tail = ""


def attributes(rows: Sequence[Row], studies: Mapping[str, Any]) -> Iterator[str]:
    """Yield how often attributes are inferred, from members and from others."""
    yield from header(
        "run", "attribute", "seen by the attacker", "right [95 %]", "most frequent value", "members, others",
        "advantage on members [95 %]", "CPU s",
    )  # fmt: skip
    for name, study in studies.items():
        for arm in study.arms:
            row = part_of(rows, name, arm, "attributes")
            if row is None:
                continue
            for item in row["record"]["attributes"]:
                cells = [f"refused: {item['refusal']}", "", "", ""]
                if item["accuracy"] is not None:
                    limits = f"{percentage(item['accuracy_low'])}, {percentage(item['accuracy_high'])}"
                    ends = f"[{100 * item['advantage_low']:+.1f}, {100 * item['advantage_high']:+.1f}]"
                    gain = f"{100 * item['advantage']:+.1f} {ends} points"
                    counts = f"{item['members']:,}, {item['others']:,}"
                    right = f"{percentage(item['accuracy'])} [{limits}]"
                    cells = [right, percentage(item["prior"]), counts, gain]
                yield table_row(study.title, item["attribute"], item["signal"], *cells, f"{row['cpu']:.0f}")


def verdicts(rows: Sequence[Row], studies: Mapping[str, Any]) -> Iterator[str]:
    """Yield the three lines of ``meninx audit RUN``."""
    yield from header("run", "epsilon", "guaranteed", "measured attacks", "implementation", "CPU s")
    for name, study in studies.items():
        for arm in study.arms:
            row = part_of(rows, name, arm, "audit")
            if row is not None:
                words = [f"{item['colour']}: {item['word']}" for item in row["lines"]]
                yield table_row(study.title, epsilon_words(arm), *words, f"{row['cpu']:.0f}")


def _link(link: Row) -> tuple[str, str, str, str]:
    if link["refusal"]:
        return f"refused: {link['refusal']}", "", "", ""
    share = (
        f"{percentage(link['p_at_1'])} [{percentage(link['p_at_1_low'])}, {percentage(link['p_at_1_high'])}]"
    )
    area = f"{link['auc']:.3f} [{link['auc_low']:.3f}, {link['auc_high']:.3f}]" if link["auc"] else ""
    return share, percentage(link["chance"]), area, f"{link['probes']:,}, {link['patients']:,}"


def tables(rows: Sequence[Row], studies: Mapping[str, Any]) -> dict[str, str]:
    """Return the marker of each table and its Markdown."""
    axis = next(((name, study.axis) for name, study in studies.items() if study.axis), ("", ""))
    found = {
        "audit-guaranteed": guaranteed(rows, studies),
        "audit-implementation": implementation(rows, studies),
        "audit-membership": membership(rows, studies),
        "audit-reconstruction": reconstruction(rows, studies),
        "audit-reach": last_noise(rows, *axis),
        "audit-sites": sums_of_sites(rows, *axis),
        "audit-identity": identity(rows, studies),
        "audit-attributes": attributes(rows, studies),
        "audit-verdicts": verdicts(rows, studies),
    }
    return {name: "\n".join(lines) for name, lines in found.items()}


def draw(rows: Sequence[Row], name: str, arm: str, path: Path) -> None:
    """Write the figure: proven bound and measured attacks over epsilon, in panels of their own.

    All numbers are shares of patients; no image of a patient is in it.
    """
    from matplotlib.figure import Figure

    one, averaged = (part_of(rows, name, arm, part) for part in ("reconstruction", "reconstruction-averaged"))
    if one is None:
        return
    figure = Figure(figsize=(12.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    _identification_panel(left, one["record"])
    _image_panel(right, one, averaged)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_ylim(-0.02, 1.04)
        axes.set_xlabel("epsilon of the training (smaller protects more)", fontsize=9)
        axes.grid(alpha=0.3)
    left.legend(fontsize=7, loc="lower right")
    right.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figure.savefig(path, dpi=150)


def _identification_panel(axes: Any, record: Row) -> None:
    """Draw who is picked out of ten, over all steps of the training, below the bound."""
    epsilons = {level["name"]: level["epsilon"] for level in record["levels"] if level["epsilon"]}
    known = [i for i in record["identification"] if i["candidates"] == 10 and i["level"] in epsilons]
    for encoder, colour in (("whitened", "#7b3294"), ("candidates", "#1f5a92")):
        points = sorted(
            (epsilons[item["level"]], item["success"], item["low"], item["high"])
            for item in known
            if item["encoder"] == encoder
        )
        if points:
            _line_with_bars(axes, points, colour, "o-", f"measured: {ENCODER_WORDS[encoder]}")
    bound = sorted({epsilons[item["level"]]: item["bound"] for item in known}.items())
    axes.plot(*zip(*bound, strict=True), "k--", label="proven: no attack is above")
    axes.axhline(0.1, color="#888888", linestyle=":", label="blind guess")
    useless = [value for value, limit in bound if limit >= _NO_GUARANTEE]
    if useless:
        axes.axvspan(min(useless), max(useless), color="#c0392b", alpha=0.08, label="no guarantee")
    trials = {item["trials"] for item in known}
    axes.set_title(
        f"Which of 10 patients took part?\nWhole training, {max(trials):,} simulated trials a point",
        fontsize=9,
    )
    axes.set_ylabel("share of patients picked [95 %]", fontsize=9)


def _image_panel(axes: Any, one: Row, averaged: Row | None) -> None:
    """Draw how many reconstructions are most like their own patient, from one step and from several."""
    epsilons = {level["name"]: level["epsilon"] for level in one["record"]["levels"] if level["epsilon"]}
    drawn = [(one, "-", 4.0), *([(averaged, ":", 3.0)] if averaged is not None else [])]
    for row, style, size in drawn:
        for attack in dict.fromkeys(item["attack"] for item in row["linked"]):
            _curve(axes, row["linked"], attack, epsilons, style, size, labelled=row is one)
    axes.plot([], [], "o", color="white", markeredgecolor="#444444", label="not more than from noise alone")
    if averaged is not None:
        steps = averaged["record"]["matches"][0]["participations"]
        axes.plot([], [], ":", color="#444444", label=f"average of {steps} steps")
    first = one["linked"][0]
    among = f"{first['gallery']:,} members, {first['originals']} images a point"
    axes.set_title(f"Does the reconstruction of one step name its patient?\nAmong {among}", fontsize=9)
    axes.set_ylabel("share of images [95 %]", fontsize=9)


def _curve(
    axes: Any, linked: Sequence[Row], attack: str, epsilons: Mapping[str, float], style: str, size: float,
    *, labelled: bool,
) -> None:  # fmt: skip
    """Draw an attack: filled where it beats what it makes of noise alone, hollow where it does not."""
    found = sorted(
        (item for item in linked if item["attack"] == attack and item["level"] in epsilons),
        key=lambda item: epsilons[item["level"]],
    )
    colour, label = COLOURS.get(attack, "#444444"), WORDS.get(attack, attack) if labelled else None
    xs, ys = [epsilons[item["level"]] for item in found], [item["success"] for item in found]
    axes.plot(xs, ys, style, color=colour, linewidth=1.2, label=label)
    axes.vlines(
        xs, [i["low"] for i in found], [i["high"] for i in found], color=colour, alpha=0.25, linewidth=1
    )
    noise = _pooled(linked, attack)
    for x, y, item in zip(xs, ys, found, strict=True):
        face = colour if item["low"] > noise["high"] else "white"
        axes.plot([x], [y], "o", color=face, markeredgecolor=colour, markersize=size)


def _line_with_bars(
    axes: Any, points: Sequence[tuple[float, float, float, float]], colour: str, style: str, label: str
) -> None:
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    bars = [[y - low for _, y, low, _ in points], [high - y for _, y, _, high in points]]
    axes.errorbar(
        xs, ys, yerr=bars, fmt=style, color=colour, markersize=3, linewidth=1.2, capsize=2, label=label
    )


# numbers


def series(linked: Sequence[Row], attack: str) -> list[Row]:
    """Return the levels of an attack, the least noise first."""
    found = [item for item in linked if item["attack"] == attack]
    return sorted(found, key=lambda item: item["noise_multiplier"])


def _pooled(linked: Sequence[Row], attack: str) -> dict[str, float]:
    """Return how often what the attack makes of noise alone is most like the patient, over all levels."""
    from meninx.core.proportions import clopper_pearson

    levels = series(linked, attack)
    count = sum(item["originals"] for item in levels)
    hits = round(sum(item["noise"] * item["originals"] for item in levels))
    low, high = clopper_pearson(hits, count)
    return {"success": hits / count, "low": low, "high": high}


def _reach(linked: Sequence[Row], attack: str) -> tuple[Row | None, Row | None]:
    """Return the last level of rising noise at which the attack beats noise alone, and the next one."""
    noise, found = _pooled(linked, attack), None
    for item in series(linked, attack):
        if item["low"] <= noise["high"]:
            return found, item
        found = item
    return found, None


def _level(record: Row, match: Row | None) -> str:
    if match is None:
        return "none of the levels"
    if not match["noise_multiplier"]:
        return "without noise only"
    level = next(item for item in record["levels"] if item["name"] == match["level"])
    epsilon = f"{level['epsilon']:.3g}" if level["epsilon"] else "?"
    return f"{match['noise_multiplier']:.2g}, {epsilon}"


def _rank(record: Row, level: str, count: int) -> str:
    found = [i for i in record["identification"] if i["level"] == level and i["candidates"] == count]
    if not found:
        return "not measured"
    best = max(found, key=lambda item: item["success"])
    limit = NO_LIMIT if best["bound"] >= 1 else percentage(best["bound"])
    return f"{_rate(best)} ({best['encoder']}, {best['trials']:,} trials), {limit}"


def _rate(item: Row) -> str:
    return f"{percentage(item['success'])} [{percentage(item['low'])}, {percentage(item['high'])}]"


def _point(point: Row) -> str:
    if point["tpr"] is None:
        return f"refused: {point['refusal']}"
    return f"{percentage(point['tpr'])} [{percentage(point['low'])}, {percentage(point['high'])}]"


def percentage(value: float) -> str:
    """Return a percentage with three digits, with one below 0.1 %."""
    return f"{100 * value:.{1 if 0 < value < 0.001 else 3}g} %"


def epsilon_words(arm: str) -> str:
    """Return the epsilon of an arm in words."""
    return "none" if arm == NO_PRIVACY else arm


def header(*names: str) -> Iterator[str]:
    """Yield the two lines that begin a table."""
    yield table_row(*names)
    yield "|---" * len(names) + "|"


def table_row(*cells: str) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"
