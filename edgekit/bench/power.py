"""The device's power mode: recorded always, changed only on request, and put back.

Three things go by that name: `nvpmodel` (Jetson), the governor of cpufreq (any Linux), and ACPI's
platform profile (laptops). `root` is the file system's root and `search` the PATH; a test gives
folders of its own.
"""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from edgekit.errors import UnavailableError, UsageError

UNKNOWN = "unknown"
TIMEOUT_S = 30.0
AS_ROOT = "Set it on the device yourself as root, or run the benchmark there as root."
State = dict[str, str]


class Source(Protocol):
    """One thing that has power modes.

    Attributes:
        name: how it is called in `NAME:MODE`.
    """

    name: str

    def modes(self) -> Sequence[str]:
        """Return what it can be set to; nothing where the device does not have it."""
        ...

    def state(self) -> State:
        """Return what it is set to, part by part, in words that `put` takes."""
        ...

    def put(self, state: State) -> None:
        """Set it.

        Raises:
            UnavailableError: the device does not allow it.
        """
        ...


class Nvpmodel:
    """NVIDIA's power models of a Jetson, by the program `nvpmodel`."""

    name = "nvpmodel"

    def __init__(self, root: Path, search: str | None) -> None:
        self._root = root
        self._program = shutil.which("nvpmodel", path=search)

    def modes(self) -> Sequence[str]:
        """Return the names in `nvpmodel.conf`, which may hold spaces (`MODE 15W`)."""
        return list(self._numbers()) if self._program else []

    def state(self) -> State:
        """Ask `nvpmodel -q`, which prints the mode's name and its number."""
        if not self._program:
            return {}
        answer = self._call("-q")
        match = re.search(r"Power Mode:\s*(.+)", answer.stdout)
        return {"mode": match[1].strip()} if match else {}

    def put(self, state: State) -> None:
        """Call `nvpmodel -m NUMBER`; it gets no answer to its question whether to reboot."""
        mode = state["mode"]
        if self.state() == state:
            return
        answer = self._call("-m", self._numbers()[mode])
        if self.state() == state:
            return
        said = (answer.stderr or answer.stdout).strip().splitlines()
        why = f" It said: {said[-1]}" if said else ""
        if "reboot" in (answer.stdout + answer.stderr).lower():
            hint = "This change needs a restart of the device: make it there yourself."
        else:
            hint = AS_ROOT
        raise UnavailableError(f"nvpmodel did not set the power mode {mode!r}.{why}", hint)

    def _numbers(self) -> dict[str, str]:
        text = _text(self._root / "etc/nvpmodel.conf")
        found = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^>]+?)\s*>", text, re.MULTILINE)
        return {name: number for number, name in found}

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [str(self._program), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise UnavailableError(f"nvpmodel does not run: {e}.", AS_ROOT) from e


class Files:
    """A mode that is written to one or more files under `/sys`.

    Args:
        name: how it is called.
        values: the files that hold the mode, each of which may differ.
        choices: for each, the file that lists what it can be.
    """

    def __init__(self, name: str, values: Sequence[Path], choices: Sequence[Path]) -> None:
        self.name = name
        self._values = values
        self._choices = choices

    def modes(self) -> Sequence[str]:
        """Return what every one of the files can be set to."""
        lists = [_text(path).split() for path in self._choices]
        common = set.intersection(*map(set, lists)) if lists else set()
        return [mode for mode in (lists[0] if lists else []) if mode in common]

    def state(self) -> State:
        """Read the files that can be read."""
        return {str(path): text for path in self._values if (text := _text(path))}

    def put(self, state: State) -> None:
        """Write the files whose value differs."""
        for path, mode in state.items():
            if _text(Path(path)) == mode:
                continue
            try:
                Path(path).write_text(mode, encoding="utf-8")
            except OSError as e:
                raise UnavailableError(
                    f"The {self.name} cannot be set to {mode!r}: {e.strerror} ({path}).", AS_ROOT
                ) from e


def sources(root: Path = Path("/"), search: str | None = None) -> list[Source]:
    """Return everything on this device that has power modes, the most telling first."""
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    acpi = root / "sys/firmware/acpi"
    profile = [acpi / "platform_profile"] if (acpi / "platform_profile").exists() else []
    every: list[Source] = [
        Nvpmodel(root, search),
        Files(
            "governor",
            [policy / "scaling_governor" for policy in policies],
            [policy / "scaling_available_governors" for policy in policies],
        ),
        Files("profile", profile, [acpi / "platform_profile_choices" for _ in profile]),
    ]
    return every


def read(root: Path = Path("/"), search: str | None = None) -> str:
    """Describe the power mode in one line, such as `nvpmodel 15W, governor schedutil`.

    Returns:
        `unknown` where the device does not tell.
    """
    found = []
    for source in sources(root, search):
        try:
            values = sorted(set(source.state().values()))
        except UnavailableError:
            continue
        if values:
            found.append(f"{source.name} {'/'.join(values)}")
    return ", ".join(found) or UNKNOWN


@contextlib.contextmanager
def changed(
    mode: str | None,
    root: Path = Path("/"),
    *,
    search: str | None = None,
    journal: Path | None = None,
) -> Iterator[str]:
    """Set a power mode, and put back what there was, whatever happens.

    Args:
        mode: `MODE` or `SOURCE:MODE` (`nvpmodel:MAXN`, `governor:performance`,
            `profile:balanced`); None changes nothing. A bare name goes to the first source that has
            it, in this order.
        root: the file system's root.
        search: PATH on which `nvpmodel` is looked for; the process's own where None.
        journal: file that says what to put back while it is changed, for `recover`.

    Yields:
        The power mode as `read` describes it.

    Raises:
        UsageError: the device has no such mode.
        UnavailableError: the device has no power modes, or does not allow the change.
    """
    if mode is None:
        yield read(root, search)
        return
    source, wanted = _find(mode, sources(root, search))
    before = source.state()
    if journal is not None:
        journal.write_text(json.dumps({"source": source.name, "state": before}), encoding="utf-8")
    try:
        source.put(dict.fromkeys(before, wanted) or {"mode": wanted})
        yield read(root, search)
    finally:
        source.put(before)
        if journal is not None:
            journal.unlink(missing_ok=True)


def recover(journal: Path, root: Path = Path("/"), *, search: str | None = None) -> bool:
    """Put back the power mode that a killed process has left changed.

    Args:
        journal: what `changed` was given.
        root: the file system's root.
        search: PATH on which `nvpmodel` is looked for.

    Returns:
        Whether there was anything to put back.
    """
    try:
        left = json.loads(journal.read_text(encoding="utf-8"))
        name, state = str(left["source"]), dict(left["state"])
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        journal.unlink(missing_ok=True)
        return False
    for source in sources(root, search):
        if source.name == name:
            known = source.state()
            with contextlib.suppress(UnavailableError, KeyError):
                source.put({str(part): str(state[part]) for part in state if part in known})
    journal.unlink(missing_ok=True)
    return True


def _find(mode: str, known: Sequence[Source]) -> tuple[Source, str]:
    """Return the source of a mode, and the mode's name there."""
    prefix, colon, rest = mode.partition(":")
    has = {source.name: list(source.modes()) for source in known}
    for source in known:
        wanted = rest if colon and prefix == source.name else mode
        for each in has[source.name]:
            if each.lower() == wanted.lower() and (not colon or prefix == source.name):
                return source, each
    listed = "; ".join(f"{name}: {', '.join(modes)}" for name, modes in has.items() if modes)
    if not listed:
        raise UnavailableError(
            "This device has no power modes that edgekit can set.", "Leave --power-mode out."
        )
    raise UsageError(f"This device has no power mode {mode!r}.", f"It has {listed}.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
