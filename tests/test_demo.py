"""The demo: the same voxels each time, imperfect on purpose, and careful with folders."""

import hashlib
import shlex

import numpy as np
import pytest
import zarr

from streamloss.cli import main
from streamloss.demo import CLASSES, SPACING, write_demo
from streamloss.errors import InvalidInputError
from streamloss.stores import open_volume


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "demo", 80)


def read(path):
    return zarr.open_array(path / "0", mode="r")[...]


def test_the_same_bytes_are_written_each_time(paths, tmp_path):
    again = write_demo(tmp_path / "demo", 80)
    for name, path in paths.items():
        hashes = [
            {
                file.relative_to(folder): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in folder.rglob("*")
                if file.is_file()
            }
            for folder in (path, again[name])
        ]
        assert hashes[0] == hashes[1]


def test_the_volumes_are_ome_zarr_with_anisotropic_spacing(paths):
    volume = open_volume(paths["truth"], role="truth")
    assert volume.spacing == SPACING
    assert volume.unit == "millimeter"
    assert volume.axes == ("z", "y", "x")
    assert open_volume(paths["probabilities"], role="prediction").axes == ("c", "z", "y", "x")


def test_every_class_is_in_truth_and_prediction(paths):
    for name in ("truth", "prediction"):
        assert np.unique(read(paths[name])).tolist() == list(range(len(CLASSES)))


def test_probabilities_sum_to_one_and_are_never_certain(paths):
    probabilities = read(paths["probabilities"])
    assert probabilities.min() > 0
    assert probabilities.max() < 1
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-6)


def test_a_lesion_is_missed_and_another_made_up(paths):
    lesion = CLASSES.index("lesion")
    truth, prediction = (read(paths[name]) == lesion for name in ("truth", "prediction"))
    missed = truth[:30, 36:]
    made_up = prediction[:, 45:, 55:]
    assert missed.any()
    assert not prediction[:30, 36:44, :30].any()
    assert made_up.any()
    assert not truth[:, 45:, 55:].any()


def test_an_earlier_demo_is_replaced_and_other_files_stay(tmp_path):
    write_demo(tmp_path, 32)
    (tmp_path / "notes.txt").write_text("mine")
    paths = write_demo(tmp_path, 40)
    assert read(paths["truth"]).shape == (40, 40, 40)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "truth.zarr").mkdir()
    with pytest.raises(InvalidInputError, match="something else"):
        write_demo(tmp_path, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["truth.zarr"]


def test_a_file_and_a_tiny_size_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match="is a file"):
        write_demo(tmp_path / "file", 32)
    with pytest.raises(InvalidInputError, match="at least 32"):
        write_demo(tmp_path / "new", 8)
    assert not (tmp_path / "new").exists()


def test_progress_ends_at_all_voxels(tmp_path):
    seen = []
    write_demo(tmp_path, 70, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (70**3, 70**3)
    assert len(seen) == 8


def test_the_command_scores_both_and_its_lines_can_be_repeated(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["demo", "--size", "48"]) == 0
    out, err = capsys.readouterr()
    assert "wrote" in err
    assert max(map(len, out.splitlines())) <= 80
    lines = [
        line.removeprefix("$ streamloss ")
        for line in out.replace("\\\n", "").splitlines()
        if line.startswith("$")
    ]
    assert len(lines) == 2
    for line in lines:
        assert main(shlex.split(line)) == 0
        again, _ = capsys.readouterr()
        tables = again[: again.index("voxels, ")]
        assert tables in out


def test_the_command_refuses_a_foreign_folder_with_exit_code_2(tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    assert main(["demo", "--directory", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
