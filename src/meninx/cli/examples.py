"""Examples shown at the end of every help; the test suite runs each of them on generated data."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "deid": (
        "meninx deid archive/ clean/ --key site.key --new-key --site north",
        "meninx deid archive/ clean/ --key site.key --site north --dry-run",
        (
            "meninx deid archive/ clean-basic/ --key site.key --site north --profile basic --options "
            "retain-full-dates"
        ),
    ),
    "review": (
        "meninx review clean/ --source archive/ --reviewer Anna",
        "meninx review clean/ --source archive/ --reviewer Bert --two-person --no-browser",
    ),
    "registry": ("meninx registry site.key --site north", "meninx registry site.key --site north --json"),
    "reidentify": (
        (
            "meninx reidentify clean/private/escrow.meninx --key site.key --dicom clean/images "
            '--out table.csv --reason "incidental finding"'
        ),
        "meninx reidentify clean/private/escrow.meninx --key site.key --all --out table.csv --dry-run",
    ),
    "escrow": ("meninx escrow seal clean/ --key site.key --dry-run",),
    "escrow broker-key": ("meninx escrow broker-key broker.key",),
    "escrow log": ("meninx escrow log clean/private/escrow.meninx --key site.key",),
    "escrow seal": ("meninx escrow seal clean/ --key site.key --remove-plain",),
    "prepare": (
        (
            "meninx prepare clean/ data/ --reader dicom --table ../labels.csv --crosswalks "
            "private/crosswalk_uids.csv"
        ),
        "meninx prepare images/ data/ --reader folder --size 64 64",
        "meninx prepare images/ data/ --reader folder --dry-run",
    ),
    "train": (
        "meninx train data/ --recipe tiny",
        "meninx train data/ --recipe tiny --epsilon 8 --delta 1e-3",
        "meninx train data/ --recipe tiny --dry-run",
        "meninx train data/ --recipe tiny --report page.html",
    ),
    "evaluate": ("meninx evaluate runs/latest", "meninx evaluate runs/latest --baseline runs/first"),
    "predict": (
        "meninx predict runs/latest images/ predictions/",
        "meninx predict runs/latest/release/bundle clean/ predictions/ --dry-run",
    ),
    "obfuscate": (
        "meninx obfuscate data/ hidden/ --method noise --attribute sex --dry-run",
        "meninx obfuscate data/ hidden/ --method pixelation --attribute sex+age --age-bins 60 --no-audit",
    ),
    "obfuscate compare": ("meninx obfuscate compare noise-005/ noise-010/ codes/ --out compared/",),
    "obfuscate features": (
        "meninx obfuscate features runs/latest shared/ --method leace --attribute sex --dry-run",
        "meninx obfuscate features vectors.npz shared/ --method leace --attribute sex --labels effusion",
    ),
    "obfuscate audit": ("meninx obfuscate audit data/ released/ --attribute sex --permutations 19",),
    "sweep": ("meninx sweep data/ --recipe tiny --epsilons 3 8 --seeds 0 1",),
    "report": (
        "meninx report clean/ data/ runs/latest --out report.html",
        "meninx report clean/ data/ runs/latest --dossier dossier/ --key signing.key",
    ),
    "verify": (
        "meninx verify data/",
        "meninx verify data/ --json",
        "meninx verify dossier/",
        "meninx verify theirs/ --originals archive/ --page check.html",
    ),
    "demo": ("meninx demo demo-out/", "meninx demo demo-out/ --dry-run"),
    "recipes": ("meninx recipes", "meninx recipes cxr-dp", "meninx recipes cxr-dp --copy mine.toml"),
    "doctor": (
        "meninx doctor",
        "meninx doctor --json",
        "meninx doctor --plan --model resnet9-small --image-size 32 32 --batch 8",
    ),
    "federate": (
        "meninx federate new chest/ --recipe tiny --like data/ --train.epsilon 8 --train.delta 1e-3",
        "meninx federate enrol south/ --site south --allowed-recipes tiny",
    ),
    "federate new": (
        "meninx federate new chest/ --recipe tiny --like data/ --train.epsilon 8 --train.delta 1e-3",
        "meninx federate new chest/ --recipe tiny --like data/ --rounds 20 --dry-run",
    ),
    "federate enrol": (
        "meninx federate enrol south/ --site south --allowed-recipes tiny --max-epsilon 8 --max-delta 1e-3",
        "meninx federate enrol chest/ --accept enrol-north.json enrol-east.json enrol-west.json",
        "meninx federate enrol chest/",
    ),
    "federate review": (
        "meninx federate review study-chest.json north/ --data data/",
        "meninx federate review study-chest.json north/ --data data/ --approve",
        "meninx federate review study-chest.json north/ --data data/ --refuse 'no budget this year'",
    ),
    "federate site": ("meninx federate site north/ chest", "meninx federate site north/ chest --device cuda"),
    "federate coordinator": ("meninx federate coordinator chest/",),
    "federate run": ("meninx federate run chest/", "meninx federate run chest/ --again --warm"),
    "federate resume": ("meninx federate resume chest/",),
    "federate stop": ("meninx federate stop chest/", "meninx federate stop north/"),
    "federate doctor": (
        "meninx federate doctor north/",
        "meninx federate doctor north/ --study study-chest.json --data data/",
    ),
    "federate status": (
        "meninx federate status chest/",
        "meninx federate status north/ --json",
    ),
    "federate simulate": (
        "meninx federate simulate east/ north/ west/ --recipe tiny --rounds 3 --local-steps 4",
        "meninx federate simulate east/ north/ west/ --recipe tiny --algorithm fedprox --baselines",
    ),
    "completion": ("meninx completion bash", "meninx completion zsh"),
    "audit": (
        "meninx audit runs/private/ --dry-run",
        "meninx audit runs/private/ --parts bounds one-run --canaries 400",
        "meninx audit runs/private/ --parts bounds --fail-if 'largest-tpr@fpr=0.01 > 0.9'",
    ),
    "audit bounds": (
        "meninx audit bounds --recipe ham10000-dp --units 8112 --eps-max 1e6 --n-eps 6",
        "meninx audit bounds --sample-rate 0.01 --noise-multiplier 1 --steps 1000 --n-eps 5 --out own/",
        "meninx audit bounds --recipe demo-dp --units 700 --dry-run",
    ),
    "audit one-run": ("meninx audit one-run runs/private/ --canaries 400",),
    "audit membership": (
        "meninx audit membership runs/private/",
        "meninx audit membership runs/private/ --references 16 --out audited/",
    ),
    "audit attributes": (
        "meninx audit attributes runs/private/ --dry-run",
        "meninx audit attributes runs/private/ --attributes sex --permutations 99",
    ),
    "audit reconstruct": (
        "meninx audit reconstruct runs/private/",
        "meninx audit reconstruct runs/private/ --attacks imprint-pca trap --eps-last 18 --out audited/",
        "meninx audit reconstruct runs/private/ --dry-run",
    ),
    "audit reconstruct create": ("meninx audit reconstruct create runs/private/ --batches 5 --bins 128",),
    "audit reconstruct match": ("meninx audit reconstruct match runs/private/ --metrics ssim",),
    "audit reconstruct visualise": ("meninx audit reconstruct visualise runs/private/ --best-images 7",),
    "audit identity": (
        "meninx audit identity data/ --dry-run",
        "meninx audit identity data/ --attacks hog --out linked/",
    ),
    "audit scores": (
        "meninx audit scores --in in.npy --out out.npy --claimed-eps 8",
        "meninx audit scores --in in.npy --out out.npy --noise-multiplier 1.2 --sample-rate 0.05 --steps 200",
    ),
    "dicom": ("meninx dicom export clean/ images/", "meninx dicom restore images/ back/"),
    "dicom label": ("meninx dicom label clean/ labelled/ --tag ClinicalTrialTimePointID --from-folder -1",),
    "dicom export": ("meninx dicom export clean/ images/ --intensity display --bits 8",),
    "dicom restore": ("meninx dicom restore images/ back/",),
    "dicom media": (
        "meninx dicom media clean/ medium/ --dry-run",
        "meninx dicom media clean/ medium/",
    ),
    "dicom folders": ("meninx dicom folders clean/ classes/ --from-tag PatientSex",),
    "dicom table": ("meninx dicom table classes/ classes.csv",),
}


def epilogue(verb: str) -> str:
    """Return the text that ends the help of ``verb``."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in EXAMPLES.get(verb, ()))
