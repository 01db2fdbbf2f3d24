"""Reading and writing images as array, affine and header: DICOM, NIfTI, PNG, SEG, run-length masks."""
