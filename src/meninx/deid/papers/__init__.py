"""The papers of a clean archive: summary, chained audit log, signature and the statement for the officer."""
