"""How the tests install what they need: apt's locks are waited for, its own words are passed on, nothing is passed over."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests import debian

LOCKED = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4711 (unattended-upgr)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds the only programs there are, but for a shell's; in place of root's apt-get stands one of ours."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("touch", "sh", "cat", "chmod", "rm"):
        (bin_ / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(bin_))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(debian.tempfile, "tempdir", None)
    monkeypatch.setattr(debian.os, "geteuid", lambda: 0)
    monkeypatch.setattr(debian, "PATIENCE", 30.0)
    return tmp_path


def program(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.write_text(f'#!/bin/sh\ncd {folder}\necho "$0 $@" >>calls\n{script}\n')
    path.chmod(0o755)


INSTALL = "case \"$*\" in *install*) printf '#!/bin/sh\\n' >bin/thing; chmod 755 bin/thing;; esac"


def calls(folder: Path) -> list[str]:
    return [line.rpartition("/")[2] for line in (folder / "calls").read_text().splitlines()]


def test_what_is_there_is_not_installed(folder: Path) -> None:
    program(folder, "apt-get", INSTALL)
    program(folder, "thing", "")
    assert debian.why_not(["thing"], ["things"]) is None
    assert not (folder / "calls").exists()


def test_what_is_missing_is_installed_and_apt_is_told_to_wait_for_its_lock(folder: Path) -> None:
    program(folder, "apt-get", INSTALL)
    assert debian.why_not(["thing"], ["things"]) is None
    update, install = calls(folder)
    assert "-o DPkg::Lock::Timeout=" in update
    assert update.endswith("update -q")
    assert install.endswith("install -qy --no-install-recommends things")


def test_a_lock_that_apt_does_not_wait_for_is_waited_for(folder: Path) -> None:
    (folder / "held").touch()
    program(folder, "apt-get", f'if test -e held; then echo "{LOCKED}" >&2; exit 100; fi\n{INSTALL}')

    def let_go() -> None:
        while not (folder / "calls").exists() or len(calls(folder)) < 2:
            time.sleep(0.01)
        (folder / "held").unlink()

    other = threading.Thread(target=let_go)
    other.start()
    assert debian.why_not(["thing"], ["things"]) is None
    other.join()
    assert len(calls(folder)) >= 4


def test_a_lock_that_stays_fails_with_the_words_of_apt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "PATIENCE", 0.2)
    program(folder, "apt-get", f'echo "Reading package lists..."; echo "{LOCKED}" >&2; exit 100')
    with pytest.raises(debian.InstallationFailed, match="held by process 4711"):
        debian.why_not(["thing"], ["things"])


def test_a_failure_is_no_want_of_a_tool(folder: Path) -> None:
    program(folder, "apt-get", 'case "$*" in *install*) echo "E: Unable to locate package things" >&2; exit 100;; esac')
    with pytest.raises(pytest.fail.Exception, match=r"could not be installed: .*E: Unable to locate package things"):
        debian.need("things", lambda: debian.why_not(["thing"], ["things"]))
    program(folder, "apt-get", "")
    with pytest.raises(debian.InstallationFailed, match="apt-get has installed things, but there is no thing"):
        debian.why_not(["thing"], ["things"])


def test_a_dpkg_that_was_interrupted_is_put_right_first(folder: Path) -> None:
    (folder / "broken").touch()
    words = "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem."
    program(folder, "apt-get", f'if test -e broken; then echo "{words}" >&2; exit 100; fi\n{INSTALL}')
    program(folder, "dpkg", "rm broken")
    assert debian.why_not(["thing"], ["things"]) is None
    assert "dpkg --configure -a" in calls(folder)


def test_two_that_need_it_at_once_install_it_once(folder: Path) -> None:
    program(folder, "apt-get", INSTALL)
    found: list[str | None] = []
    both = [threading.Thread(target=lambda: found.append(debian.why_not(["thing"], ["things"]))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert found == [None, None]
    assert len(calls(folder)) == 2


def test_who_cannot_install_skips_and_says_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"no things here: no thing \(no apt-get; Debian: things\)"):
        debian.need("things", lambda: debian.why_not(["thing"], ["things"]))
    program(folder, "apt-get", INSTALL)
    monkeypatch.setattr(debian.os, "geteuid", lambda: 1000)
    assert debian.why_not(["thing"], ["things"]) == "no thing (not root; Debian: things)"
