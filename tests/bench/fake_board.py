"""A board whose power is known: every sensor that edgekit reads, on a clock that a test moves."""

import os
from contextlib import contextmanager
from pathlib import Path

from tests.bench.conftest import FakeClock

IDLE_W, BUSY_W = 4.0, 10.0
RANGE_UJ = 1_200_000_000
STEP_NS = 10_000_000
RUN_S = 0.02


def write(path: Path, value: object) -> None:
    """Write in one go, over what is there: a reader in between sees no empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(file, f"{value}\n".encode().rjust(24, b" " if path.suffix != ".csv" else b""))
    os.close(file)


class SteppingClock(FakeClock):
    """Sleeps in small steps, so that what runs in the background has its turn."""

    def sleep(self, seconds):
        left = int(seconds * 1e9)
        while left > 0:
            self.advance(min(left, STEP_NS))
            left -= STEP_NS


class Board:
    """Draws `IDLE_W`, and `BUSY_W` while `work` runs.

    Attributes:
        joules: what it has used.
        watts: what it draws now.
        lag_s: how long its battery's gauge holds a value.
    """

    def __init__(self, clock, root: Path, lag_s: float = 1.0):
        self.clock, self.root, self.lag_s = clock, root, lag_s
        self.joules = RANGE_UJ / 1e6 - 20.0  # wraps soon
        self.watts, self.last = IDLE_W, clock.now
        self.csv = root / "power.csv"
        self.csv_s = 0.0
        self.polled = None
        self.polling = False
        self.gauge, self.seen, self.tick = (-1, IDLE_W), None, None
        self._fixed()
        self.move(clock.now)
        clock.listeners.append(self.move)

    def work(self):
        """One inference."""
        self.watts = BUSY_W
        self.clock.sleep(RUN_S)
        self.watts = IDLE_W

    def vcgencmd(self, command):
        """Print what the Raspberry Pi's program prints: two rails, and what is no rail."""
        assert command == ("vcgencmd", "pmic_read_adc")
        core = (self.watts - 1.0) / 0.8
        return (
            f"     DDR_VDD2_A current(3)={1.0 / 1.1:.8f}A\n   VDD_CORE_A current(7)={core:.8f}A\n"
            "     DDR_VDD2_V volt(11)=1.10000000V\n   VDD_CORE_V volt(15)=0.80000000V\n"
            "      EXT5V_V volt(24)=5.12000000V\n"
        )

    @contextmanager
    def sampler(self, window):
        """Sample a window every period of the clock, as its thread does in earnest."""
        self.polled = (window, int(window._meter.period_s * 1e9), self.clock.now)
        yield
        self.polled = None

    def move(self, now):
        self.joules += self.watts * (now - self.last) / 1e9
        self.last = now
        self._counters(now)
        if (self.watts, now // int(self.lag_s * 1e9)) != self.seen:
            self._samples(now)
        self._record(now)
        if self.polled and not self.polling and now - self.polled[2] >= self.polled[1]:
            window, period, _ = self.polled
            self.polling, self.polled = True, (window, period, now)
            window.poll()
            self.polling = False

    def _fixed(self):
        zone = self.root / "sys/class/powercap/intel-rapl:0"
        write(zone / "name", "package-0")
        write(zone / "max_energy_range_uj", RANGE_UJ)
        chip = self.root / "sys/class/hwmon/hwmon1"
        for name, value in (("name", "ina3221"), ("in1_label", "VDD_IN"), ("in1_input", 5000)):
            write(chip / name, value)
        battery = self.root / "sys/class/power_supply/BAT0"
        write(battery / "type", "Battery")
        write(battery / "status", "Discharging")
        write(self.root / "sys/class/power_supply/AC/type", "Mains")
        write(self.root / "sys/class/power_supply/AC/online", 0)

    def _counters(self, now):
        if now // 1e6 == self.tick:
            return
        self.tick = now // 1e6
        microjoules = int(self.joules * 1e6)
        write(
            self.root / "sys/class/powercap/intel-rapl:0/energy_uj",
            f"{microjoules % RANGE_UJ:020d}",
        )
        write(
            self.root / "sys/bus/iio/devices/iio:device0/energy_value",
            f"CH0(T={now // 1_000_000})[S2M_VDD_CPUCL2], {microjoules:020d}",
        )

    def _samples(self, now):
        self.seen = (self.watts, now // int(self.lag_s * 1e9))
        write(self.root / "sys/class/hwmon/hwmon1/curr1_input", f"{self.watts * 200:06.0f}")
        if now // int(self.lag_s * 1e9) != self.gauge[0]:
            self.gauge = (now // int(self.lag_s * 1e9), self.watts)
        battery = self.root / "sys/class/power_supply/BAT0"
        write(battery / "power_now", f"{self.gauge[1] * 1e6:012.0f}")

    def _record(self, now):
        """An instrument on a clock of its own, which is 1234.5 s ahead and 100 times a second."""
        lines = []
        while self.csv_s + 0.01 <= now / 1e9:
            self.csv_s = max(self.csv_s + 0.01, now / 1e9 - 0.01)
            lines.append(f"{self.csv_s + 1234.5:.4f},5.0,{self.watts / 5:.4f}\n")
        if lines:
            head = "" if self.csv.exists() else "#time (s),voltage (V),current (A)\n"
            with self.csv.open("a", encoding="utf-8") as file:
                file.write(head + "".join(lines))
