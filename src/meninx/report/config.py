"""Settings of `meninx report`: title, limits of the verdicts, and what the model card needs from a person."""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core.errors import ConfigError, expected
from meninx.core.setting_types import CountOrZero, Positive, Share
from meninx.core.settings import Settings

_MOST_PICTURES = 64


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """One report page.

    Attributes:
        title: Heading of the page.
        epsilon_amber: Largest epsilon whose card is green.
        epsilon_red: Largest epsilon whose card is amber; above it the card is red.
        attack_amber: Largest bound on TPR at 1 % FPR (membership) whose card is green.
        attack_red: Largest bound of this kind whose card is amber.
        gap_limit: Largest gap of a group (AUROC or Dice) that does not count as a difference.
        utility_floor: Value that the whole interval of every label's metric must exceed. Without it, utility
            is judged against a run without privacy that was measured on the same cases, if there is one.
        utility_loss: Largest loss against that run that does not count as a loss.
        training_curves: Show training curves; under DP they are outside the guarantee, as the page states.
        case_plots: Show the Dice of each test case of a segmentation, without names, from the private folder.
        contact_sheet: Number of training images to show, at most 64. Only of synthetic datasets, or with
            contact_sheet_permission of datasets that no private run given here was trained on.
        contact_sheet_permission: Licence or approval by which real images are shown; printed below them.
        card: Also write MODEL_CARD.md into the release folder of every run.
        license: Licence of the model, for the card (an SPDX identifier in lower case, or other).
        authors: Person or group responsible for the model card; required for it.
        contact: Contact of the authors; required for the card.
        intended_use: Intended use of the model in one sentence, for the card.
        date: Date printed on the page, e.g. 2026-11-20; today by default.
        overwrite: Replace existing files.
    """

    title: str = "Privacy and utility report"
    epsilon_amber: Positive = 1.0
    epsilon_red: Positive = 10.0
    attack_amber: Share = 0.1
    attack_red: Share = 0.5
    gap_limit: Positive = 0.05
    utility_floor: Share | None = None
    utility_loss: Positive = 0.05
    training_curves: bool = True
    case_plots: bool = True
    contact_sheet: CountOrZero = 0
    contact_sheet_permission: str = ""
    card: bool = False
    license: str = "other"
    authors: str = ""
    contact: str = ""
    intended_use: str = (
        "Research on privately trained models. Not a medical device; not for clinical decisions."
    )
    date: str = ""
    overwrite: bool = False

    def check_rules(self) -> None:
        """Refuse limits in the wrong order and a sheet of too many images."""
        if self.contact_sheet > _MOST_PICTURES:
            raise ConfigError(
                expected(f"at most {_MOST_PICTURES}", got=self.contact_sheet, where="contact_sheet")
            )
        if self.contact_sheet_permission and not self.contact_sheet:
            raise ConfigError(
                expected("contact_sheet", got="a permission alone", where="contact_sheet_permission")
            )
        for low, high in (("epsilon_amber", "epsilon_red"), ("attack_amber", "attack_red")):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(expected(f"{low} <= {high}", got=getattr(self, low), where=low))
