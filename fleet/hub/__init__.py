"""The hub: agents that talk to each other. What it decides is pure; what it keeps is one append-only log."""
