"""Images in and out: array, affine and header; DICOM, NIfTI, PNG, SEG, run-length masks, phantoms."""
