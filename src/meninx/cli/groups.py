"""What the groups of verbs do. The groups are imported when one of their verbs is called."""

GROUPS = {
    "audit": "Audit a run: what is guaranteed, what attacks find, and whether the program keeps its promise.",
    "dicom": (
        "Single steps on cleaned DICOM: write labels into tags, export and restore images, write a medium "
        "with a DICOMDIR, sort into class folders."
    ),
    "escrow": (
        "Seal the identities of a clean archive for a key's holder or a broker; see who opened an escrow."
    ),
    "federate": (
        "Train one network at several hospitals. No image leaves a hospital, each hospital decides by its "
        "own policy, and the coordinator sees sums."
    ),
    "obfuscate": "Release a dataset whose images hide an attribute of the patient, and attack the release.",
}
"""Name of a group, and of its module and its program there -> what it does."""
