"""The waits that a test shortens."""

import subprocess
import sys

import pytest

from runner.errors import UsageError
from runner.waits import Waits, read_waits


def test_what_is_not_named_stays_as_it_is():
    assert read_waits("") == Waits()
    assert read_waits(" heartbeat=0.5  expiry=8 ") == Waits(heartbeat=0.5, expiry=8.0)


@pytest.mark.parametrize(
    "text",
    ["beat=1", "heartbeat", "heartbeat=", "heartbeat=soon", "heartbeat=0", "heartbeat=-1", "heartbeat=nan", "expiry=1e9"],
)
def test_what_is_no_wait_is_refused_with_what_is_allowed(text):
    with pytest.raises(UsageError, match=r"LASTRUN_WAITS: .*allowed: NAME=SECONDS with heartbeat, expiry, follow"):
        read_waits(f"follow=1 {text}")


def test_the_runner_goes_by_the_variable(clean_env):
    code = "import runner.job.lease as l; print(l.EXPIRY_SECONDS, l.HEARTBEAT_SECONDS, l.WATCH_SECONDS)"
    for waits, told in (("heartbeat=0.5 expiry=8", "8.0 0.5 3.0"), ("", "60.0 5.0 12.0")):
        env = {**clean_env, "LASTRUN_WAITS": waits}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == told
