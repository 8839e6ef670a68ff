"""Manifests: the YAML a person writes, read and validated."""
