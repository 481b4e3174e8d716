"""`edgekit meters`: every meter, what it lacks and how to get it, here and on a device."""

import json

from edgekit.bench.meters import METERS
from tests.cli.models import save
from tests.conftest import Command


def test_every_meter_says_what_it_is_and_how_to_get_it(edgekit: Command):
    done = edgekit("meters", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["where"] == "local"
    assert set(found["meters"]) == set(METERS)
    for entry in found["meters"].values():
        assert bool(entry["fix"]) is not entry["ok"]
    text = edgekit("meters").stdout
    for name in METERS:
        assert name in text
    assert "csv:FILE" in text.replace("\n", "")


def test_a_device_is_asked_by_its_agent(edgekit: Command):
    added = edgekit("device", "add", "here", "local://", "--no-probe", "--meter", "command:echo 4")
    assert added.returncode == 0, added.stderr
    done = edgekit("meters", "--device", "here", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["where"], set(found["meters"])) == ("here", set(METERS))
    unknown = edgekit("meters", "--device", "hera")
    assert unknown.returncode == 2
    assert "'here'" in unknown.stderr


def test_the_estimate_is_shown_with_its_label(edgekit: Command, tmp_path):
    model = save(tmp_path / "m.onnx")
    options = ("--quick", "--meter", "rapl", "--meter", "estimate", "--target", "x86-avx2")
    done = edgekit("bench", model, *options)
    assert done.returncode == 0, done.stderr
    if "measured" not in done.stdout:
        assert "estimated" in done.stdout
        assert "a floor" in done.stdout
    refused = edgekit("bench", model, "--quick", "--meter", "estimate")
    assert refused.returncode == 2
    assert "--target" in refused.stderr


def test_a_program_that_prints_watts_is_a_meter(edgekit: Command, tmp_path):
    model = save(tmp_path / "m.onnx")
    meter = tmp_path / "watts.sh"
    meter.write_text("#!/bin/sh\nwhile true; do echo 5.0; sleep 0.1; done\n", encoding="utf-8")
    meter.chmod(0o755)
    done = edgekit("bench", model, "--quick", "--json", "--meter", f"command:{meter}")
    assert done.returncode == 0, done.stderr
    energy = json.loads(done.stdout)["subjects"][0]["energy"]
    assert energy["meter"] == f"command:{meter}"
    if energy["energy_j"]["label"] != "unavailable":  # a machine that stalls makes gaps
        assert abs(energy["power_w"]["value"] - 5.0) < 1e-6
        assert energy["energy_j"]["label"] == "measured"
    else:
        assert "gap" in energy["energy_j"]["note"]
