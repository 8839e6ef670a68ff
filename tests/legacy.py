"""A manifest as the older formats have it, for the tests that load one and those that start it."""

from __future__ import annotations

QUICKSTART = """\
apiVersion: scitex-agent-container/v2
kind: Agent
metadata:
  name: my-agent
  labels: {role: worker, machine: local}
spec:
  runtime: claude-code
  model: sonnet
  multiplexer: tmux
  claude:
    flags:
      - --dangerously-skip-permissions
    session: continue-or-new
  skills:
    required: [scitex]
  health: {enabled: true, interval: 60, method: multiplexer-alive}
  restart: {policy: on-failure, max_retries: 3}
"""
"""The agent of v2's own quickstart, under the name of the folder that it stands in."""
