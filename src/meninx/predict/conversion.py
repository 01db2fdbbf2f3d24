"""One image at a time from its files to network input, exactly as in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meninx.core.errors import DataError, StorageError, expected, problem
from meninx.core.intensity import Intensity
from meninx.core.manifest import Case, Manifest
from meninx.imaging import load
from meninx.imaging.image import Image
from meninx.imaging.preprocessing import Preprocessing, UnfitImage
from meninx.learn.data import normalised
from meninx.predict import fitness
from meninx.predict.fitness import Remark
from meninx.predict.inputs import UNREADABLE, InputImage
from meninx.predict.noticed import Refusals
from meninx.predict.trained import Trained

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What is remembered of an image while the network sees it.

    Attributes:
        image: the image.
        digest: of its files.
        size: spatial size of the stored image, before padding.
        affine: of the stored image.
        source_size: spatial size of the decoded image.
        source_affine: of the decoded image.
        remarks: what is unlike the training.
    """

    image: InputImage
    digest: str
    size: tuple[int, ...]
    affine: Affine
    source_size: tuple[int, ...]
    source_affine: Affine
    remarks: tuple[Remark, ...] = ()


@dataclass
class Converter:
    """Makes network input of images; what does not fit is refused by name, and the others go on.

    Attributes:
        model: what the images must fit.
        dataset: the prepared dataset that they belong to; None for images that are not stored yet.
        refusals: receives the images without network input.
    """

    model: Trained
    dataset: Manifest | None
    refusals: Refusals
    _cases: dict[str, Case] = field(init=False, default_factory=dict)
    _steps: Preprocessing = field(init=False)
    _intensity: Intensity = field(init=False)

    def __post_init__(self) -> None:
        self._intensity = self.model.info.intensity
        if self.dataset is not None:
            refuse_dataset(self.model, self.dataset)
            self._intensity = self._intensity.for_values_of(self.dataset.info.intensity)
            self._cases = {case.case_id: case for case in self.dataset.cases}
            return
        if self.model.preprocessing is None:
            what = "the model does not record how its images were prepared"
            fix = "give a dataset prepared as that of the training, or prepare and train again"
            raise DataError(problem(what, where="preprocessing", fix=fix))
        self._steps = self.model.preprocessing

    def converted(self, images: Iterable[InputImage]) -> Iterator[tuple[Converted, Tensor]]:
        """Yield network input of shape (channels, *spatial) of each image that fits.

        Raises:
            DataError: an image that does not fit, when refusals are strict.
            StorageError: the disk refused.
        """
        for image in images:
            try:
                yield self._one(image)
            except UnfitImage as error:
                self.refusals.add(error.reason, image.case_id)
            except StorageError:
                raise
            except DataError as error:  # its message quotes no value
                self.refusals.add(UNREADABLE, image.case_id, str(error))
            except Exception as error:  # a broken file makes a decoder raise anything
                self.refusals.add(UNREADABLE, image.case_id, type(error).__name__)

    def _one(self, image: InputImage) -> tuple[Converted, Tensor]:
        info, model = self.model.info, self.model.config.model
        digest = image.digest()
        if self.dataset is None:
            decoded = self._steps.read(image.paths)
            fitness.refuse_unfit(decoded, info)
            stored = self._steps.apply(decoded)
            remarks = fitness.remarks(decoded, stored, self._steps, info)
        else:
            decoded = stored = self._stored(self.dataset, image)
            fitness.refuse_unfit(stored, info)
            remarks = fitness.remarks_on_stored(stored.array, info, self.dataset.info)
        fitness.refuse_size(stored.size, info, model)
        whole = model.patch_size and not model.image_size
        size = stored.size if whole else model.image_size or stored.size
        values = normalised(torch.from_numpy(stored.array.astype(np.float32)), self._intensity, size)
        note = Converted(
            image=image,
            digest=digest,
            size=stored.size,
            affine=stored.affine,
            source_size=decoded.size,
            source_affine=decoded.affine,
            remarks=tuple(remarks),
        )
        return note, values

    def _stored(self, dataset: Manifest, image: InputImage) -> Image:
        """Return an image of a prepared dataset, with as many channels as the model takes."""
        case = self._cases[image.case_id]
        dataset.check_file(case.image)
        found = load.load(Path(dataset.root, case.image))
        wanted = self.model.info.channels
        if found.channels == wanted:
            return found
        array = found.array
        array = np.repeat(array, wanted, axis=0) if found.channels == 1 else array[:3].mean(0, keepdims=True)
        return Image(array, found.affine)


def refuse_dataset(model: Trained, dataset: Manifest) -> None:
    """Refuse a prepared dataset whose images were stored in another way than those of the training.

    Another bit depth is allowed.

    Raises:
        DataError: other dimensions or channels, or another preprocessing; names what differs.
    """
    here, there = dataset.info, model.info
    fix = "prepare it like the dataset of the training, or give the original images"
    for name, got, wanted in (
        ("dimensions", here.spatial_dims, there.spatial_dims),
        ("channels", here.channels, there.channels),
        ("channels", " ".join(here.channel_names), " ".join(there.channel_names)),
    ):
        if got != wanted:
            raise DataError(
                expected(f"{name} {wanted} as in training", got=got, where="dataset.toml", fix=fix)
            )
    if not (here.preprocessing and there.preprocessing):
        return  # a dataset of an older version, which did not record it
    ours, theirs = Preprocessing.from_table(there.preprocessing), Preprocessing.from_table(here.preprocessing)
    differing = [
        f"{name} {_shown(getattr(theirs, name))} for {_shown(getattr(ours, name))}"
        for name in Preprocessing.__dataclass_fields__
        if name != "bits"  # grey levels keep their share of the range
        and getattr(theirs, name) != getattr(ours, name)
    ]
    if differing:
        what = "images prepared as those of the training"
        raise DataError(expected(what, got=", ".join(differing), where="dataset.toml", fix=fix))


def _shown(value: object) -> str:
    """Return a setting as text; an empty one is ``none``."""
    if isinstance(value, tuple):
        return " x ".join(f"{item:g}" for item in value) or "none"
    return str(value)
