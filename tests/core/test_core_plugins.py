"""Entry points of other packages: a name of meninx's own is refused by the name of the package."""

import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest

from meninx.cli import app
from meninx.core import plugins
from meninx.core.errors import ConfigError


def installed(place: Path, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package with one entry point on the path."""
    info = place / "other_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    invalidate_caches()


def test_a_name_that_meninx_has_itself_is_refused_by_the_name_of_the_package(tmp_path, monkeypatch):
    installed(tmp_path, "[meninx.networks]\nunet = json:loads\nother = json:loads\n", monkeypatch)
    plugins.refuse_own(plugins.READERS, "unet")
    plugins.refuse_own(plugins.NETWORKS, "resnet10")
    with pytest.raises(ConfigError, match=r"other-package offers unet .* rename its entry point"):
        plugins.refuse_own(plugins.NETWORKS, "unet")
    assert plugins.load(plugins.NETWORKS, "other") is not None


@pytest.mark.parametrize(("group", "name"), [("networks", "unet"), ("readers", "msd"), ("tasks", "auto")])
def test_networks_readers_and_tasks_look_for_such_a_name(tmp_path, monkeypatch, group, name):
    from meninx.core.manifest import DatasetInfo, TaskKind
    from meninx.learn import assemble
    from meninx.learn.config import LearnConfig
    from meninx.models import registry
    from meninx.prepare import readers

    info = DatasetInfo(name="d", task=TaskKind.MULTICLASS, labels=("a", "b"), size=(8, 8))
    use = {
        "networks": lambda: registry.build(name, spatial_dims=2, in_channels=1, out_channels=1),
        "readers": lambda: readers.reader_of(name),
        "tasks": lambda: assemble._task(LearnConfig(), info, weights=()),
    }[group]
    use()
    installed(tmp_path, f"[meninx.{group}]\n{name} = json:loads\n", monkeypatch)
    with pytest.raises(ConfigError, match="other-package"):
        use()


def test_a_package_that_ends_the_process_when_it_is_imported_is_refused(tmp_path, monkeypatch):
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    installed(tmp_path, "[meninx.networks]\nbye = leaving:Net\n", monkeypatch)
    with pytest.raises(ConfigError, match="SystemExit"):
        plugins.load(plugins.NETWORKS, "bye")


@pytest.mark.parametrize(("code", "exit_code"), [(0, 2), (None, 2)])
def test_code_that_ends_a_command_is_no_success(monkeypatch, capsys, code, exit_code):
    def leave(*arguments, **options):
        sys.exit(code)

    monkeypatch.setattr(app, "app_for", lambda arguments: (leave, ""))
    assert app.run(["doctor"]) == exit_code
    assert "ended the command" in capsys.readouterr().err
