"""The gateways that are compared for speed (bench/speed) pass on what they are given, each frame once."""

import pytest

from bench.speed import compare
from bench.speed.compare import FLOOR, OURS, Scene


@pytest.mark.parametrize(
    ("name", "scene"),
    [*[(name, Scene(3, 20)) for name in (OURS, FLOOR, "naive", "threaded")], (OURS, Scene(3, 100, "base64"))],
    ids=str,
)
async def test_what_is_compared_loses_nothing(name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "SETTLE_SECONDS", 0.5)
    measured, wrong = await compare.run(name, scene, seconds=1.5)
    assert not wrong
    assert (measured.lost, measured.repeated) == (0, 0)
    assert measured.cpu_ms > 0
    assert min(measured.up_p50, measured.down_p50) > 0, "frames and captions have come"
