"""The files of the workshop: workflows, hooks, templates, citation, container.

Each says what the repository can do.

Actions do not run here. What can be compared is compared: targets and scripts exist, versions agree with the
classifiers, actions are pinned to a commit, and no job has more rights than it needs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
SYSTEMS = {"ubuntu": "POSIX :: Linux", "macos": "MacOS", "windows": "Microsoft :: Windows"}
RIGHTS = {"release.yml": {"attest": {"id-token", "attestations"}, "publish": {"id-token"}}}


def read(path: Path) -> Any:
    """Return a YAML file; ``on`` stays a word instead of becoming true."""
    loader = type(
        "Loader",
        (yaml.SafeLoader,),
        {"yaml_implicit_resolvers": dict(yaml.SafeLoader.yaml_implicit_resolvers)},
    )
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if first not in "oO" or "bool" not in tag]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def steps(workflow: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in workflow["jobs"].items():
        for step in job["steps"]:
            yield name, step


def classified(prefix: str) -> set[str]:
    return {item.removeprefix(prefix) for item in PROJECT["classifiers"] if item.startswith(prefix)}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
class TestWorkflow:
    def test_every_command_exists(self, path: Path) -> None:
        for _, step in steps(read(path)):
            if "run" in step:
                assert runnable(step["run"]), step["run"]

    def test_every_action_is_pinned_to_a_commit_with_its_version_beside_it(self, path: Path) -> None:
        used = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
        assert used
        assert [
            line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
        ] == []

    def test_no_job_has_more_rights_than_it_needs(self, path: Path) -> None:
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        given = {
            name: set(job["permissions"]) for name, job in workflow["jobs"].items() if "permissions" in job
        }
        assert given == RIGHTS.get(path.name, {})

    def test_it_has_no_secret_and_trusts_no_text_of_strangers(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"secrets\.|pull_request_target|github\.event|head_ref", text)
        commands = [step["run"] for _, step in steps(read(path)) if "run" in step]
        assert [command for command in commands if "${{" in command] == []

    def test_a_checkout_leaves_no_token_and_every_job_ends(self, path: Path) -> None:
        workflow = read(path)
        for _, step in steps(workflow):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
                assert step["with"]["fetch-depth"] == 0  # the version comes from the tags
        assert all(job["timeout-minutes"] <= 120 for job in workflow["jobs"].values())


def runnable(command: str) -> bool:
    """Return whether a line of a workflow runs something that this repository has."""
    words = command.split()
    if words[0] == "make":
        return words[1] in TARGETS
    if words[0] == "python" and words[1] == "-m":
        return words[2] in ("build", "meninx", "pip")
    return (words[0] == "python" and (ROOT / words[1]).is_file()) or (words[0] == "test" and len(words) == 3)


def test_a_missing_target_or_script_would_be_seen() -> None:
    assert not runnable("make everything")
    assert not runnable("python tools/none.py")
    assert not runnable("curl x | sh")


def test_versions_and_systems_are_those_of_the_classifiers() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "test.yml")["jobs"]
    versions = classified("Programming Language :: Python :: ") - {"3", "3 :: Only"}
    assert {tuple(job["strategy"]["matrix"]["python"]) for job in jobs.values()} == {tuple(sorted(versions))}
    systems = [jobs["linux"]["runs-on"], *jobs["torch-free"]["strategy"]["matrix"]["system"]]
    assert {SYSTEMS[name.partition("-")[0]] for name in systems} == classified("Operating System :: ")
    assert PROJECT["requires-python"] == f">={min(versions)}"


def test_hooks_are_local_and_run_what_exists() -> None:
    repositories = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [item["repo"] for item in repositories] == ["local"]
    hooks = {hook["id"]: hook for hook in repositories[0]["hooks"]}
    assert set(hooks) >= {"ruff-check", "ruff-format", "codespell", "structure"}
    for hook in hooks.values():
        program, *words = hook["entry"].split()
        assert hook["language"] == "system"
        assert program.startswith(".venv/bin/")
        assert [word for word in words if word.endswith(".py") and not (ROOT / word).is_file()] == []


def test_pre_commit_accepts_its_configuration() -> None:
    from pre_commit.clientlib import load_config

    assert load_config(str(ROOT / ".pre-commit-config.yaml"))["repos"]


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_an_issue_form_has_fields_with_unique_names(name: str) -> None:
    form = read(ROOT / ".github" / "ISSUE_TEMPLATE" / name)
    assert {"name", "description", "body"} <= set(form)
    fields = [item for item in form["body"] if item["type"] != "markdown"]
    assert len({item["id"] for item in fields}) == len(fields) >= 2
    assert {item["type"] for item in fields} <= {"textarea", "input", "checkboxes", "dropdown"}


def test_dependabot_leaves_torch_alone() -> None:
    updates = {
        item["package-ecosystem"]: item for item in read(ROOT / ".github" / "dependabot.yml")["updates"]
    }
    assert set(updates) == {"github-actions", "pip", "docker"}
    assert [item["dependency-name"] for item in updates["pip"]["ignore"]] == ["torch"]


CFF_TYPES = {"conference-paper", "standard", "article", "software", "generic"}
CFF_KEYS = {
    "software": {
        *(
            "cff-version",
            "message",
            "type",
            "title",
            "abstract",
            "authors",
            "license",
            "keywords",
            "references",
        ),
        *("version", "date-released", "doi", "repository-code", "url"),
    },
    "reference": {"type", "title", "authors", "year", "doi", "collection-title", "start", "end", "url"},
}


def test_the_citation_follows_the_format() -> None:
    """Citation File Format 1.2.0: the required keys, no unknown ones, and persons or entities as authors."""
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation) <= CFF_KEYS["software"]
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["license"] == PROJECT["license"]
    for item in citation["references"]:
        assert {"type", "title", "authors"} <= set(item) <= CFF_KEYS["reference"]
        assert item["type"] in CFF_TYPES
    for author in [
        *citation["authors"],
        *(one for item in citation["references"] for one in item["authors"]),
    ]:
        assert set(author) in ({"name"}, {"family-names", "given-names"})
    assert citation["authors"] == PROJECT["authors"]


class TestContainerfile:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    lines = tuple(
        tuple(line.split(maxsplit=1))
        for line in re.sub(r"\\\n", " ", text).splitlines()
        if re.match(r"[A-Z]+ ", line)
    )

    def of(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.lines if word == instruction]

    def test_the_base_is_one_exact_release_of_the_oldest_python(self) -> None:
        bases = {line.split()[0] for line in self.of("FROM")}
        assert len(bases) == 1
        version = re.fullmatch(r"docker\.io/library/python:(3\.\d+)\.\d+-slim-\w+", bases.pop())
        assert version is not None
        assert PROJECT["requires-python"] == f">={version[1]}"

    def test_what_is_copied_exists_and_the_build_context_holds_it(self) -> None:
        context = set((ROOT / ".containerignore").read_text(encoding="utf-8").split())
        copied = [line for line in self.of("COPY") if not line.startswith("--from=")]
        sources = [word.removeprefix("./") for line in copied for word in line.split()[:-1]]
        assert sources
        assert [name for name in sources if not (ROOT / name).exists()] == []
        assert {f"!{name}" for name in sources} <= context
        assert "*" in context
        assert (ROOT / ".dockerignore").read_bytes() == (ROOT / ".containerignore").read_bytes()

    def test_the_last_user_is_a_number_and_not_root(self) -> None:
        final = self.lines[max(at for at, (word, _) in enumerate(self.lines) if word == "FROM") :]
        users = [rest for word, rest in final if word == "USER"]
        assert users
        assert int(users[-1]) > 0
        assert final.index(("USER", users[-1])) < min(
            at for at, (word, _) in enumerate(final) if word == "ENTRYPOINT"
        )

    def test_no_cache_stays_and_versions_are_those_of_the_constraints(self) -> None:
        assert "PIP_NO_CACHE_DIR=1" in self.text
        assert all("rm -rf /var/lib/apt/lists" in line for line in self.of("RUN") if "apt-get" in line)
        installs = [line for line in self.of("RUN") if "pip install" in line]
        assert installs
        assert all("-c constraints.txt" in line for line in installs)
        extras = set(re.findall(r"'\.\[([\w,]+)\]'", installs[0])[0].split(","))
        assert extras <= set(PROJECT["optional-dependencies"])

    def test_nothing_is_fetched_by_hand(self) -> None:
        assert not re.search(r"\b(curl|wget|git clone|ADD)\b", self.text)
