"""``meninx federate``: hospitals train together. The steps are imported when they are called."""

from __future__ import annotations

from cyclopts import App, Parameter

from meninx.cli.examples import epilogue
from meninx.cli.flags import shown_default
from meninx.cli.groups import GROUPS

HELP = GROUPS["federate"]
STEPS = {
    "new": ("consortium", "Make a study at the coordinator, with keys, certificates and the study file."),
    "enrol": ("consortium", "Enrol a site, or take requests and answers of sites into a study."),
    "review": ("consortium", "Show what a study asks of a site, on one page; approve or refuse it."),
    "doctor": ("consortium", "Check that a site can take part in a study."),
    "coordinator": ("study_processes", "Serve a study: its sites connect, and run begins the rounds."),
    "site": ("study_processes", "Take part in a study that this site has approved, until its run is over."),
    "run": ("study_processes", "Begin the rounds of a study that every site has approved."),
    "status": (
        "federate_status",
        "Show how a study stands: sites, rounds, bytes, epsilon, refusals.",
    ),
    "resume": ("study_processes", "Go on with a run that was stopped or killed."),
    "stop": ("study_processes", "Stop the process that serves a study or a site."),
    "simulate": ("simulate", "Train several datasets together on one machine, and compare."),
}
"""Name of a step -> module of ``meninx.cli`` that has the function of that name, and what it does."""

_SEVERAL = Parameter(consume_multiple=True, negative_iterable=(), show_default=shown_default)
federate = App("federate", HELP, help_epilogue=epilogue("federate"), default_parameter=_SEVERAL)
for _number, (_name, (_module, _help)) in enumerate(STEPS.items()):
    federate.command(
        f"meninx.cli.{_module}:{_name}",
        name=_name,
        help=_help,
        help_epilogue=epilogue(f"federate {_name}"),
        sort_key=_number,  # in the order of use
    )
