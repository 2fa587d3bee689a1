"""Reads the journal and says what happened: attribution, thresholds, verdict, reports."""
