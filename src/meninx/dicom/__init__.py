"""Single steps on cleaned DICOM: labels into tags, images out and in, class folders."""
