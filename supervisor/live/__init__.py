"""The live view, `soakd watch`: streams, entries, units, episodes and health, of a run or of a broker alone."""
