"""Faces in scans of the head: found in a series, planned once per series, removed from each instance."""
