"""Types, run folder, provenance and errors that every room shares; standard library, numpy and tomli-w only."""
