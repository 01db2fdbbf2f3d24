"""Conversion of images from their files to network input, exactly as in training, one image at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meninx.core.errors import DataError, MeninxError, StorageError, problem
from meninx.core.intensity import Intensity
from meninx.core.manifest import Case, Manifest
from meninx.imaging import load
from meninx.imaging.image import Image
from meninx.imaging.image_files import UNREADABLE
from meninx.imaging.preprocessing import Preprocessing, UnfitImage, refuse_size, refuse_unfit
from meninx.learn.data import normalised
from meninx.learn.dataset_fit import check_images
from meninx.predict import fitness
from meninx.predict.fitness import Remark
from meninx.predict.inputs import InputImage
from meninx.predict.noticed import Refusals
from meninx.predict.trained import Trained

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Facts about an image that are needed after the network has run.

    Attributes:
        image: the image.
        digest: digest of its files.
        size: spatial size of the stored image, before padding.
        affine: affine of the stored image.
        source_size: spatial size of the decoded image.
        source_affine: affine of the decoded image.
        remarks: differences from the training images.
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
    """Converter of images to network input; images that do not fit are recorded as refusals and skipped.

    Attributes:
        model: the model that the images must fit.
        dataset: the prepared dataset that they belong to; None for images that are not stored yet.
        refusals: receives the images without network input.
        caveats: differences between ``dataset`` and the training dataset.
    """

    model: Trained
    dataset: Manifest | None
    refusals: Refusals
    caveats: tuple[str, ...] = field(init=False, default=())
    _cases: dict[str, Case] = field(init=False, default_factory=dict)
    _steps: Preprocessing = field(init=False)
    _intensity: Intensity = field(init=False)

    def __post_init__(self) -> None:
        self._intensity = self.model.info.intensity
        if self.dataset is not None:
            here = self.dataset.info
            self.caveats = tuple(check_images(self.model.info, here, self.model.config.model))
            self._intensity = self._intensity.for_values_of(self.dataset.info.intensity)
            self._cases = {case.case_id: case for case in self.dataset.cases}
            return
        if self.model.preprocessing is None:
            what = "the model does not record how its images were prepared"
            fix = "give a dataset prepared as that of the training, or prepare and train again"
            raise DataError(problem(what, where="preprocessing", fix=fix))
        self._steps = self.model.preprocessing

    def converted(self, images: Iterable[InputImage]) -> Iterator[tuple[Converted, Tensor]]:
        """Yield facts and network input of shape (channels, *spatial) for each image that fits.

        Raises:
            DataError: an image does not fit and refusals are strict.
            StorageError: a file cannot be read or written.
        """
        for image in images:
            try:
                digest = (
                    image.digest()
                )  # before reading: a file that changes in between is then predicted again by the next call
                decoded = self._read(image)
                ready = self._ready(image, digest, decoded) if decoded is not None else None
            except UnfitImage as error:
                self.refusals.add(error.reason, image.case_id)
                continue
            except StorageError:
                raise
            except DataError as error:  # its message contains no value of the header
                self.refusals.add(UNREADABLE, image.case_id, str(error))
                continue
            if ready is not None:
                yield ready

    def _read(self, image: InputImage) -> Image | None:
        """Return an image as decoded, or as stored in the dataset; None if its decoder fails."""
        try:
            if self.dataset is None:
                return self._steps.read(image.paths)
            case = self._cases[image.case_id]
            self.dataset.check_file(case.image)
            return load.load(Path(self.dataset.root, case.image))
        except MeninxError:
            raise
        except Exception as error:  # a decoder may raise any exception on a damaged file
            self.refusals.add(UNREADABLE, image.case_id, type(error).__name__)
            return None

    def _ready(self, image: InputImage, digest: str, decoded: Image) -> tuple[Converted, Tensor]:
        info, model = self.model.info, self.model.config.model
        refuse_unfit(decoded, info.spatial_dims, info.channels)
        if self.dataset is None:
            stored = self._steps.apply(decoded)
            remarks = fitness.remarks(decoded, stored, self._steps, info)
        else:
            stored = decoded
            remarks = fitness.remarks_on_stored(stored.array, info, self.dataset.info)
        whole = model.patch_size and not model.image_size
        refuse_size(stored.size, largest=model.image_size, only=() if whole else info.size)
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
