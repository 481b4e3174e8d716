"""The agent: what runs on a device, measures there, and talks to the host over one pipe.

Two processes. The *supervisor* (`supervisor.py`) needs the standard library alone: it owns the
channel, the lock, the cache and the heartbeat. The *worker* (`worker.py`) imports NumPy and the
runtime and measures. A model that crashes its runtime kills the worker only, and the supervisor
lives to say with which signal. `docs/agent-protocol.md` describes the wire.
"""

PROTOCOL = 1
