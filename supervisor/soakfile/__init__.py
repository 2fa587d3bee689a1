"""From YAML to a checked soak: positions, environment, every error at once, JSON schema."""
