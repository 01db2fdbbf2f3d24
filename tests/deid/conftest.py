"""Fixtures that several tests of text in pixels share."""

from layout_samples import archive, reader, written  # noqa: F401
