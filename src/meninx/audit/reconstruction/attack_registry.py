"""The reconstruction attacks that may be named: those of meninx, and those that installed packages offer.

A package offers an attack by an entry point that leads to an :class:`AttackKind`
(:mod:`meninx.core.plugins`). Its code runs with all rights of the program. What it returns is checked, and
records, console, figures and pages name it as external code, with package and version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from meninx.audit.reconstruction.attacks import ATTACKS, HONEST, MALICIOUS, AttackKind, Inversion, Victim
from meninx.audit.reconstruction.config import ALL, QUICK
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.victim import Gradients
from meninx.core import plugins
from meninx.core.errors import ConfigError, MeninxError, UsageError, expected, problem
from meninx.core.names import printable

_NAME = re.compile(r"[a-z][a-z0-9-]{1,39}")
_MOST_WORDS = 200
_MOST_CANDIDATES = 4096
FoundT = TypeVar("FoundT")


def attack_kind(name: str) -> AttackKind:
    """Return an attack by its name.

    Raises:
        UsageError: there is none of this name.
        ConfigError: a package offers a name of meninx's own, or what it offers is no attack.
    """
    if name in ATTACKS:
        plugins.refuse_own(plugins.ATTACKS, name)
        return ATTACKS[name]
    offered = plugins.names(plugins.ATTACKS)
    if name not in offered or name in (QUICK, ALL):
        known = [*ATTACKS, *map(printable, offered)]
        raise UsageError(expected("one of " + ", ".join(known), got=repr(name), where="attacks"))
    return _external(name)


def package_of(name: str) -> str:
    """Return name and version of the package that offers an attack; empty for one of meninx's own."""
    return "" if name in ATTACKS else printable(plugins.origin(plugins.ATTACKS, name))[:_MOST_WORDS]


def _external(name: str) -> AttackKind:
    """Return the attack of a package, whose results are checked."""
    package, kind = package_of(name), plugins.load(plugins.ATTACKS, name)
    fix = f"write to the authors of {package}, or uninstall it"
    if _NAME.fullmatch(name) is None:
        rule = "a name of 2 to 40 lower-case letters, digits and dashes"
        raise ConfigError(expected(rule, got=printable(name)[:60], where=package, fix=fix))
    if not isinstance(kind, AttackKind):
        raise ConfigError(expected("an AttackKind", got=type(kind).__name__, where=package, fix=fix))
    texts = (kind.words, kind.encoder)
    if any(not isinstance(text, str) or printable(text) != text or len(text) > _MOST_WORDS for text in texts):
        wrong = f"words or encoder are not printable, or have more than {_MOST_WORDS} characters"
        raise ConfigError(problem(wrong, where=f"{package}: {name}", fix=fix))
    if kind.server not in (MALICIOUS, HONEST):
        rule = f"server = {MALICIOUS} or {HONEST}"
        raise ConfigError(expected(rule, got=printable(str(kind.server))[:60], where=package, fix=fix))
    prepare = kind.prepare

    def prepared(knowledge: Knowledge, victim: Victim) -> Inversion:
        made = _called(name, package, lambda: prepare(knowledge, victim))
        return _Checked(name, package, made, knowledge.shape)

    return replace(kind, prepare=prepared, package=package)


def _called(name: str, package: str, code: Callable[[], FoundT]) -> FoundT:
    """Return what external code gives; its errors become refusals that hold nothing of what it saw.

    Raises:
        UsageError: the code failed, or refuses this network.
    """
    try:
        return code()
    except (MeninxError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the code of another package can raise anything, also SystemExit
        what = f"the external attack {name} failed with {type(error).__name__}"
        raise UsageError(problem(what, where=package)) from error


@dataclass(eq=False)
class _Checked:
    """An attack of a package whose network, names and candidates are checked when they are asked for."""

    name: str
    package: str
    made: Any
    shape: tuple[int, ...]
    count: int = field(default=0, init=False)

    @property
    def network(self) -> nn.Module:
        """What the server sends."""
        found = _called(self.name, self.package, lambda: self.made.network)
        if not isinstance(found, nn.Module):
            raise self._wrong("a network that is a torch.nn.Module", type(found).__name__)
        return found

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the parameters whose gradients are read."""
        found = _called(self.name, self.package, lambda: tuple(self.made.watched))
        unknown = set(map(str, found)) - {name for name, _ in self.network.named_parameters()}
        if unknown or not found:
            raise self._wrong("names of parameters of its network to watch", f"{len(unknown)} unknown names")
        return tuple(map(str, found))

    @property
    def words(self) -> str:
        """The network in words."""
        found = _called(self.name, self.package, lambda: str(self.made.words))
        return printable(found)[:_MOST_WORDS]

    def decode(self, steps: Sequence[Gradients], targets: Tensor, noise: float) -> Tensor:
        """Return the candidates of each step, finite and as many in every call."""
        found = _called(self.name, self.package, lambda: self.made.decode(steps, targets.clone(), noise))
        if not isinstance(found, Tensor) or not found.is_floating_point():
            raise self._wrong("candidates as a tensor of floating-point numbers", type(found).__name__)
        found = found.detach().to("cpu", torch.float32)
        wanted = self.count or (found.shape[1] if found.ndim > 1 else 0)
        if not 0 < wanted <= _MOST_CANDIDATES or found.shape != (len(steps), wanted, *self.shape):
            sizes = " x ".join(map(str, (len(steps), self.count or "candidates", *self.shape)))
            raise self._wrong(f"candidates of shape {sizes}", " x ".join(map(str, found.shape)))
        if not found.isfinite().all():
            raise self._wrong("finite candidates", "NaN or infinite values")
        self.count = wanted
        return found

    def _wrong(self, rule: str, got: str) -> UsageError:
        where = f"the external attack {self.name} of {self.package}"
        return UsageError(expected(rule, got=printable(got), where=where))
