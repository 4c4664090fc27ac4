"""The command line: exit codes, where output goes, and what it says."""

import csv
import json
import os
import stat
import subprocess
import sys
import warnings
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import zarr

import streamloss as sl
from streamloss.cli import main
from streamloss.registry import metric_names, parameters


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Hold labels of three classes, and binary and multi-class probabilities."""
    folder = tmp_path_factory.mktemp("volumes")
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, (8, 9, 10), np.uint8)
    prediction = np.where(generator.random(truth.shape) < 0.8, truth, 0).astype(np.uint8)
    soft = generator.random((3, *truth.shape), np.float32)
    arrays = {
        "truth": truth,
        "prediction": prediction,
        "smaller": prediction[1:],
        "probabilities": soft / soft.sum(axis=0),
        "binary_truth": np.uint8(truth == 1),
        "binary": soft[0],
    }
    for name, array in arrays.items():
        zarr.save_array(folder / f"{name}.zarr", array)
    return folder


@pytest.fixture
def run(folder, capsys, monkeypatch):
    """Run the command line in the folder of the volumes; return code, stdout, stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def program(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "streamloss", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "80", **environment},
        check=False,
    )


def is_one_error(err):
    return err.startswith("error: ") and err.count("\n") == 1


def test_score_prints_tables_to_stdout_and_nothing_to_stderr(run):
    code, out, err = run("score", "truth.zarr", "prediction.zarr")
    assert code == 0
    assert "dice" in out
    assert "720 voxels, 720 scored" in out
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80


def test_json_on_stdout_is_the_result_alone(run, folder):
    code, out, err = run(
        "score", "truth.zarr", "prediction.zarr", "--metrics", "dice,iou", "--json", "-"
    )
    assert (code, err) == (0, "")
    expected = sl.score(
        folder / "truth.zarr", folder / "prediction.zarr", metrics=["dice", "iou"]
    ).to_dict()
    got = json.loads(out)
    assert got["schema"] == "streamloss.result/1"
    for part in ("voxels", "classes", "metrics", "options"):
        assert got[part] == json.loads(json.dumps(expected[part]))


def test_csv_on_stdout_is_tidy(run):
    code, out, _ = run("score", "truth.zarr", "prediction.zarr", "-m", "dice", "--csv", "-")
    rows = list(csv.DictReader(StringIO(out)))
    assert code == 0
    assert list(rows[0]) == ["metric", "class", "name", "value", "error_bound", "unit"]
    assert [(row["metric"], row["class"]) for row in rows] == [
        ("dice", ""),
        ("dice", "1"),
        ("dice", "2"),
        ("dice.undefined_classes", ""),
        ("dice.empty_classes", ""),
        ("dice.missed_classes", ""),
        ("dice.spurious_classes", ""),
    ]


def test_csv_holds_every_digit_and_leaves_undefined_empty(run):
    arguments = ("score", "truth.zarr", "prediction.zarr", "-m", "dice", "--classes", "4")
    _, out, _ = run(*arguments, "--csv", "-")
    values = {row["class"]: row["value"] for row in csv.DictReader(StringIO(out))}
    _, out, _ = run(*arguments, "--json", "-")
    metric = json.loads(out)["metrics"]["dice"]
    assert values["3"] == ""
    assert metric["per_class"]["3"] is None
    assert float(values["1"]) == metric["per_class"]["1"]


def test_files_are_written_beside_the_tables(run, tmp_path):
    code, out, _ = run(
        "score", "truth.zarr", "prediction.zarr",
        "--json", tmp_path / "scores.json", "--csv", tmp_path / "scores.csv",
    )  # fmt: skip
    assert code == 0
    assert "Metric" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.json"]
    result = sl.Result.from_json((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert "dice" in result.metrics


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_an_unwritable_target_is_refused_before_scoring(run, tmp_path, option):
    for target in (tmp_path, tmp_path / "none" / "scores"):
        code, out, err = run("score", "truth.zarr", "prediction.zarr", option, target)
        assert (code, out) == (2, "")
        assert is_one_error(err)
        assert str(target) in err


def test_two_outputs_to_one_place_are_refused(run):
    code, _, err = run("score", "truth.zarr", "prediction.zarr", "--json", "-", "--csv", "-")
    assert code == 2
    assert is_one_error(err)


def test_a_failed_run_leaves_an_earlier_file_alone(run, tmp_path):
    target = tmp_path / "scores.json"
    target.write_text("earlier")
    code, _, _ = run("score", "truth.zarr", "smaller.zarr", "--json", target)
    assert code == 2
    assert target.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_a_device_is_written_to_and_not_replaced(run):
    code, _, _ = run("score", "truth.zarr", "prediction.zarr", "--json", os.devnull)
    assert code == 0
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.zarr", "prediction.zarr"), ["truth", "none.zarr"]),
        (("truth.zarr", "smaller.zarr"), ["(8, 9, 10)", "(7, 9, 10)"]),
        (("truth.zarr", "prediction.zarr", "-m", "dise"), ["dise", "did you mean 'dice'"]),
        (("truth.zarr", "prediction.zarr", "-m", "hinge_loss"), ["hinge_loss", "logits"]),
        (("truth.zarr", "prediction.zarr", "--gama", "2"), ["--gama", "did you mean --gamma?"]),
        (("truth.zarr", "prediction.zarr", "--kind", "label"), ["label", "probabilities"]),
        (("truth.zarr", "prediction.zarr", "--workers", "many"), ["--workers", "many"]),
        (("truth.zarr", "prediction.zarr", "--executor", "mpi"), ["mpi", "threads"]),
        (("truth.zarr", "prediction.zarr", "--spacing", "1,x,1"), ["--spacing", "1,x,1"]),
        (("truth.zarr", "prediction.zarr", "--background", "air"), ["--background", "air"]),
        (("truth.zarr", "prediction.zarr", "--eps", "1e-3"), ["eps", "cross_entropy"]),
        (("truth.zarr", "prediction.zarr", "--max-memory", "1KiB"), ["max_memory", "1 KiB"]),
        (("truth.zarr", "prediction.zarr", "--classes", "1,2,2"), ["1,2,2"]),
        (("truth.zarr",), ["PREDICTION"]),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence_and_exit_code_2(run, arguments, words):
    code, out, err = run("score", *arguments)
    assert (code, out) == (2, "")
    assert is_one_error(err)
    for word in words:
        assert word in err


def test_an_unknown_command_gets_one_sentence_and_exit_code_2(run):
    code, out, err = run("scroe", "truth.zarr", "prediction.zarr")
    assert (code, out) == (2, "")
    assert is_one_error(err)


def test_no_command_shows_the_help_on_stderr(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: streamloss")


def test_a_corrupt_chunk_is_a_runtime_error_that_names_it(run, tmp_path):
    path = tmp_path / "broken.zarr"
    zarr.save_array(path, np.ones((4, 4, 4), np.uint8))
    chunk = next(file for file in (path / "c").rglob("*") if file.is_file())
    chunk.write_bytes(b"not a chunk")
    code, out, err = run("score", path, path)
    assert (code, out) == (1, "")
    assert is_one_error(err)
    assert "broken.zarr" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (MemoryError(), 1), (OSError("disk full"), 1), (KeyError(3), 1)],
)
def test_an_error_while_scoring_is_one_line_and_no_traceback(run, monkeypatch, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("streamloss.scoring.execute", fail)
    got, out, err = run("score", "truth.zarr", "prediction.zarr")
    assert (got, out) == (code, "")
    assert err.strip().startswith("error: ")
    assert err.strip().count("\n") == 0


def test_only_options_the_user_gave_reach_the_api(run, monkeypatch):
    seen = {}
    original = sl.score

    def score(truth, prediction, **options):
        seen.update(options)
        return original(truth, prediction, **options)

    monkeypatch.setattr(sl, "score", score, raising=False)
    run(
        "score", "truth.zarr", "probabilities.zarr", "--metrics", "dice,focal_loss",
        "--metrics", "iou", "--alpha", "0.2,0.3,0.5", "--background", "none",
        "--no-include-background", "--spacing", "3", "--spacing", "0.9,0.9",
    )  # fmt: skip
    assert callable(seen.pop("progress"))
    assert seen == {
        "metrics": "dice,focal_loss,iou",
        "alpha": "0.2,0.3,0.5",
        "background": None,
        "include_background": False,
        "spacing": [3.0, 0.9, 0.9],
    }


def test_parameters_of_metrics_change_the_score(run):
    values = []
    for gamma in (0, 2):
        _, out, _ = run(
            "score", "binary_truth.zarr", "binary.zarr", "-m", "focal_loss",
            "--gamma", gamma, "--json", "-",
        )  # fmt: skip
        values.append(json.loads(out)["metrics"]["focal_loss"]["value"])
    assert values[0] > values[1]


def test_progress_off_a_terminal_is_silent_unless_asked_for(run):
    _, out, err = run("score", "truth.zarr", "prediction.zarr", "--progress")
    assert "100 %" in err
    assert "\x1b" not in err + out
    _, _, err = run("score", "truth.zarr", "prediction.zarr", "--no-progress")
    assert err == ""


def test_score_help_shows_every_metric_and_option_in_sections(run):
    code, out, _ = run("score", "--help")
    assert code == 0
    sections = ["Inputs:", "What to score:", "Metric options:", "Running:", "Output:", "Examples:"]
    places = [out.index(section) for section in sections]
    assert places == sorted(places)
    for name in parameters():
        assert f"--{name.replace('_', '-')} " in out
    for name in metric_names():
        assert name in out
    assert max(map(len, out.splitlines())) <= 80


def test_metrics_lists_each_metric_on_one_line(run):
    code, out, err = run("metrics")
    assert (code, err) == (0, "")
    first_words = [line.split()[0] for line in out.splitlines() if line.strip()]
    for name in metric_names():
        assert first_words.count(name) == 1
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", metric_names())
def test_metrics_tells_the_definition_of_each(run, name):
    code, out, _ = run("metrics", name)
    assert code == 0
    for title in ("Formula", "Range", "Prediction", "Empty", "Source"):
        assert title in out
    assert max(map(len, out.splitlines())) <= 80


def test_metrics_as_json_holds_the_registry(run):
    code, out, err = run("metrics", "--json", "-")
    assert (code, err) == (0, "")
    plain = json.loads(out, parse_constant=pytest.fail)
    assert sorted(plain["metrics"]) == metric_names()
    assert plain["metrics"]["cross_entropy"][0]["range"] == [0.0, None]


def test_an_unknown_metric_gets_the_nearest_name(run):
    code, out, err = run("metrics", "dyce")
    assert (code, out) == (2, "")
    assert "did you mean 'dice'?" in err


def test_inspect_tells_the_array_and_a_plan(run):
    code, out, _ = run("inspect", "truth.zarr")
    assert code == 0
    for fact in ("8 \u00d7 9 \u00d7 10", "uint8", "zstd", "1 of 1 chunks", "workers", "memory"):
        assert fact in out


def test_inspect_plans_a_pair(run):
    code, out, _ = run("inspect", "truth.zarr", "probabilities.zarr", "--json", "-")
    assert code == 0
    facts = json.loads(out)
    assert facts["truth"]["shape"] == [8, 9, 10]
    assert facts["prediction"]["shape"] == [3, 8, 9, 10]
    assert facts["plan"]["kind"] == "probabilities"
    assert facts["plan"]["projected_bytes"] <= facts["plan"]["max_memory"]


def test_inspect_shows_two_arrays_that_do_not_fit_together_and_says_why(run):
    code, out, err = run("inspect", "truth.zarr", "smaller.zarr")
    assert code == 2
    assert "7 \u00d7 9 \u00d7 10" in out
    assert is_one_error(err)


def test_inspect_plans_a_float_array_as_values(run):
    code, out, _ = run("inspect", "probabilities.zarr", "--json", "-")
    assert code == 0
    assert json.loads(out)["plan"]["kind"] == "values"


def test_help_and_version_import_no_numeric_library():
    code = (
        "import sys; from streamloss.cli import main; main(['--help']); main(['--version']); "
        "sys.exit(bool({'numpy', 'numba', 'zarr', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_program_runs_as_a_module_and_returns_exit_codes(folder):
    done = program("score", folder / "truth.zarr", folder / "prediction.zarr", "--json", "-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["voxels"]["total"] == 720
    assert done.stderr == ""
    done = program("score", folder / "truth.zarr", folder / "smaller.zarr")
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_error(done.stderr)


def test_output_off_a_terminal_has_no_escape_codes(folder):
    for environment in ({}, {"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        done = program("metrics", **environment)
        assert "\x1b[3" not in done.stdout
        assert "\x1b" not in done.stderr


def test_a_closed_pipe_is_quiet():
    process = subprocess.Popen(
        [sys.executable, "-m", "streamloss", "metrics", "--json", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


def test_merged_shards_give_what_score_gives(run):
    pair = ("truth.zarr", "prediction.zarr", "--metrics", "dice,iou")
    _, expected, _ = run("score", *pair, "--csv", "-")
    for shard in ("0/2", "1/2"):
        state = f"part-{shard[0]}.slstate"
        code, out, err = run("score", *pair, "--shard", shard, "--save-state", state)
        assert (code, err) == (0, "")
        voxels = {"0/2": 720, "1/2": 0}[shard]  # One chunk is one block.
        assert out == f"shard {shard}: {voxels} voxels, saved in {state}\n"
    assert run("merge", "part-1.slstate", "part-0.slstate", "--csv", "-") == (0, expected, "")
    code, out, err = run("merge", "part-1.slstate", "part-0.slstate")
    assert (code, err) == (0, "")
    assert "dice" in out
    code, out, err = run("merge", "part-1.slstate")
    assert (code, out) == (2, "")
    assert err == "error: 1 of 2 shards missing: 0/2; every one is merged once\n"
    code, out, err = run("merge")
    assert (code, out) == (2, "")
    assert is_one_error(err)


def test_a_shard_saves_a_state_and_writes_no_result_of_a_part(run):
    pair = ("truth.zarr", "prediction.zarr", "--shard", "0/2")
    for arguments, told in (
        ((), "--shard needs --save-state FILE"),
        (("--save-state", "s.slstate", "--json", "-"), "--json of one shard"),
        (("--save-state", "s.slstate", "--csv", "c.csv"), "--csv of one shard"),
        (("--save-state", "nowhere/s.slstate"), "cannot write nowhere/s.slstate"),
        (("--save-state", "-"), "it is no text for stdout, name a file"),
    ):
        code, out, err = run("score", *pair, *arguments)
        assert (code, out) == (2, "")
        assert told in err
        assert is_one_error(err)
    assert not Path("s.slstate").exists()
    assert not Path("-").exists()


def test_a_run_goes_on_from_its_checkpoint_and_tells_what_changed(run, tmp_path):
    command = ("score", "truth.zarr", "prediction.zarr", "--checkpoint", tmp_path, "--csv", "-")
    first = run(*command)
    assert first[0] == 0
    assert run(*command) == first
    code, out, err = run(*command, "--ignore-label", "2")
    assert (code, out) == (2, "")
    assert "--ignore-label was None and is 2" in err
    assert is_one_error(err)


def test_a_checkpoint_that_cannot_be_saved_is_a_warning(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("streamloss.checkpoint.save_sum", full)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, out, err = run(
            "score", "truth.zarr", "prediction.zarr", "--checkpoint", tmp_path / "c", "--csv", "-"
        )
    assert code == 0
    assert out.startswith("metric,")
    assert err.startswith("warning: the checkpoint ")
    assert err.endswith("could not be saved, the run goes on: No space left on device\n")


@pytest.mark.parametrize("option", ["--json", "--csv", "--save-state"])
def test_a_file_that_does_not_fit_on_the_disk_is_named(run, tmp_path, monkeypatch, option):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    target = tmp_path / "output"
    code, out, err = run("score", "truth.zarr", "prediction.zarr", option, target)
    assert (code, out, err) == (1, "", f"error: No space left on device: '{target}'\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_a_full_device_is_named(run):
    code, out, err = run("score", "truth.zarr", "prediction.zarr", "--json", "/dev/full")
    assert (code, out, err) == (1, "", "error: No space left on device: '/dev/full'\n")


def test_a_file_is_written_where_folders_cannot_be_flushed(run, tmp_path, monkeypatch):
    flush = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    target = tmp_path / "scores.json"
    assert run("score", "truth.zarr", "prediction.zarr", "--json", target)[0] == 0
    assert json.loads(target.read_text())
