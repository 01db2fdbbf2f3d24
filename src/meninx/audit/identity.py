"""``meninx audit identity``: can images be linked to other images of the same patient?

A file without a name is not a file that nobody can name. An attacker who has one more image of a patient
compares it with all images of a dataset. Attacks are fitted on some patients and measured on others, against
chance, against what labels and attributes alone link, and with controls. The same call takes changed images
(``probes``) and the reconstructions of an audited run.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from meninx.audit.audited_run import FOLDER, dataset_of, origin_of
from meninx.audit.bounds import percent
from meninx.audit.config import IdentityConfig
from meninx.audit.identity_figure import draw
from meninx.audit.identity_images import (
    Pictures,
    attribute_similarity,
    divided,
    marked,
    pictures_of,
    shuffled,
    without_copies,
)
from meninx.core import artifacts, files, provenance, workspace
from meninx.core import run as runs
from meninx.core.artifacts import Origin, RunRecord, RunState
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.findings import Finding, key_of, named
from meninx.core.identity_records import IdentityAudit, LinkRecord
from meninx.core.manifest import Manifest, dataset_digest
from meninx.core.progress import SILENT, Progress
from meninx.core.randomness import child_seed, private_bytes
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn.identity_attacks import SIAMESE, Embedding, fit_embedding
from meninx.metrics.linkage import ANOTHER, LEAST_PATIENTS, OWN, measure_linkage
