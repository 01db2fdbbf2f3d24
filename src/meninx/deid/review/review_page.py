"""The pages of the review as HTML: the list of layouts, and one page per layout.

Every value is escaped by the template engine. The pages hold no inline script or style and no foreign
address, and can be used without a script.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from meninx.deid.review.layouts import boxes_text
from meninx.deid.review.review_desk import ReviewDesk
from meninx.deid.review.review_votes import LayoutState, Vote, VoteKind, VoteStage
from meninx.serving.local_page import FORM_TOKEN

PER_PAGE = 60  # layouts of a page of the list
STATIC = {"style.css": "text/css", "review.js": "text/javascript", "icon.svg": "image/svg+xml"}
_TONES = {
    VoteStage.OPEN: "open",
    VoteStage.WAITING: "waiting",
    VoteStage.DIFFERENT: "different",
    VoteStage.DECIDED: "decided",
}
_WORDS = {
    VoteKind.ACCEPT: "accepted",
    VoteKind.REDACT: "more is redacted",
    VoteKind.KEEP: "text is kept",
    VoteKind.QUARANTINE: "kept out",
}


@dataclass(frozen=True, kw_only=True)
class ShownState:
    """What a reviewer may see about the state of a layout.

    Attributes:
        tone: name of its colour; the words say the same.
        words: the state.
        own: the reviewer's own standing vote.
        others: standing votes of others, which are hidden until the reviewer has voted.
        differs: the own vote is not that of the others, so that one of them has to change.
    """

    tone: str
    words: str
    own: Vote | None
    others: tuple[Vote, ...]
    differs: bool = False

    @property
    def joined(self) -> bool:
        """Whether the boxes of several votes are put together."""
        votes = (*((self.own,) if self.own else ()), *self.others)
        return self.tone == _TONES[VoteStage.DECIDED] and len({vote.boxes for vote in votes}) > 1


def shown(desk: ReviewDesk, state: LayoutState) -> ShownState:
    """Return what the reviewer may see: with two persons no other vote before the own one."""
    own = state.of(desk.person)
    others = tuple(vote for vote in state.standing if vote.person != desk.person)
    if desk.two_person and own is None and others:
        words = "decided by others" if state.stage == VoteStage.DECIDED else "waits for your vote"
        return ShownState(tone=_TONES[VoteStage.WAITING], words=words, own=None, others=())
    words, differs = str(state.stage), state.stage == VoteStage.DIFFERENT
    if state.stage == VoteStage.DECIDED:
        words = _WORDS[state.standing[-1].kind]
    return ShownState(tone=_TONES[state.stage], words=words, own=own, others=others, differs=differs)


def list_page(desk: ReviewDesk, number: int) -> str:
    """Return one page of the list of layouts.

    Args:
        desk: the review.
        number: of the page, from 0.
    """
    states = desk.states()
    first = number * PER_PAGE
    rows = [
        (index, layout, shown(desk, states[index]))
        for index, layout in enumerate(desk.layouts[first : first + PER_PAGE], start=first)
    ]
    pages = max(-(-len(desk.layouts) // PER_PAGE), 1)
    todo, different = desk.next_open(-1), desk.next_different(-1)
    return _rendered(
        "review_list.html.j2", desk, rows=rows, page=number, pages=pages, todo=todo, different=different
    )


def layout_page(desk: ReviewDesk, index: int, form_token: str, *, image: int = 0, problem: str = "") -> str:
    """Return the page of one layout.

    Args:
        desk: the review.
        index: of the layout.
        form_token: what the forms of the page send.
        image: which of its images is shown as it was written.
        problem: why the last vote was refused.
    """
    layout = desk.layouts[index]
    last = len(desk.layouts) - 1
    return _rendered(
        "review_layout.html.j2",
        desk,
        layout=layout,
        mask=desk.mask(index),
        index=index,
        following=index + 1 if index < last else 0,
        previous=index - 1 if index else last,
        image=image,
        state=shown(desk, desk.states()[index]),
        problem=problem,
        token_name=FORM_TOKEN,
        token=form_token,
    )


def static_file(name: str) -> str:
    """Return the text of a file beside the templates: one of :data:`STATIC`."""
    return (resources.files("meninx.deid") / "templates" / f"review_{name}").read_text(encoding="utf-8")


def _rendered(template: str, desk: ReviewDesk, **values: object) -> str:
    return _environment().get_template(template).render(desk=desk, result=desk.result(), **values)


@functools.cache
def _environment() -> Environment:
    engine = Environment(
        loader=PackageLoader("meninx.deid"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters |= {"boxes": boxes_text, "done": lambda vote: _WORDS[vote.kind]}
    return engine
