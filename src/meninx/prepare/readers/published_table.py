"""Published datasets of one table and one tree of images: HAM10000, PAD-UFES-20 and BRSET.

**HAM10000**, seven diagnoses of pigmented skin lesions: ``HAM10000_metadata.csv`` (lesion_id, image_id, dx,
age, sex, localization) and the images in ``HAM10000_images*``. It names lesions, not patients, so the lesion
stands for the patient. ``malignant=True`` merges akiec, bcc and mel against the rest.

**PAD-UFES-20**, six diagnoses of skin lesions photographed by smartphone: ``metadata.csv`` (patient_id,
lesion_id, age, gender, diagnostic, img_id) and the images in ``imgs_part_1`` to ``_3`` or ``images``.
``malignant=True`` merges BCC, MEL and SCC against the rest. Caution: gender and many other columns are filled
in for every biopsied lesion but for few others, so whether they are present leaks the diagnosis. Group
metrics by sex compare mostly biopsied lesions, and a model must never see these columns.

**BRSET**, colour fundus photographs with eye findings: ``labels.csv`` or ``labels_brset.csv`` (image_id,
patient_id, patient_age, patient_sex with 1 male and 2 female, and the findings) and the images at
``fundus_photos/<image_id>.jpg`` or anywhere below. ``class_column`` takes one grade instead.

References:
    Tschandl et al., HAM10000, Scientific Data 2018. Pacheco et al., PAD-UFES-20, Data in Brief 2020.
    Nakayama et al., A Brazilian Multilabel Ophthalmological Dataset, PhysioNet 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from meninx.core.csv_table import CsvRow, read_table
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import values
from meninx.prepare.readers.layout import Layout, read_rows
from meninx.prepare.readers.source_files import first_of, index_files, resolve
from meninx.prepare.source_cases import ReaderOutput

_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """The layout of one dataset; calling it reads the dataset.

    Attributes:
        tables: published names of the table; the first that exists is read.
        name: column with the name of the image, with or without a suffix.
        patient: column with the patient, or with what stands for the patient.
        image: where an image belongs when no file of its name is found; ``{}`` stands for the name.
        diagnosis: column with the one class of a row; empty where the dataset has one column per label.
        labels: columns of the labels; those that the table lacks are left out.
        malignant: classes that the setting ``malignant`` merges.
        sex: column of the sex.
        age: column of the age.
        codes: codes of the sex.
        required: further columns that must be there.
        patients_known: False when the dataset names no patients.
    """

    tables: tuple[str, ...]
    name: str
    patient: str
    image: str
    diagnosis: str = ""
    labels: tuple[str, ...] = ()
    malignant: tuple[str, ...] = ()
    sex: str = "sex"
    age: str = "age"
    codes: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    patients_known: bool = True

    def __call__(self, root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
        """Return the cases of the dataset.

        Raises:
            LayoutError: a column is missing, or a cell is empty or not as published; names file, column and
                row.
        """
        if config.labels.malignant:
            config = config.replace(positive=self.malignant, positive_name="malignant", malignant=False)
        path = resolve(config.input.table, root, site) if config.input.table else first_of(root, self.tables)
        column = self.diagnosis or config.labels.class_column
        table = read_table(path, (self.patient, self.name, *self.required, *([column] if column else [])))
        published = tuple(name for name in self.labels if name in table.columns)
        places = index_files(root, _SUFFIXES)

        def image(row: CsvRow) -> Path:
            name = row.need(self.name)
            return places.get(name, root / self.image.replace("{}", name))

        def diagnosis(row: CsvRow) -> str:
            return row.need(column) if self.diagnosis else row.get(column)

        layout = Layout(
            image=image,
            patient=lambda row: row.need(self.patient),
            classes=diagnosis if column else None,
            labels=() if column else values.chosen(config.labels.label_columns, published, path.name),
            sex=self.sex,
            age=self.age,
            codes=self.codes,
            patients_known=self.patients_known,
        )
        return read_rows(root, [table], layout, config)


HAM10000 = PublishedTable(
    tables=("HAM10000_metadata.csv",),
    name="image_id",
    patient="lesion_id",
    image="HAM10000_images/{}.jpg",
    diagnosis="dx",
    malignant=("akiec", "bcc", "mel"),
    patients_known=False,
)
PAD_UFES = PublishedTable(
    tables=("metadata.csv",),
    name="img_id",
    patient="patient_id",
    image="images/{}",
    diagnosis="diagnostic",
    malignant=("BCC", "MEL", "SCC"),
    sex="gender",
)
BRSET = PublishedTable(
    tables=("labels.csv", "labels_brset.csv"),
    name="image_id",
    patient="patient_id",
    image="fundus_photos/{}.jpg",
    labels=(
        "diabetic_retinopathy", "macular_edema", "scar", "nevus", "amd", "vascular_occlusion",
        "hypertensive_retinopathy", "drusens", "hemorrhage", "retinal_detachment", "myopic_fundus",
        "increased_cup_disc", "other",
    ),
    sex="patient_sex",
    age="patient_age",
    codes={"1": "M", "2": "F"},
    required=("patient_sex", "patient_age"),
)  # fmt: skip
