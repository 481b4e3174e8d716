"""Which TensorRT can be used."""

import importlib.machinery
import sys
import types

import pytest

from edgekit.bench.engine import library
from edgekit.errors import UnavailableError


@pytest.mark.parametrize(("version", "ok"), [("8.6.2", False), ("10.3.0", True), ("11.4", True)])
def test_a_tensorrt_without_strong_types_is_too_old(
    version: str, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.ModuleType("tensorrt")
    fake.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    fake.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    found, said, mend = library.available("tensorrt")
    assert found is ok
    assert version in said
    if ok:
        assert library.load("tensorrt") is fake
        return
    assert "JetPack 6.1" in mend
    with pytest.raises(UnavailableError, match=r"8\.6\.2 is too old"):
        library.load("tensorrt")
