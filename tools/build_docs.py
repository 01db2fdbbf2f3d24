"""Write the reference pages from the program, or with ``--check`` fail when a page says something else."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import build_licences
import build_settings
from meninx.cli import audit as audit_steps
from meninx.cli import dicom as dicom_steps
from meninx.cli import obfuscate as obfuscate_steps
from meninx.cli import reconstruct as reconstruct_steps
from meninx.cli.app import VERBS, build_app
from meninx.cli.audit import HELP as AUDIT_HELP
from meninx.cli.console import Output
from meninx.cli.dicom import HELP as DICOM_HELP
from meninx.cli.examples import EXAMPLES
from meninx.cli.federate import HELP as FEDERATE_HELP
from meninx.cli.federate import STEPS as FEDERATE_STEPS
from meninx.cli.obfuscate import HELP as OBFUSCATE_HELP
from meninx.cli.reconstruct import HELP as RECONSTRUCT_HELP
from meninx.core import errors, setting_types, settings
from meninx.core.settings import Settings
from meninx.dossier import schema

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
SCHEMA = ROOT / "src" / "meninx" / "dossier" / "dossier.schema.json"
NOTE = "<!-- written by `make docs` from the program; edit the program -->\n\n"
CONFIGS = {
    "deid": "meninx.deid.config:DeidConfig",
    "prepare": "meninx.prepare.config:PrepareConfig",
    "train": "meninx.train.config:TrainConfig",
    "evaluate": "meninx.train.config:EvaluateConfig",
    "obfuscate": "meninx.obfuscate.config:ObfuscateConfig",
    "obfuscate-audit": "meninx.obfuscate.config:ReleaseAuditConfig",
    "predict": "meninx.predict.config:PredictConfig",
    "sweep": "meninx.train.config:SweepConfig",
    "report": "meninx.report.config:ReportConfig",
    "verify": "meninx.verify.config:DicomCheckConfig",
    "dossier": "meninx.dossier.config:DossierConfig",
    "demo": "meninx.demo.config:DemoConfig",
    "audit": "meninx.audit.plan_config:AuditConfig",
    "audit-attributes": "meninx.audit.config:AttributesConfig",
    "audit-bounds": "meninx.audit.config:BoundsConfig",
    "audit-identity": "meninx.audit.config:IdentityConfig",
    "audit-membership": "meninx.audit.config:MembershipConfig",
    "audit-one-run": "meninx.audit.config:OneRunConfig",
    "audit-reconstruct": "meninx.audit.reconstruction.config:ReconstructionConfig",
    "audit-scores": "meninx.audit.config:ScoresConfig",
    "federate-new": "meninx.federated.config:StudyConfig",
    "federate-enrol": "meninx.federated.policy:PolicyConfig",
}
SETTINGS = {
    **{verb: (verb,) for verb in ("deid", "prepare", "evaluate", "predict", "demo")},
    "train": ("train",),
    "report": ("report", "dossier"),
    "sweep": ("sweep", "train"),
}


def main() -> int:
    """Return 0 when all pages are (now) what the program says."""
    if "--check" in sys.argv:
        old = stale()
        if old:
            print(f"stale reference pages: {', '.join(old)}; run `make docs`")
        return 1 if old else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
    SCHEMA.write_text(schema.made(), encoding="utf-8")
    build_settings.PAGE.write_text(build_settings.text(), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(build_settings.PAGE)], check=True)
    return 0


def pages() -> dict[str, str]:
    """Return file name -> text of every reference page."""
    return {
        "commands.md": commands(),
        "settings.md": config_page(),
        "deid-actions.md": deid_actions(),
        "recipes.md": recipes(),
        "errors.md": error_page(),
        "licences.md": NOTE + build_licences.page(),
        SCHEMA.name: schema.made(),
    }


def stale() -> list[str]:
    """Return the names of the pages that say something else than the program."""
    old = [name for name, text in pages().items() if not _same(REFERENCE / name, text)]
    old += [] if _same(SCHEMA, schema.made()) else [SCHEMA.relative_to(ROOT).as_posix()]
    written = build_settings.PAGE.read_text(encoding="utf-8") if build_settings.PAGE.is_file() else ""
    return old + [build_settings.PAGE.name] * (
        ast.dump(ast.parse(written)) != ast.dump(ast.parse(build_settings.text()))
    )


def commands() -> str:
    """Return the page of verbs: what each does and its examples; flags are on the page of settings."""
    shared = "\n".join(f"- `--{name}`: {meaning}" for name, meaning in settings.attributes(Output).items())
    lines = [
        f"{NOTE}# Commands\n",
        f"{build_app().help_epilogue}\n",
        f"Flags of every verb that runs a stage:\n\n{shared}\n",
    ]
    for verb, text in VERBS.items():
        lines.append(f"## `meninx {verb}`\n\n{text}\n")
        function = getattr(importlib.import_module(f"meninx.cli.{verb}"), verb)
        if inspect.isfunction(function):
            lines.append(_described(inspect.getdoc(function) or ""))
        if verb in SETTINGS:
            lines.append(
                f"Settings: {', '.join(f'[{name}](settings.md#{name})' for name in SETTINGS[verb])}.\n"
            )
        lines.append(_examples(verb))
    for group, home, text, steps in (
        (
            "audit",
            audit_steps,
            AUDIT_HELP,
            ("bounds", "scores", "one-run", "membership", "identity", "attributes"),
        ),
        ("audit reconstruct", reconstruct_steps, RECONSTRUCT_HELP, ("create", "match", "visualise")),
        ("obfuscate", obfuscate_steps, OBFUSCATE_HELP, ("audit", "compare", "features")),
        ("dicom", dicom_steps, DICOM_HELP, ("label", "export", "restore", "folders", "table")),
    ):
        lines.append(f"## `meninx {group}`\n\n{text}\n")
        last, page = group.split()[-1], group.replace(" ", "-")
        whole = getattr(home, f"{last}_run", getattr(home, f"{last}_dataset", None))
        if whole is not None:
            lines += [_described(inspect.getdoc(whole) or ""), f"Settings: [{page}](settings.md#{page}).\n"]
            lines.append(_examples(group))
        for step in steps:
            found = inspect.getdoc(getattr(home, step.replace("-", "_"))) or ""
            page = f"{group}-{step}"
            lines += [f"### `meninx {group} {step}`\n\n{found.partition(chr(10))[0]}\n", _described(found)]
            lines += [f"Settings: [{page}](settings.md#{page}).\n"] if page in CONFIGS else []
            lines.append(_examples(f"{group} {step}"))
    lines.append(f"## `meninx federate`\n\n{FEDERATE_HELP}\n")
    for step, (module, text) in FEDERATE_STEPS.items():
        found = inspect.getdoc(getattr(importlib.import_module(f"meninx.cli.{module}"), step)) or ""
        page = f"federate-{step}"
        lines += [f"### `meninx federate {step}`\n\n{text}\n", _described(found)]
        lines += [f"Settings: [{page}](settings.md#{page}).\n"] if page in CONFIGS else []
        lines.append(_examples(f"federate {step}"))
    return "\n".join(lines)


def _examples(verb: str) -> str:
    return "```\n" + "\n".join(EXAMPLES[verb]) + "\n```\n"


def config_page() -> str:
    """Return the page of settings: flag, default, allowed values and meaning of every setting."""
    rule = (
        "In a recipe a setting stands in its table. As a flag (`--physical-batch`) or an argument in Python "
        "(`physical_batch=`) it has a flat name, with dashes or underscores. Precedence: defaults, "
        "recipe, flags.\n"
    )
    lines = [f"{NOTE}# Settings\n", rule]
    shown: list[type[Settings]] = []
    for title, target in CONFIGS.items():
        module, name = target.split(":")
        kind = getattr(importlib.import_module(module), name)
        inherited = {flat for base in shown if issubclass(kind, base) for flat in settings.index(base)}
        shown.append(kind)
        lines.append(f"## {title}\n")
        groups: dict[str, list[str]] = {}
        for flat, (path, item) in settings.index(kind).items():
            if flat in inherited:
                continue
            groups.setdefault(path[0] if len(path) > 1 else "", []).append(
                _row(kind, flat, path[-1], item.hint)
            )
        for table, rows in groups.items():
            lines += [f"### [{table}]\n"] if table else []
            lines += ["| setting | flag | default | allowed | meaning |", "|---|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(kind: type[Settings], flat: str, name: str, hint: Any) -> str:
    default = settings.default_of(kind, flat)
    shown = (
        "required" if default is dataclasses.MISSING else "" if default is None else f"`{_written(default)}`"
    )
    words = ", ".join(f"`{word}`" for word in setting_types.choices(hint) or setting_types.examples(hint))
    allowed = " or ".join(part for part in (words, setting_types.bounds(hint)) if part)
    cells = (f"`{name}`", f"`--{flat.replace('_', '-')}`", shown, allowed, settings.meanings(kind)[flat])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _written(value: Any) -> str:
    """Return a value as a recipe has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{}"
    plain = settings.to_plain(value)
    return str(plain).replace("'", '"') if isinstance(plain, list) else repr(plain).replace("'", '"')


def deid_actions() -> str:
    """Return the page of de-identification actions, profile by profile."""
    from meninx.deid.options import PRESETS, Option
    from meninx.deid.profile import Profile

    rule = "Actions: D dummy, Z empty, X remove, K keep, C clean, U new UID (PS3.15 Table E.1-1).\n"
    lines = [f"{NOTE}# De-identification actions\n", rule]
    lines += ["| option | code | meaning |", "|---|---|---|"]
    lines += [f"| `{option}` | {option.code.value} | {option.code.meaning} |" for option in Option]
    tables = {name: dict(Profile.compile(options).describe()) for name, options in PRESETS.items()}
    lines += ["", "| attribute | " + " | ".join(tables) + " |", "|---|" + "---|" * len(tables)]
    for keyword in next(iter(tables.values())):
        lines.append(
            f"| {keyword} | " + " | ".join(str(table.get(keyword, "")) for table in tables.values()) + " |"
        )
    return "\n".join(lines) + "\n"


def recipes() -> str:
    """Return the page of packaged recipes."""
    folder = ROOT / "src" / "meninx" / "recipes"
    texts = {
        name: (folder / f"{name}.toml").read_text(encoding="utf-8").rstrip()
        for name in settings.every_recipe()
    }
    return "\n".join(
        [f"{NOTE}# Recipes\n", *(f"## {name}\n\n```toml\n{text}\n```\n" for name, text in texts.items())]
    )


def error_page() -> str:
    """Return the page of errors and exit codes."""
    return f"{NOTE}# Errors and exit codes\n\n```\n{inspect.getdoc(errors)}\n```\n"


def _described(text: str) -> str:
    head, _, arguments = text.partition("Args:")
    body = head.partition("\n")[2].strip()
    named = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", arguments, flags=re.MULTILINE)
    listed = [f"- `{name}`: {re.sub(chr(10) + ' +', ' ', rest)}" for name, rest in named]
    return "\n".join([*([body, ""] if body else []), *listed]) + "\n"


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
