"""The package is complete: version, types, templates, command, dependencies."""

import subprocess
import sys
from importlib.metadata import entry_points, requires, version
from importlib.resources import files
from pathlib import Path

import pytest

import meristem

ROOT = Path(__file__).parents[2]
INSTALLED = "site-packages" in str(meristem.__file__)

installed = pytest.mark.skipif(not INSTALLED, reason="the source tree is being tested, not the installed wheel")


def test_files_that_are_no_code_are_in_the_package():
    root = files("meristem")
    for name in (
        "py.typed",
        "report/templates/study.html",
        "report/templates/picture.html",
        "report/templates/style.css",
    ):
        assert root.joinpath(name).is_file(), name


@installed
def test_the_wheel_has_the_version_the_command_and_the_sources():
    assert version("meristem") == meristem.__version__
    assert [point.value for point in entry_points(group="console_scripts", name="meristem")] == ["meristem.cli:app"]
    package, source = Path(str(meristem.__file__)).parent, ROOT / "src/meristem"
    names = {
        path.relative_to(source) for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if not (package / name).is_file()} == set()
    assert [name for name in names if (package / name).read_bytes() != (source / name).read_bytes()] == []


@installed
def test_every_dependency_has_its_reason_in_the_docs_and_its_pin():
    reasons = (ROOT / "docs/install.md").read_text()
    pins = (ROOT / "constraints.txt").read_text().lower()
    for requirement in requires("meristem") or []:
        name = requirement.split(";")[0].split(">")[0].split("[")[0].strip().lower()
        if name != "meristem":
            assert f"`{name}`" in reasons.lower(), name
            assert f"\n{name}==" in f"\n{pins}", name


def test_the_base_install_does_not_need_the_extras():
    """The package and its commands can be imported where no optional dependency can."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('plotly', 'scipy', 'sklearn', 'lightning', 'transformers')));"
        "import meristem, meristem.cli, meristem.cli.inspect, meristem.cli.train"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_demo_says_which_extra_is_missing():
    code = "import sys; sys.modules['plotly'] = None; from meristem.cli import app; app(['demo'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'meristem[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_version_number():
    assert f'version = "{meristem.__version__}"' in (ROOT / "pyproject.toml").read_text()
