"""What is installed is what was locked: requirements/ names every package, its version and the hashes of its files."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SETS = {
    "gateway": ("install",),
    "emulator": ("install", "emulator", "microphone"),
    "dev": ("dev", "microphone"),
    "peers": ("peers",),
}
"""A file in requirements/, and the extras that it is locked for (Makefile, `lock`)."""
PINNED = re.compile(r"^[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==[^\s*,]+( ; .+)?$")
HASH = re.compile(r"^--hash=sha256:[0-9a-f]{64}$")


def entries(name: str) -> list[tuple[str, list[str]]]:
    """Each line that is not a comment, and what its continuation lines say."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", "\0")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(first.strip(), [word.strip() for word in more]) for first, *more in (line.split("\0") for line in lines)]


def locked(name: str) -> dict[str, dict[Version, list[str]]]:
    """Package -> version -> hashes. A package has two versions where Pythons of different versions need them."""
    found: dict[str, dict[Version, list[str]]] = {}
    for text, hashes in entries(name):
        one = Requirement(text)
        (pin,) = one.specifier
        found.setdefault(canonicalize_name(one.name), {})[Version(pin.version)] = hashes
    return found


def applying(name: str) -> list[str]:
    """The packages that an image, or this Python, installs: their markers allow it."""
    found = [Requirement(text) for text, _ in entries(name)]
    return [canonicalize_name(one.name) for one in found if one.marker is None or one.marker.evaluate()]


def wanted(*extras: str) -> list[Requirement]:
    """The project's own dependencies, with those of these extras and of the extras that they name."""
    found = [Requirement(one) for one in PROJECT["dependencies"]]
    for extra in extras:
        for one in map(Requirement, PROJECT["optional-dependencies"][extra]):
            found += wanted(*one.extras) if one.name == PROJECT["name"] else [one]
    return found


def test_every_set_is_looked_at() -> None:
    assert {path.stem for path in (ROOT / "requirements").iterdir()} == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_every_package_has_one_version_and_the_hashes_of_its_files(name: str) -> None:
    found = entries(name)
    assert len(found) > 50
    for requirement, hashes in found:
        assert PINNED.match(requirement), f"{requirement!r} is no name with one version"
        assert hashes and all(map(HASH.match, hashes)), f"{requirement} has {hashes}"
    assert len(applying(name)) == len(set(applying(name))), "two versions of a package at once"


@pytest.mark.parametrize("name", SETS)
def test_nothing_says_where_packages_come_from(name: str) -> None:
    """Not an index, not an address, not a file: what is installed is known by its hash alone."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host| @ |^-[a-z]", text, re.MULTILINE)


@pytest.mark.parametrize(("smaller", "larger"), [("gateway", "emulator"), ("emulator", "dev")])
def test_what_is_tested_is_what_runs(smaller: str, larger: str) -> None:
    """dev holds emulator holds gateway, at the same versions and hashes."""
    of_larger = locked(larger)
    for package, versions in locked(smaller).items():
        assert of_larger.get(package) == versions, package


@pytest.mark.parametrize(("name", "extras"), SETS.items())
def test_every_dependency_is_locked_at_a_version_that_it_allows(name: str, extras: tuple[str, ...]) -> None:
    found = locked(name)
    for one in wanted(*extras):
        versions = found.get(canonicalize_name(one.name))
        assert versions, f"{one} is not in {name}.txt: make lock"
        for version in versions:
            assert one.specifier.contains(version, prereleases=True), (
                f"{one}, but {version} is in {name}.txt: make lock"
            )


def test_everything_is_installed_by_hash() -> None:
    for name in ("Makefile", "Dockerfile"):
        text = (ROOT / name).read_text().replace("\\\n", "")
        for line in text.splitlines():
            if re.search(r"\b(pip|INSTALL\)).* -r ", line):
                assert "--require-hashes" in line, f"{name}: {line}"
            elif re.search(r"(pip|\$\(INSTALL\)).*( install |--no-deps)", line):
                assert "--no-deps --no-build-isolation" in line or "INSTALL :=" in line, f"{name}: {line}"
