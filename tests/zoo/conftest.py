"""Zoo tests run whole recipes and take minutes: they run only where `-m` asks for them."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is marked `zoo` unless the mark expression speaks of it."""
    if "zoo" in config.option.markexpr:
        return
    asked = [item for item in items if item.get_closest_marker("zoo") is None]
    left_out = [item for item in items if item.get_closest_marker("zoo") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = asked
