"""What an agent is doing, and what its death means: pure functions over plain values."""
