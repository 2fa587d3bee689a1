"""The running side of the docker engine, in parts."""
