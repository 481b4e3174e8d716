"""What every meter must do. One that cannot measure here says why, and refuses in those words."""

import inspect
import time

import pytest

from edgekit.bench.meters import METERS, Availability, make_meter, probe_meters
from edgekit.errors import UnavailableError


@pytest.fixture(params=list(METERS))
def meter(request):
    return make_meter(request.param)


def test_it_has_the_protocols_parts(meter):
    for method in ("__enter__", "__exit__", "probe", "window"):
        assert inspect.getdoc(getattr(meter, method)), method
    assert METERS[meter.name]
    assert meter.label in ("measured", "estimated")


def test_the_probe_answers_and_says_what_to_do(meter):
    probe = probe_meters()[meter.name]
    assert isinstance(probe, Availability)
    assert probe.reason
    assert bool(probe.fix) is not probe.ok


def test_where_the_probe_says_no_opening_refuses_with_the_same_reason(meter):
    probe = meter.probe()
    if probe.ok:
        pytest.skip("It can measure here.")
    with pytest.raises(UnavailableError) as raised:
        meter.__enter__()
    assert raised.value.message == probe.reason
    assert raised.value.hint == probe.fix


def test_a_window_yields_joules_of_every_primary_domain(meter):
    probe = meter.probe()
    if not probe.ok:
        pytest.skip(probe.reason)
    with meter:
        assert meter.primary
        assert meter.period_s > 0
        with meter.window(lambda: time.sleep(0.001)) as window:
            with pytest.raises(UnavailableError, match="still open"):
                _ = window.reading
            window.keep(25 * meter.period_s)
        reading = window.reading
    assert set(meter.primary) <= set(reading.domains_j)
    assert all(joules > 0 for joules in reading.domains_j.values())
    assert reading.duration_s >= 25 * meter.period_s
    assert reading.method
    assert window.runs > 0
