"""The append-only record of a run: the only source of the verdict."""
