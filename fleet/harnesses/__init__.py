"""The coding-agent programs, one module each."""
