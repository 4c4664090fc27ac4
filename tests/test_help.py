"""The examples that `--help` of each command shows do what they say."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from streamloss.cli import program

COMMANDS = sorted(program.commands)
every_command = pytest.mark.parametrize("command", COMMANDS)
SHAPE = (130, 5, 4)


def shell(line, folder):
    """Run a line as a user of a terminal of 80 columns would."""
    scripts = Path(sys.executable).parent
    return subprocess.run(
        line,
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={
            **os.environ,
            "COLUMNS": "80",
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        },
        check=False,
    )


def write_inputs(folder):
    """Write the volumes that the examples name."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, SHAPE, np.uint8)
    found = np.where(rng.random(SHAPE) < 0.95, labels, 0).astype("u1")
    for name in ("truth.zarr", "brats.zarr", "ct.zarr/labels/organs"):
        zarr.save_array(folder / name, labels)
    zarr.save_array(folder / "prediction.zarr", found)
    scores = rng.random((3, *SHAPE), np.float32)
    zarr.save_array(folder / "probabilities.zarr", scores)
    zarr.save_array(folder / "logits.zarr", scores)
    for case in ("p1", "p2", "p3"):
        for where, array in (("labelsTr", labels), ("predictions", found), ("vnet", labels)):
            zarr.save_array(folder / where / f"{case}.zarr", array)
    nibabel.Nifti1Image(labels, np.eye(4)).to_filename(folder / "scan.nii.gz")
    nibabel.Nifti1Image(labels, np.eye(4)).to_filename(folder / "organs.nii.gz")
    tifffile.imwrite(folder / "stack.ome.tif", labels)
    with h5py.File(folder / "volumes.h5", "w") as file:
        file["raw"] = labels
    with (folder / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case", "truth", "prediction", "group"])
        for case in ("p1", "p2", "p3"):
            rows.writerow([case, f"labelsTr/{case}.zarr", f"predictions/{case}.zarr", case[:1]])


def compared(folder):
    """Score two models, as `compare` wants them, in folders of their own and in one."""
    rows = [["case", "truth", "prediction", "model"]]
    for model, predictions in (("unet", "predictions"), ("vnet", "vnet")):
        batch = f"streamloss batch labelsTr {predictions} --model {model} -o scores-{model}"
        assert shell(batch, folder).returncode == 0
        rows += [
            [case, f"labelsTr/{case}.zarr", f"{predictions}/{case}.zarr", model]
            for case in ("p1", "p2", "p3")
        ]
    with (folder / "models.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert shell("streamloss batch models.csv -o scores", folder).returncode == 0


@every_command
def test_the_help_fits_80_columns_and_its_examples_run(command, tmp_path):
    done = shell(f"streamloss {command} --help", tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    text = done.stdout.partition("Examples:")[2].replace("\\\n", "")
    examples = re.findall(r"^ {4}(streamloss .*)$", text, re.MULTILINE)
    assert examples
    write_inputs(tmp_path)
    if command == "compare":
        compared(tmp_path)
    for line in examples:
        done = shell(line, tmp_path)
        assert done.returncode == 0, (line, done.stderr)
        assert max(map(len, done.stdout.splitlines()), default=0) <= 80 or "json" in line, line
