"""Disturbs the system, and always heals it again."""
