"""One benchmark, seen from the supervisor."""

from typing import TYPE_CHECKING

from edgekit.bench.agent.wire import AgentError, Message

if TYPE_CHECKING:
    from edgekit.bench.agent.supervisor import Supervisor


def run(supervisor: "Supervisor", message: Message) -> Message:
    """Measure what a message asks for."""
    del supervisor, message
    raise AgentError("internal", "This agent cannot measure yet.", "Install a newer edgekit.")
