"""The hub: reserved for agents that talk to each other. Nothing is here yet."""
