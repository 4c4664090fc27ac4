"""What the README and the docstrings show is what happens."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import streamloss
from streamloss.catalogue import catalogue

README = Path(__file__).parents[1] / "README.md"
MODULES = [
    module.name
    for module in pkgutil.walk_packages(streamloss.__path__, "streamloss.")
    if not module.name.endswith("__main__")
]


def test_the_examples_in_the_readme_print_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testfile(str(README), module_relative=False)
    assert outcome.attempted
    assert not outcome.failed


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_print_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not doctest.testmod(importlib.import_module(name)).failed


def test_every_module_and_public_function_has_a_docstring():
    for name in MODULES:
        module = importlib.import_module(name)
        assert module.__doc__, name
        for attribute in getattr(module, "__all__", ()):
            assert getattr(module, attribute).__doc__, attribute


def test_the_catalogue_of_metrics_is_that_of_the_registry():
    stored = Path(streamloss.__file__).parent / "metrics" / "README.md"
    renewed = "run python -m streamloss.catalogue > streamloss/metrics/README.md"
    assert stored.read_text(encoding="utf-8") == catalogue(), renewed
