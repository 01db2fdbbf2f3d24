"""The synthetic cohort: invented patients with images, findings, masks and everything a header can betray.

Three ways in: arrays (:func:`radiographs`, :func:`volumes`), a prepared dataset folder
    (:func:`write_dataset`) and
hospitals' DICOM archives with an answer key of everything planted in them (:func:`write_archives`).
All of it is deterministic by seed, and no patient stands behind any of it.
"""

from meninx.imaging.phantom.abdomen import Volume, volume
from meninx.imaging.phantom.archive import write_archives
from meninx.imaging.phantom.arrays import Radiographs, Volumes, radiographs, volumes
from meninx.imaging.phantom.chest import Radiograph, radiograph
from meninx.imaging.phantom.config import PhantomConfig
from meninx.imaging.phantom.dataset import write_dataset
from meninx.imaging.phantom.key import AnswerKey, Plant, PlantedFile, Truth, read_answer_key
from meninx.imaging.phantom.subjects import FINDINGS, Subject, subjects

__all__ = [
    "FINDINGS",
    "AnswerKey",
    "PhantomConfig",
    "Plant",
    "PlantedFile",
    "Radiograph",
    "Radiographs",
    "Subject",
    "Truth",
    "Volume",
    "Volumes",
    "radiograph",
    "radiographs",
    "read_answer_key",
    "subjects",
    "volume",
    "volumes",
    "write_archives",
    "write_dataset",
]
