"""Invented patients: images, findings, masks, and DICOM headers full of identifiers.

The cohort comes in three forms: arrays (:func:`radiographs`, :func:`volumes`), a prepared dataset folder
(:func:`write_dataset`), and the DICOM archives of several hospitals with an answer key that lists every
planted identifier (:func:`write_archives`). Everything is a function of the seed, and no real patient is
involved.

Example:
    >>> data = radiographs(4, size=32, seed=1)
    >>> data.images.shape, sorted(data.labels)
    ((4, 32, 32), ['effusion', 'nodule', 'pneumothorax'])
"""

from meninx.synthetic.abdomen import Volume, volume
from meninx.synthetic.archive import write_archives
from meninx.synthetic.chest import Radiograph, radiograph
from meninx.synthetic.cohort import PhantomConfig
from meninx.synthetic.dataset import Radiographs, Volumes, radiographs, volumes, write_dataset
from meninx.synthetic.key import AnswerKey, Plant, PlantedFile, Truth, read_answer_key
from meninx.synthetic.people import FINDINGS, Subject, subjects

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
