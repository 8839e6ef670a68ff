"""fleet runs AI coding agents declared in YAML: it launches, watches, restarts and connects them."""

__version__ = "0.1.0"
