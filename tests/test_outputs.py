"""No output overwrites what it was made from, and a place that takes no file is found at once."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

import streamloss as sl
from streamloss.cli import main
from streamloss.cli.output import target_callback

TRUTH = np.arange(64).reshape(4, 4, 4) % 3
PREDICTION = np.where(TRUTH == 2, 1, TRUTH)


@pytest.fixture(autouse=True)
def inputs(tmp_path, monkeypatch):
    """Hold a volume of each kind that an output might hit, under each name it may have."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    np.save("t.npy", TRUTH.astype("u1"))
    np.save("p.npy", PREDICTION.astype("u1"))
    Path("link.npy").symlink_to("t.npy")
    os.link("t.npy", "hard.npy")
    sl.convert("t.npy", "image.zarr", chunks=(2, 4, 4))
    Path("link.zarr").symlink_to("image.zarr")
    return folder


def files(folder):
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def refused(inputs, capsys):
    """Run a command that must be refused, change no file, and say why in one sentence."""

    def refused(*arguments, told):
        before = files(inputs)
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), arguments
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert told in err
        assert files(inputs) == before

    return refused


@pytest.mark.parametrize("option", ["--json", "--csv", "--save-state"])
@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("t.npy", "cannot write t.npy: it is the input t.npy"),
        ("./p.npy", "cannot write ./p.npy: it is the input p.npy"),
        ("link.npy", "cannot write link.npy: it is the input t.npy"),
        ("hard.npy", "cannot write hard.npy: it is the input t.npy"),
    ],
)
def test_a_file_that_is_scored_is_not_written(refused, option, target, told):
    command = ("score", "t.npy", "p.npy", "--metrics", "dice")
    refused(*command, option, target, told=f"{option} {told}")


@pytest.mark.parametrize("option", ["--json", "--save-state"])
@pytest.mark.parametrize("truth", ["image.zarr", "image.zarr/0", "link.zarr"])
@pytest.mark.parametrize(
    "target", ["image.zarr/zarr.json", "image.zarr/0/zarr.json", "link.zarr/0/new"]
)
def test_nothing_is_written_into_an_array_that_is_scored(refused, option, truth, target):
    told = f"{option} cannot write {target}: it lies within the input {truth}"
    refused("score", truth, "p.npy", option, target, told=told.removesuffix(truth))


@pytest.mark.parametrize("option", ["--mask", "--weights"])
def test_masks_and_weights_are_inputs_too(refused, option):
    np.save("m.npy", np.ones((4, 4, 4), "u1"))
    for target in ("--json", "--save-state"):
        refused("score", "t.npy", "p.npy", option, "m.npy", target, "m.npy", told="input m.npy")


def test_an_input_may_be_named_as_a_url_of_this_machine(refused, inputs):
    url = (inputs / "t.npy").as_uri()
    refused("score", url, "p.npy", "--json", "t.npy", told=f"it is the input {url}")


def test_an_output_beside_the_inputs_is_fine():
    assert main(["score", "image.zarr", "p.npy", "--json", "image.json"]) == 0
    assert main(["score", "t.npy", "p.npy", "--json", "image.json"]) == 0
    # A metric is no file, whatever lies there.
    assert main(["metrics", "dice", "--json", "dice"]) == 0
    assert main(["metrics", "dice", "--json", "dice"]) == 0


def test_outputs_of_other_commands_spare_their_inputs_too(refused):
    for number in (0, 1):
        state = f"s{number}.slstate"
        sl.score("t.npy", "p.npy", metrics="dice", shard=f"{number}/2", save_state=state)
    for option in ("--json", "--csv"):
        command = ("merge", "s0.slstate", "s1.slstate", option, "s1.slstate")
        refused(*command, told=f"{option} cannot write s1.slstate: it is the input s1.slstate")
    refused("inspect", "t.npy", "--json", "t.npy", told="it is the input t.npy")
    for model in ("a", "b"):
        case = sl.Case("one", "t.npy", "p.npy", model=model)
        sl.batch([case], output=f"scores-{model}", metrics="dice")
    target = "scores-b/cases/b/one.json"
    told = "it lies within the input scores-b"
    refused("compare", "scores-a", "scores-b", "--json", target, told=told)


def test_two_outputs_of_any_kind_never_go_to_one_place(refused):
    Path("new-link").symlink_to("new")
    for targets in (
        ("--save-state", "new", "--json", "new"),
        ("--csv", "new", "--json", "new-link"),
    ):
        refused("score", "t.npy", "p.npy", *targets, told="cannot both go to new")


def test_a_checkpoint_is_not_kept_in_an_input(refused):
    for folder in ("image.zarr", "link.zarr/saved"):
        refused("score", "image.zarr", "p.npy", "--checkpoint", folder, told="input image.zarr")


def test_arrays_that_lie_in_files_are_inputs_too(inputs):
    mapped = np.load("t.npy", mmap_mode="r")
    stored = zarr.open("image.zarr/0")
    before = files(inputs)
    for truth, target in ((mapped, "t.npy"), (stored, "image.zarr/0/zarr.json")):
        with pytest.raises(sl.InvalidInputError, match=f"save_state cannot write {target}"):
            sl.score(truth, PREDICTION, metrics="dice", save_state=target)
    assert files(inputs) == before


@pytest.mark.skipif(os.name == "nt", reason="no named pipes here")
def test_a_pipe_or_device_is_not_replaced_by_a_state():
    # Never a device of the machine itself, which a fault here would take from all its programs.
    os.mkfifo("pipe")
    with pytest.raises(sl.InvalidInputError, match="save_state cannot write pipe: it is no file"):
        sl.score(TRUTH, PREDICTION, metrics="dice", save_state="pipe")
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("image.zarr", "image.zarr"),
        ("image.zarr", "link.zarr"),
        ("image.zarr/0", "image.zarr"),
        ("image.zarr", "image.zarr/new.zarr"),
        ("image.zarr/0", "image.zarr/new.zarr"),
        ("outer.zarr/t.npy", "outer.zarr"),
    ],
)
def test_a_conversion_neither_replaces_its_source_nor_writes_into_it(refused, source, target):
    Path("outer.zarr").mkdir()
    np.save("outer.zarr/t.npy", TRUTH)
    refused("convert", source, target, "--overwrite", told=f"target cannot write {target}: it ")


MANIFEST = "case,truth,prediction,mask\none,image.zarr,p.npy,m.zarr\n"


@pytest.fixture
def manifest():
    zarr.save_array("m.zarr", np.ones((4, 4, 4), "u1"))
    Path("cases.csv").write_text(MANIFEST)
    return "cases.csv"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("cases.csv", "it is the input cases.csv"),
        ("p.npy", "it is the input p.npy"),
        ("image.zarr/zarr.json", "it lies within the input image.zarr"),
        ("m.zarr/zarr.json", "it lies within the input m.zarr"),
    ],
)
def test_tables_of_a_batch_spare_its_manifest_and_volumes(refused, manifest, target, told):
    for option in ("--json", "--csv"):
        refused("batch", manifest, "-o", "out", option, target, told=told)
    assert not Path("out").exists()


def test_the_folder_of_a_batch_is_no_volume_of_it(refused, manifest):
    for output in ("image.zarr", "image.zarr/out", "m.zarr/out"):
        refused("batch", manifest, "-o", output, told=f"output cannot write {output}: it ")


def test_the_folder_of_a_batch_does_not_hold_its_manifest_under_a_name_it_writes(refused, manifest):
    Path(manifest).rename("scores.csv")
    refused("batch", "scores.csv", "-o", ".", told="it is the input scores.csv")


def test_the_folder_of_a_batch_may_be_that_of_its_predictions():
    for folder, array in (("truths", TRUTH), ("models", PREDICTION)):
        Path(folder).mkdir()
        np.save(f"{folder}/a.npy", array)
    command = ["batch", "truths", "models", "-o", "models", "-m", "dice"]
    assert main([*command, "--json", "models/all.json"]) == 0


def test_every_option_that_names_an_output_file_is_checked():
    from streamloss.cli import program

    for command in program.commands.values():
        for parameter in command.params:
            if "FILE" in (parameter.metavar or "") and parameter.param_type_name == "option":
                assert parameter.callback is target_callback, (command.name, parameter.name)


def test_a_state_that_could_not_be_saved_is_refused_before_work(no_disk):
    place, why = no_disk
    before, started = files(place), []
    target = place / "x.slstate"
    with pytest.raises(sl.InvalidInputError, match=f"save_state cannot write .*{target}.*{why}"):
        sl.score(TRUTH, PREDICTION, save_state=target, progress=lambda *n: started.append(n))
    assert not started
    assert files(place) == before


@pytest.mark.parametrize("option", ["--json", "--csv", "--save-state"])
def test_a_file_that_could_not_be_written_is_refused_before_work(refused, no_disk, option):
    place, why = no_disk
    refused("score", "t.npy", "p.npy", option, place / "x", told=f"cannot write {place}/x: {why}")


def test_an_image_that_could_not_be_written_is_refused_before_work(refused, no_disk):
    place, why = no_disk
    told = f"cannot write to the target '{place}/x.zarr': {why}"
    refused("convert", "t.npy", place / "x.zarr", told=told)


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_a_closed_stdout_is_refused_before_work(refused, monkeypatch, option):
    """What was asked for would be lost without a word."""
    monkeypatch.setattr("streamloss.cli.output.sys.stdout", None)
    refused("score", "t.npy", "p.npy", option, "-", told="cannot write -: stdout is closed")


@pytest.mark.parametrize("output", [".", "out", "out/deeper"])
def test_a_batch_that_could_not_be_saved_is_refused_before_work(refused, no_disk, output, manifest):
    place, why = no_disk
    before = sorted(place.rglob("*"))
    told = f"cannot write to the output '{place / output}': {why}"
    refused("batch", manifest, "-o", place / output, told=told)
    assert sorted(place.rglob("*")) == before
