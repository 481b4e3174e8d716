"""Measure a branch's artifacts where the branch says, and keep what came of it.

A result lies in the branch's folder under the hash of all that decided it: a second run measures
nothing again, another machine (or another device) measures for itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit import manifest
from edgekit.artifact import Artifact
from edgekit.errors import UnavailableError
from edgekit.pipeline.scores import read_json, write_json
from edgekit.pipeline.step import Store, cache_key, guarded
from edgekit.progress import Progress
from edgekit.recipe import Branch
from edgekit.target import Target

if TYPE_CHECKING:
    from edgekit.device import Device, Hello

HERE = "local"


@dataclass(frozen=True)
class Place:
    """Where a branch's latency is measured.

    Attributes:
        device: one of the user's, None for this machine.
        hello: what the device said of itself.
    """

    device: "Device | None" = None
    hello: "Hello | None" = None

    def fingerprint(self) -> dict[str, Any]:
        """What the machine is, with the digest that tells it from others."""
        if self.hello is not None:
            return dict(self.hello.fingerprint)
        from edgekit.bench.fingerprint import fingerprint

        return dict(fingerprint())

    def cannot_measure(self, target: Target) -> str:
        """Why a target's latency cannot be measured there; empty where it can."""
        from edgekit.pipeline.machine import cannot_measure, cannot_measure_there

        try:
            if self.hello is None or self.device is None:
                return cannot_measure(target)
            return cannot_measure_there(target, self.hello, self.device.name)
        except UnavailableError as e:
            return str(e)


@dataclass
class Places:
    """Where the branches of a run are measured. A device is asked once, when it is needed.

    Attributes:
        override: the device of every branch, whatever the recipe says.
    """

    override: str | None = None
    _known: dict[str, Place] = field(default_factory=dict)

    def name(self, branch: Branch) -> str:
        """The device of a branch, `local` for this machine."""
        return self.override or branch.device or HERE

    def check(self, branches: Sequence[Branch]) -> None:
        """Look every device up, before anything is made.

        Raises:
            UsageError: the user has added no such device; the hint names the nearest.
        """
        from edgekit.pipeline.benchmark import find_device

        for branch in branches:
            if branch.bench != "off":
                find_device(self.name(branch))

    def of(self, branch: Branch) -> Place:
        """The place of a branch.

        Raises:
            DeviceError: the device cannot be reached.
            UnavailableError: it lacks what measuring needs.
        """
        name = self.name(branch)
        if name not in self._known:
            self._known[name] = _reach(name)
        return self._known[name]


def _reach(name: str) -> Place:
    from edgekit.pipeline.benchmark import find_device

    device = find_device(name)
    if device is None:
        return Place()
    from edgekit.device import probe

    return Place(device, probe(device))


@dataclass(frozen=True)
class BranchBench:
    """What measuring one branch needs to know.

    Attributes:
        store: the run's folder.
        branch: the branch.
        target: its target.
        place: where it is measured.
        sizes: of the dynamic dimensions.
        sizes_of: what decides these, for the cache key.
        seed: the run's seed.
        progress: where to show the progress.
    """

    store: Store
    branch: Branch
    target: Target
    place: Place
    sizes: Mapping[str, int]
    sizes_of: Mapping[str, Any]
    seed: int
    progress: Progress

    @property
    def threads(self) -> int:
        """CPU threads of the runtime."""
        return self.branch.threads or self.target.threads

    @property
    def meters(self) -> tuple[str, ...]:
        """Energy meters to try: the branch's, else the device's own, else the target's."""
        device = self.place.device
        if self.branch.meters is not None:
            return self.branch.meters
        return (device.meters if device is not None else ()) or self.target.meters

    def _key(self, **more: Any) -> str:
        return cache_key(
            threads=self.threads,
            device=self.place.fingerprint(),
            sizes_of=self.sizes_of,
            seed=self.seed,
            versions=manifest.versions(),
            **more,
        )

    def _kept(self, file: str, key: str) -> dict[str, Any] | None:
        if self.store.fresh:
            return None
        known = read_json(self.store.out / self.branch.name / file)
        return dict(known) if known is not None and known.get("key") == key else None

    def latency(self, subjects: Mapping[str, Artifact]) -> tuple[dict[str, Any], bool]:
        """Measure the subjects side by side; the first is what the others are compared with.

        Returns:
            The benchmark as JSON holds it, and whether it was made just now.

        Raises:
            DeviceError: the device was lost.
        """
        from edgekit.pipeline.benchmark import measure

        key = self._key(
            subjects={name: a.content_hash for name, a in subjects.items()},
            runtime=self.target.runtime,
            protocol=self.branch.bench,
            meters=self.meters,
        )
        known = self._kept("bench.json", key)
        if known is not None:
            return dict(known["result"]), False
        with guarded(f"Measuring the branch {self.branch.name!r}"):
            outcome = measure(
                subjects,
                runtime=self.target.runtime,
                threads=self.threads,
                quick=self.branch.bench == "quick",
                dims=self.sizes,
                seed=self.seed,
                progress=self.progress,
                meters=self.meters,
                target=self.branch.target,
                device=self.place.device,
            )
            path = self.store.out / self.branch.name / "bench.json"
            result = outcome.plain()
            write_json(path, {"key": key, "result": result})
        return result, True

    def layers(
        self, artifact: Artifact, name: str, result: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], bool]:
        """Time each layer of an ONNX file, slowest first.

        A device has timed them together with the latency; this machine does it here, apart.

        Args:
            artifact: the branch's last one.
            name: how the benchmark calls it.
            result: the benchmark.

        Returns:
            The layers, and whether they were timed just now.
        """
        from edgekit.bench import random_feeds
        from edgekit.pipeline.layers import layer_times

        if self.place.device is not None:
            return list(result.get("layers", {}).get(name, ())), False
        key = self._key(artifact=artifact.content_hash)
        known, made = self._kept("profile.json", key), False
        if known is None:
            with guarded(f"Timing the layers of the branch {self.branch.name!r}"):
                dims = dict(self.sizes)
                feeds = random_feeds(artifact.inputs, batch=1, seed=self.seed, dims=dims)
                rows = layer_times(artifact.path, feeds, {"threads": self.threads})
                known, made = {"key": key, "layers": rows}, True
                write_json(self.store.out / self.branch.name / "profile.json", known)
        return list(known["layers"]), made
