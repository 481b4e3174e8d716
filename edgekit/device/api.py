"""Measure on the user's devices, with the call and the result of a local benchmark."""

import dataclasses
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from edgekit.device.parts import check_runtimes, parts_of
from edgekit.device.registry import Device
from edgekit.device.session import Say, Session, Stop
from edgekit.device.talk import Answer, Hello, Patience
from edgekit.errors import DeviceError, EdgekitError, UsageError

if TYPE_CHECKING:
    from edgekit.bench import BenchResult, Protocol, Subject

Measured = tuple["BenchResult", dict[str, Any]]
SaySo = Callable[[str, float, str], None]


def probe(device: Device, *, stop: Stop | None = None, patience: Patience | None = None) -> Hello:
    """Ask a device what it is and what it has. Nothing is measured, and no lock is taken.

    Raises:
        DeviceError: it cannot be reached.
        UnavailableError: ssh, adb or its Python is missing.
    """
    with Session(device, stop=stop, patience=patience) as session:
        return session.hello


def bench(
    device: Device,
    subjects: Sequence["Subject"],
    protocol: "Protocol | None" = None,
    *,
    baseline: str | None = None,
    say: Say | None = None,
    meters: Sequence[str] = (),
    layers: bool = False,
    roofline: Mapping[str, Sequence[str]] | None = None,
    power_mode: str | None = None,
    stop: Stop | None = None,
    patience: Patience | None = None,
) -> Measured:
    """Measure models on a device; see `edgekit.bench.bench` for what is measured and how.

    Ctrl-C asks the device for what it has: a result with `complete` False where there is any. A
    second Ctrl-C does not wait for it.

    Args:
        device: where.
        subjects: what to measure; models and feeds go to the device, those it has already do not.
        protocol: the rules; `Protocol.full()` where None.
        baseline: name of the subject that the others are compared with.
        say: called with the fraction done and a short text.
        meters: names of energy meters to try, best first; the device's own where empty.
        layers: time each layer as well, in a separate pass.
        roofline: by subject name, the precisions in which to measure the device's limits as well.
        power_mode: a power mode to set for as long as it measures; None leaves it as it is.
        stop: asked about five times a second; True does what Ctrl-C does.
        patience: how long to wait for the device.

    Returns:
        The result, whose `where` is the device's name, and what else was asked for (`layers`,
        `peaks`) by name.

    Raises:
        DeviceError: the device cannot be reached, was lost in mid-run, or is in use.
        UnavailableError: it lacks Python, a module, a runtime or a driver.
        UsageError: a model cannot be loaded, or an option is wrong.
        KeyboardInterrupt: it was stopped, and there is no partial result.
    """
    from edgekit.bench import Protocol as Rules

    if not subjects:
        raise UsageError("There is nothing to measure.", "Give at least one model.")
    settings = {
        "protocol": dataclasses.asdict(protocol or Rules.full()),
        "baseline": baseline,
        "meters": list(meters or device.meters),
        "layers": layers,
        "roofline": {name: list(each) for name, each in (roofline or {}).items()},
        "power_mode": power_mode,
        "emulated": device.emulated,
    }
    with interruptible() as interrupted, tempfile.TemporaryDirectory(prefix="edgekit-") as folder:

        def stopped() -> int:
            return max(interrupted(), 0 if stop is None else stop())

        parts = [parts_of(each, Path(folder), i) for i, each in enumerate(subjects)]
        with Session(device, stop=stopped, patience=patience) as session:
            check_runtimes(session.hello, subjects, device)
            session.lock()
            paths = list(dict.fromkeys(path for part in parts for path in part.paths))
            sums = dict(zip(paths, session.upload(paths, say), strict=True))
            request = {
                **settings,
                "subjects": [part.request(sums) for part in parts],
            }
            answer = session.run(request, say)
    return _bench_result(device, answer), dict(answer.extras)


@dataclass(frozen=True)
class Many:
    """What several devices gave.

    Attributes:
        results: by device name, in the order asked for: what `bench` returns.
        errors: by device name, what went wrong where there is no result.
    """

    results: Mapping[str, Measured] = field(default_factory=dict)
    errors: Mapping[str, EdgekitError] = field(default_factory=dict)


def bench_many(
    devices: Sequence[Device],
    subjects: Sequence["Subject"] | Callable[[Device], Sequence["Subject"]],
    protocol: "Protocol | None" = None,
    *,
    say: SaySo | None = None,
    stop: Stop | None = None,
    **options: Any,
) -> Many:
    """Measure on several devices at once; one that fails does not lose the others' results.

    Ctrl-C stops all of them; those that have a partial result give it.

    Args:
        devices: where; each name once.
        subjects: what to measure, or a function that gives it for a device.
        protocol: the rules.
        say: called with the device's name, the fraction done and a short text; one call at a time.
        stop: as of `bench`.
        options: the other arguments of `bench`, the same for all.

    Raises:
        UsageError: there is no device, or one is named twice.
        KeyboardInterrupt: all were stopped before there was any result.
    """
    names = [device.name for device in devices]
    if not names or len(set(names)) < len(names):
        raise UsageError("Each device must be named once.", "Name one or more devices.")
    quiet = threading.Lock()

    def one(device: Device) -> Measured:
        def tell(fraction: float, text: str) -> None:
            if say is not None:
                with quiet:
                    say(device.name, fraction, text)

        chosen = subjects(device) if callable(subjects) else subjects
        return bench(device, chosen, protocol, say=tell, stop=stopped, **options)

    with interruptible() as interrupted, ThreadPoolExecutor(len(devices)) as pool:

        def stopped() -> int:
            return max(interrupted(), 0 if stop is None else stop())

        futures = {device.name: pool.submit(one, device) for device in devices}
        failures = {name: future.exception() for name, future in futures.items()}
    results: dict[str, Measured] = {}
    errors: dict[str, EdgekitError] = {}
    for name, error in failures.items():
        if error is None:
            results[name] = futures[name].result()
        elif isinstance(error, EdgekitError):
            errors[name] = error
        elif isinstance(error, KeyboardInterrupt):
            errors[name] = DeviceError(f"{name}: stopped before there was a result.", "Try again.")
        else:
            raise error
    if not results and any(isinstance(error, KeyboardInterrupt) for error in failures.values()):
        raise KeyboardInterrupt
    return Many(results, errors)


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Count Ctrl-C in place of being interrupted by it; the second is KeyboardInterrupt as well.

    Outside the main thread, and where Ctrl-C is handled by somebody else, nothing is changed.
    """
    presses = 0
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            signal.default_int_handler(number, frame)

    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: presses
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _bench_result(device: Device, answer: Answer) -> "BenchResult":
    from edgekit.bench import BenchResult

    try:
        result = BenchResult.from_dict({**answer.result, "where": device.name})
    except UsageError as e:
        raise DeviceError(
            f"{device.name} sent a result that is broken: {e.message}",
            "Remove ~/.cache/edgekit on the device, and measure again.",
        ) from e
    return dataclasses.replace(result, raw=answer.raw)
