"""What the README and the docstrings show is what happens."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

import streamloss
from streamloss.catalogue import catalogue
from streamloss.cli import program
from streamloss.docstrings import example
from streamloss.registry import metric_names

README = Path(__file__).parents[1] / "README.md"
MARKS = ("install", "tests", "by hand", "new metric", "citation", "slurm", "snakemake")
# A line of how long it took is another in every run.
RATE = re.compile(r"voxels/s")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(streamloss.__path__, "streamloss.")
    if not module.name.endswith("__main__")
]


BLOCK = re.compile(r"(?:<!-- ([\w ]+) -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks():
    """Mark, language and text of each code block of the README."""
    return [match.groups() for match in BLOCK.finditer(README.read_text(encoding="utf-8"))]


def test_the_code_blocks_of_the_readme_run_and_print_what_it_shows(tmp_path, monkeypatch):
    """One after another in one folder, as a reader would.

    Python blocks are doctests. Of a console block every line with a `$` runs, and what is
    shown below it is what it prints. Blocks marked by a comment are run elsewhere: how to
    install and test by CI, the benchmarks by hand, the new metric by a test of its own.
    """
    monkeypatch.chdir(tmp_path)
    scripts = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "80")
    names: dict[str, object] = {}
    for mark, language, text in blocks():
        if mark is not None:
            assert mark in MARKS
        elif language == "python":
            test = doctest.DocTestParser().get_doctest(text, names, "README", str(README), 0)
            assert test.examples, text
            report = StringIO()
            outcome = doctest.DocTestRunner().run(test, out=report.write, clear_globs=False)
            assert not outcome.failed, report.getvalue()
            names = test.globs
        else:
            assert language == "console", text
            run_console(text)


def test_the_readme_tells_of_every_command():
    _, _, section = README.read_text(encoding="utf-8").partition("## Command line")
    told = re.findall(r"^\| `streamloss (\w+)", section.partition("\n## ")[0], re.MULTILINE)
    assert sorted(told) == sorted(program.commands)


def test_the_readme_cites_this_version():
    (text,) = [text for mark, _, text in blocks() if mark == "citation"]
    assert f"version = {{{version('streamloss')}}}" in text


def test_every_link_of_the_readme_leads_somewhere():
    text = README.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (README.parent / target).is_file(), target


def test_the_new_metric_of_the_readme_is_found_everywhere(tmp_path):
    (text,) = [text for mark, _, text in blocks() if mark == "new metric"]
    package = Path(streamloss.__file__).parent
    shutil.copytree(package, tmp_path / "streamloss", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "streamloss" / "metrics" / "markedness.py").write_text(text, encoding="utf-8")
    use = (
        "import numpy as np, streamloss as sl;"
        "print(sl.markedness(np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 1])))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def output(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert float(output("-c", use)) == pytest.approx(2 / 2 + 2 / 3 - 1)
    assert "Markedness" in output("-m", "streamloss", "metrics", "markedness")


def test_the_recipes_for_clusters_of_the_readme_work(tmp_path, monkeypatch):
    """Every job of the array, and every rule of the workflow, run as a scheduler would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    rng = np.random.default_rng(0)
    for name in ("truth", "prediction"):
        zarr.save_array(f"{name}.zarr", rng.integers(0, 3, (12, 12, 12), np.uint8))
    expected = streamloss.score("truth.zarr", "prediction.zarr", metrics=["dice", "iou"])
    recipes = {mark: text for mark, _, text in blocks() if mark in ("slurm", "snakemake")}
    for number in range(2):
        job = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": "2"}
        command = ["bash", "-euc", recipes["slurm"]]
        subprocess.run(command, env=os.environ | job, check=True, stdout=subprocess.DEVNULL)
        assert Path(f"saved-{number}").is_dir()
    merged = streamloss.merge(sorted(tmp_path.glob("shard-*.slstate")))
    assert merged.to_dict()["metrics"] == expected.to_dict()["metrics"]
    merge, shard = (
        "".join(re.findall(r'"(.*)"$', rule.partition("shell:")[2], re.MULTILINE))
        for rule in recipes["snakemake"].split("rule ")[1:]
    )
    states = [f"from-snakemake-{number}.slstate" for number in range(2)]
    for number, state in enumerate(states):
        parts = {"threads": 1, "N": 2, "output": state, "wildcards": SimpleNamespace(i=number)}
        run_console("$ " + shard.format(**parts))
    run_console("$ " + merge.format(input=" ".join(states), output="scores.json"))
    merged = streamloss.Result.from_json(Path("scores.json").read_text())
    assert merged.to_dict()["metrics"] == expected.to_dict()["metrics"]


def run_console(text):
    lines = text.replace("\\\n", "").splitlines()
    commands = [place for place, line in enumerate(lines) if line.startswith("$ ")]
    assert commands, text
    for place, following in zip(commands, [*commands[1:], len(lines)], strict=True):
        command = lines[place].removeprefix("$ ")
        run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert run.returncode == 0, (command, run.stderr)
        shown = [line.rstrip() for line in lines[place + 1 : following]]
        if shown:
            printed = [line.rstrip() for line in run.stdout.rstrip().splitlines()]
            assert [line for line in printed if not RATE.search(line)] == [
                line for line in shown if not RATE.search(line)
            ], command


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_print_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not doctest.testmod(importlib.import_module(name)).failed


@pytest.mark.parametrize("name", metric_names())
def test_the_docstring_of_a_metric_fits_a_terminal_and_its_example_is_true(name):
    text = getattr(streamloss, name).__doc__
    # `help` indents by four.
    assert max(map(len, text.splitlines())) <= 76
    assert example(name) in text
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    report = StringIO()
    outcome = doctest.DocTestRunner().run(test, out=report.write)
    assert outcome.attempted == 4
    assert not outcome.failed, report.getvalue()


@pytest.mark.parametrize("name", streamloss.__all__)
def test_help_of_a_public_name_fits_80_columns(name):
    thing = getattr(streamloss, name)
    # `help` indents by four, members of classes by nine.
    assert max(map(len, inspect.getdoc(thing).splitlines())) <= 76
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        if not member.startswith("_") and value.__doc__ and member not in vars(object):
            assert max(map(len, inspect.getdoc(value).splitlines())) <= 71, member


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
