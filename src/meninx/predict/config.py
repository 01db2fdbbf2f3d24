"""Settings of `meninx predict`."""

# No postponed annotations here: subclasses in other modules are read by their types.

from dataclasses import dataclass
from typing import Literal

from meninx.core.errors import ConfigError, problem
from meninx.core.setting_types import CountOrZero, Device
from meninx.core.settings import Settings

WORK_FIELDS = ("batch", "device", "strict", "dry_run", "resume", "overwrite")
"""Fields that change how the work is done, not its result."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Settings):
    """How new images are predicted.

    Attributes:
        format: files of a predicted label map: nifti (.nii.gz, or .png for 2-D images), dicom-seg (for DICOM
            input); by default nifti.
        identified: also write DICOM SEG for files that are not marked as de-identified; it repeats the name
            and number of the patient from the source.
        probabilities: also write the probability of each label of a segmentation, as NIfTI on the grid of the
            image, with one label after the other along the fourth axis.
        batch: images that are run at once; 0 for 32 images, or 1 volume.
        device: where the network runs; auto takes CUDA, then MPS, then the CPU.
        strict: stop at the first image that cannot be predicted, instead of counting it.
        dry_run: load the model, look at the input and count, write nothing.
        resume: go on with a complete result of the same model and settings; predicted images are reused.
        overwrite: replace the result in the output folder, once the new one is complete.
    """

    format: tuple[Literal["nifti", "dicom-seg"], ...] = ()
    identified: bool = False
    probabilities: bool = False
    batch: CountOrZero = 0
    device: Device = "auto"
    strict: bool = False
    dry_run: bool = False
    resume: bool = False
    overwrite: bool = False

    def check_rules(self) -> None:
        """Refuse settings that contradict each other or have no effect."""
        if self.resume and self.overwrite:
            raise ConfigError(
                problem("resume and overwrite exclude each other", where="resume", fix="choose one")
            )
        if self.identified and "dicom-seg" not in self.format:
            fix = "add dicom-seg to format, or leave it out"
            raise ConfigError(
                problem("the setting has no effect without DICOM SEG", where="identified", fix=fix)
            )
