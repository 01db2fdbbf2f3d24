"""Medical Segmentation Decathlon: one ``TaskNN_Name`` folder with ``dataset.json``.

Layout: ``dataset.json`` lists ``training`` pairs of ``image`` and ``label``, names the label values and, as
``modality``, the channels. An image of several modalities (prostate: T2 and ADC; brain tumours: FLAIR, T1w,
T1gd, T2w) has a fourth axis. The ``test`` images have no labels and are left out. Each image is its own
patient.

References:
    Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core.errors import LayoutError, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import dataset_json, mask_labels
from meninx.prepare.readers.channels import positions_of
from meninx.prepare.source_cases import FileSource, ReaderOutput, SelectedChannels, SourceCase


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return the training cases of a Decathlon task, labels and channels named as in ``dataset.json``.

    Raises:
        LayoutError: ``dataset.json`` is missing or has another shape; names the key and entry.
        ConfigError: ``mask_labels`` or ``channels`` name something that the task does not have.
    """
    table = dataset_json.read(root)
    labels = mask_labels.of_names(config.masks.labels, dataset_json.labels_of(table), where=dataset_json.NAME)
    known = dataset_json.channels_of(table) if "modality" in table else ()
    positions = positions_of(config.images.channels, known, where=dataset_json.NAME)
    entries = table.get("training")
    if not isinstance(entries, list):
        raise LayoutError(problem("there is no list of pairs", where="dataset.json, key 'training'"))
    cases = []
    for number, entry in enumerate(entries, start=1):
        where = f"dataset.json, training entry {number}"
        if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
            raise LayoutError(problem("an entry is not an image with its label", where=where))
        image = dataset_json.path_of(root, entry["image"], where=where)
        key = image.relative_to(root).as_posix()
        cases.append(
            SourceCase(
                key=key,
                patient=key,
                image=SelectedChannels(FileSource(image), len(known), positions, where)
                if known
                else FileSource(image),
                mask=FileSource(dataset_json.path_of(root, entry["label"], where=where)),
                mask_values=labels.values,
                where=where,
            )
        )
    tests = table.get("test", [])
    skipped = tuple(
        ("test image without a label map", f"dataset.json, test entry {n + 1}")
        for n in range(len(tests) if isinstance(tests, list) else 0)
    )
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels.names,
        task=TaskKind.SEGMENTATION,
        skipped=skipped,
        patients_known=False,
        spatial_dims=3,
        channels=tuple(known[position] for position in positions),
        channel_positions=positions if len(known) > 1 else (),
        source_channels=len(known) if len(known) > 1 else 0,
    )
