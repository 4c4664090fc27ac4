"""The notebooks run from top to bottom on small sizes, and are stored without outputs."""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])

# In a process of its own: clients of notebooks leave sockets to the garbage collector.
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    nbclient.NotebookClient(notebook, timeout=300).execute()
finally:
    nbformat.write(notebook, sys.argv[2])
"""


@every_notebook
def test_a_notebook_runs_and_draws(path, tmp_path):
    done = tmp_path / path.name
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "STREAMLOSS_NOTEBOOK_SIZE": "48",
    }
    run = subprocess.run(
        [sys.executable, "-c", EXECUTE, path, done],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    outputs = [
        output
        for cell in nbformat.read(done, as_version=4).cells
        for output in cell.get("outputs", ())
    ]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    # A command line that fails raises nothing in a notebook.
    printed = "".join(output.get("text", "") for output in outputs)
    assert not re.search(r"^error:|not found", printed, re.MULTILINE), printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2


@every_notebook
def test_a_notebook_is_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), cell.source
        assert cell.get("execution_count") is None, cell.source


@every_notebook
def test_the_extra_for_notebooks_brings_what_they_import(path):
    brought = {
        re.match(r"[\w-]+", line)[0].lower()
        for line in requires("streamloss")
        if "extra ==" not in line or re.search(r"extra == .notebooks.", line)
    }
    code = "\n".join(
        line
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
        for line in cell.source.splitlines()
        if not line.startswith("!")
    )
    modules = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.partition(".")[0])
    # Some are opened for the data they bring along, without being imported.
    modules |= set(re.findall(r'data\("(\w+)"', code))
    for module in modules - sys.stdlib_module_names - {"streamloss"}:
        names = {name.lower() for name in packages_distributions()[module]}
        assert names & brought, module
