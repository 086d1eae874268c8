"""Sounds by numbers: the original's network on its own features, its losses and scores, its names and ours."""

import dataclasses
import functools
import itertools
import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from official_files import TINY, assert_equal, leaves, make_state, write
from sklearn.metrics import average_precision_score, roc_auc_score
from splits import examples_of, fitted_to

import unireplknet_jax as urk
from unireplknet_jax.data.broken import BrokenFileError
from unireplknet_jax.data.pipeline import train_batches
from unireplknet_jax.data.sounds.sets import COMMANDS, TONES
from unireplknet_jax.data.sounds.waveforms import FilterBank, read_sound
from unireplknet_jax.models.torch_archive import read_state_dict
from unireplknet_jax.tasks.audio import Audio, ranking_metrics
from unireplknet_jax.tasks.audio_names import NAMES
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import initial_variables, open_checkpoint, save_checkpoint
from unireplknet_jax.tasks.convert import merge
from unireplknet_jax.tasks.predict import predict_files

ROWS = ("noise", "tone", "chirp", "short", "speech", "long")
MODEL = {name: TINY[name] for name in ("depths", "dims", "kernel_sizes")}
TONES_DATA = {"name": "tones", "train_split": "train", "eval_split": "test", "seed": 5}


def make_task(num_classes=10, **options):
    return Audio({**MODEL, "num_classes": num_classes}, **{"frames": 16, "mels": 16, "seconds": 0.0, **options})


pytestmark = pytest.mark.usefixtures("quick_compilation")


# Against the original.


@pytest.fixture(scope="module")
def reference(goldens):
    return np.load(goldens / "audio" / "audio_model.npz")


@pytest.fixture(scope="module")
def checkpoint(goldens):
    return open_checkpoint(goldens / "audio" / "audio_model.pth")


def logits_of(checkpoint, spectrograms):
    predict = jax.jit(functools.partial(checkpoint.task.predict, checkpoint.module.apply))
    return np.asarray(predict(checkpoint.variables, {"spectrogram": spectrograms})["logits"])


def test_the_originals_network_in_both_forms(checkpoint, reference):
    assert (checkpoint.task.name, checkpoint.module.num_classes, checkpoint.merged) == ("audio", 5, False)
    found = logits_of(checkpoint, reference["input_tf"])
    # The original in float32 is 5e-7 off its float64; logits have deviation 1.5.
    np.testing.assert_allclose(found, reference["logits_f64"], rtol=0, atol=2e-6)
    merged, error = merge(checkpoint, tolerance=1e-5, examples=1)
    assert error < 2e-6
    np.testing.assert_allclose(logits_of(merged, reference["input_tf"]), reference["logits_merged"], rtol=0, atol=3e-6)


@pytest.mark.slow  # `test_the_originals_network_in_both_forms` stays
def test_another_number_of_frames(checkpoint, reference):
    np.testing.assert_allclose(
        logits_of(checkpoint, reference["input2_tf"]), reference["logits2_f64"], rtol=0, atol=2e-6
    )


def test_mel_is_the_height_and_time_the_width(checkpoint, reference):
    trunk, variables = checkpoint.module.backbone, checkpoint.variables
    inner = {name: tree["backbone"] for name, tree in variables.items()}
    maps = jax.jit(trunk.apply)(inner, *checkpoint.task.inputs({"spectrogram": reference["input_tf"]}))
    expected = reference["final_map_nchw"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(maps, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_sounds_become_the_originals_inputs(checkpoint, reference, goldens, tmp_path):
    for kind in ROWS:
        (tmp_path / "test" / kind).mkdir(parents=True)
        (tmp_path / "test" / kind / "a.wav").write_bytes((goldens / "audio" / f"audio_{kind}.wav").read_bytes())
    task = make_task(6, frames=128, mels=128)
    dataset = examples_of(task, {"name": "folder", "dir": tmp_path}, "test", train=False)
    found = {sorted(ROWS)[int(np.argmax(e["target"]))]: e["spectrogram"] for e in dataset}
    for kind, expected in zip(ROWS, reference["input_tf"], strict=True):
        assert found[kind].dtype == np.float32
        # Features that float32 leaves 1.1e-2 apart at most, divided by two deviations.
        np.testing.assert_allclose(found[kind], expected, rtol=0, atol=1.1e-2 / (2 * task.std), err_msg=kind)
    assert found["short"][-1, 0] == pytest.approx(0.6150423288345337)  # a missing frame is louder than the average
    assert found["short"][0, 3] == pytest.approx((-15.942385 - task.mean) / (2 * task.std), abs=1e-6)


def test_the_originals_names_there_and_back(checkpoint, goldens, tmp_path):
    path = goldens / "audio" / "audio_model.pth"
    state = {name: tensor.numpy() for name, tensor in read_state_dict(path)[0].items()}
    urk.save_torch_checkpoint(tmp_path / "back.pth", checkpoint.variables)
    back = {name: tensor.numpy() for name, tensor in read_state_dict(tmp_path / "back.pth")[0].items()}
    assert set(back) == set(state)
    assert_equal(
        {name: x for name, x in back.items() if "num_batches" not in name},
        {name: x for name, x in state.items() if "num_batches" not in name},
    )
    parallel = {f"module.{name}": value for name, value in state.items()}
    assert_equal(
        leaves(urk.load_checkpoint(write(tmp_path / "parallel.pth", parallel))[1]), leaves(checkpoint.variables)
    )
    ours = leaves(checkpoint.variables)
    np.testing.assert_array_equal(ours["params/head/kernel"], state["mlp_head.1.weight"].T)
    np.testing.assert_array_equal(ours["params/head_norm/scale"], state["mlp_head.0.weight"])
    np.testing.assert_array_equal(
        ours["batch_stats/backbone/stages_0_0/norm/mean"], state["v.stages.0.0.norm.running_mean"]
    )


def test_missing_and_surplus_tensors_are_listed(goldens, tmp_path):
    state = {name: tensor.numpy() for name, tensor in read_state_dict(goldens / "audio" / "audio_model.pth")[0].items()}
    del state["mlp_head.0.bias"]
    state["v.head.weight"] = np.zeros((1000, 32), np.float32)
    with pytest.raises(ValueError, match=r"missing \(1\): mlp_head\.0\.bias; unexpected \(1\): v\.head\.weight"):
        urk.load_checkpoint(write(tmp_path / "a.pth", state))


def test_a_classifier_of_no_shape_is_listed(goldens, tmp_path):
    state = {name: tensor.numpy() for name, tensor in read_state_dict(goldens / "audio" / "audio_model.pth")[0].items()}
    state["mlp_head.1.weight"] = np.zeros((), np.float32)
    with pytest.raises(ValueError, match=r"a\.pth does not fit a UniRepLKNet: .*mlp_head\.1\.weight"):
        urk.load_checkpoint(write(tmp_path / "a.pth", state))


def test_35_classes_are_the_words_of_speech_commands():
    shapes = {f"v.{name}": array.shape for name, array in make_state(num_classes=None, in_chans=1).items()}
    shapes |= {"mlp_head.1.weight": (35, 32)}
    assert NAMES.options(shapes)[0]["labels"] == COMMANDS
    assert "labels" not in NAMES.options(shapes | {"mlp_head.1.weight": (34, 32)})[0]


# Checkpoints of ours.


def test_a_directory_keeps_everything(checkpoint, tmp_path):
    task = dataclasses.replace(checkpoint.task, labels=("a", "b", "c", "d", "e"), mels=64, loss_kind="ce")
    save_checkpoint(tmp_path / "a", dataclasses.replace(checkpoint, task=task))
    again = open_checkpoint(tmp_path / "a")
    assert again.task == task
    assert hash(again.task) == hash(task)
    assert_equal(leaves(again.variables), leaves(checkpoint.variables))
    card = json.loads((tmp_path / "a" / "card.json").read_text())
    assert get_task("audio", **card["options"], labels=card["labels"]) == task


def test_training_starts_from_an_image_checkpoint(tmp_path, caplog):
    state = make_state()
    ours = leaves(initial_variables(make_task(4), write(tmp_path / "a.pth", state)))
    assert "made: head, head_norm" in caplog.text
    stem = state["downsample_layers.0.0.weight"]
    summed = ours.pop("params/backbone/downsample_layers_0/conv1/kernel")
    np.testing.assert_allclose(summed, stem.sum(axis=1, keepdims=True).transpose(2, 3, 1, 0), rtol=1e-5)
    np.testing.assert_array_equal(
        ours["params/backbone/stages_3_0/pwconv1/kernel"], state["stages.3.0.pwconv1.1.weight"].T
    )
    assert ours["params/head/kernel"].shape == (32, 4)
    assert not any(name.split("/")[2] in ("norm", "head") for name in ours if "backbone" in name)


@pytest.mark.slow  # tasks/test_fit.py has what a start takes over
def test_training_starts_from_a_checkpoint_of_sounds(checkpoint, goldens, caplog):
    path = goldens / "audio" / "audio_model.pth"
    same = leaves(initial_variables(checkpoint.task, path))
    assert_equal(same, leaves(checkpoint.variables))
    assert "made: nothing" in caplog.text
    task = dataclasses.replace(checkpoint.task, model=dict(checkpoint.task.model) | {"num_classes": 7})
    other = leaves(initial_variables(task, path))
    assert other["params/head/kernel"].shape == (32, 7)
    np.testing.assert_array_equal(other["params/head_norm/bias"], same["params/head_norm/bias"])
    with pytest.raises(ValueError, match=r"another network than the recipe asks for: missing .* v\.stages\.1\.0"):
        initial_variables(make_task(5), path)


def test_a_loaded_network_gets_other_classes_but_not_channels(goldens, caplog):
    path = goldens / "audio" / "audio_model.pth"
    model, variables = urk.load_checkpoint(path, num_classes=3)
    assert model.num_classes == 3
    assert jax.jit(model.apply)(variables, jnp.zeros((1, 32, 32, 1))).shape == (1, 3)
    assert "dropped head; made head (random, 3 classes)" in caplog.text
    with pytest.raises(ValueError, match="a network of the task audio cannot be without its classifier"):
        urk.load_checkpoint(path, num_classes=None)
    with pytest.raises(ValueError, match="a network of the task audio takes 1 channel"):
        urk.load_checkpoint(path, in_chans=3)


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ("a",)}, "1 labels do not fit a model of 10 classes"),
        ({"loss_kind": "mse"}, "loss_kind is 'mse'; expected 'bce' or 'ce'"),
        ({"channels": "left"}, "channels is 'left'; expected one of mean, first, loudest"),
        ({"mixup": 1.5}, "mixup=1.5 must be from 0 to 1"),
        ({"std": 0.0}, "std=0.0 must be above 0"),
        ({"mean": float("nan")}, "mean=nan must be a number, and finite"),
        ({"fill": -float("inf")}, "fill=-inf must be a number, and finite"),
        ({"shift": float("inf")}, "shift=inf must be above 0, and finite"),
        ({"width": float("nan")}, "width=nan must be above 0, and finite"),
        ({"seconds": 0.2}, r"windows of seconds=0\.2 have 18 frames, of which .* the first 16; give frames=18, or"),
        ({"roll": 0.5}, "roll=0.5 must be a whole number"),
        ({"window": "flat"}, "window is 'flat'"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        make_task(**options)


def test_the_classes_are_the_datas():
    task = make_task(0)
    with pytest.raises(ValueError, match="the number of classes is left to the data"):
        task.module()
    fitted = fitted_to(task, TONES_DATA)
    assert (fitted.labels, fitted.module().num_classes) == (TONES, 10)
    assert fitted_to(make_task(10), TONES_DATA).labels == TONES
    own = make_task(10, labels=tuple("abcdefghij"))
    assert fitted_to(own, TONES_DATA) is own
    with pytest.raises(ValueError, match="tones has 10 classes, but the model has 3"):
        examples_of(make_task(3), TONES_DATA, "train", train=True)
    for train in (True, False):
        with pytest.raises(ValueError, match=r"tones has other classes than the model: 150 Hz, .* in place of a, b"):
            examples_of(own, TONES_DATA, "test", train)


@pytest.mark.parametrize("balance", [True, False])
def test_classes_are_found_by_their_names(balance):
    for train in (True, False):
        targets = [
            np.stack([examples[i]["target"] for i in range(20)])
            for examples in (
                examples_of(make_task(10, labels=labels, balance=balance), TONES_DATA, "test", train)
                for labels in (TONES, TONES[::-1])
            )
        ]
        assert targets[0].any()
        np.testing.assert_array_equal(targets[0], targets[1][:, ::-1])


# Training examples.

AUGMENTED = {"mixup": 0.5, "freq_mask": 5, "time_mask": 5, "noise": 0.1, "roll": 3}


def test_the_stream_is_a_function_of_seed_and_position():
    task = make_task(**AUGMENTED)

    def batches(seed, **options):
        stream = examples_of(task, TONES_DATA | {"seed": seed}, "train", train=True)
        return list(itertools.islice(train_batches(stream, 8, **options), 3))

    first = batches(5)
    for again in (batches(5, num_threads=0), batches(5, num_threads=4)):
        for ours, theirs in zip(first, again, strict=True):
            np.testing.assert_array_equal(ours["spectrogram"], theirs["spectrogram"])
            np.testing.assert_array_equal(ours["target"], theirs["target"])
    later = next(iter(train_batches(examples_of(task, TONES_DATA, "train", train=True), 8, start_step=2)))
    np.testing.assert_array_equal(later["spectrogram"], first[2]["spectrogram"])
    assert not np.array_equal(batches(6)[0]["spectrogram"], first[0]["spectrogram"])


def test_mixed_targets_add_up_and_follow_the_probability():
    task = make_task(mixup=0.5)
    stream = examples_of(task, TONES_DATA, "train", train=True)
    targets = np.stack([stream[i]["target"] for i in range(300)])
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    mixed = (targets.max(axis=1) < 1).mean()
    assert abs(mixed - 0.5 * 0.9) < 0.12  # a tenth of the partners is of the same class; four deviations
    shares = targets.max(axis=1)[targets.max(axis=1) < 1]
    assert shares.min() > 0.5 - 1e-6
    assert shares.mean() < 0.65  # Beta(10, 10) stays near a half


def test_a_target_is_mixed_by_the_share_of_its_sound(monkeypatch):
    monkeypatch.setattr(
        "unireplknet_jax.tasks.audio.sounds.mix", lambda first, second, share: shares.append(share) or first
    )
    shares, task = [], make_task(mixup=1.0, mixup_alpha=0.5)  # shares far from a half
    stream = examples_of(task, TONES_DATA, "train", train=True)
    labels = {example["id"]: example["classes"] for example in task.open(TONES_DATA, "train").source}
    for i in range(20):
        example = stream[i]
        own = example["target"][list(labels[example["id"]])]
        assert np.allclose(own, shares[-1], atol=1e-6) or np.allclose(own, 1)  # 1: a partner of the same class
    assert np.ptp(shares) > 0.5


def test_the_fill_is_what_is_masked_and_missing_before_normalization():
    for fill in (0.0, -15.0):
        task = make_task(frames=120, time_mask=40, fill=fill)
        stream = examples_of(task, TONES_DATA, "train", train=True)
        examples = np.stack([stream[i]["spectrogram"] for i in range(20)])
        value = np.float32((fill - task.mean) / (2 * task.std))
        assert (examples[:, -1] == value).all()  # a second has 98 frames
        inside = (examples[:, :40] == value).all(axis=2).any(axis=1)
        assert 0 < inside.sum() < 20


def test_the_channels_are_chosen(tmp_path):
    left, right = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4000)) * [[0.5], [1]]
    waves = {"mean": (left + right) / 2, "first": left, "loudest": right}
    path = tmp_path / "test" / "x" / "a.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, np.stack([left, right], axis=1), 16_000, subtype="DOUBLE")
    for channels, wave in waves.items():
        task = make_task(1, channels=channels)
        expected = task.read(wave)[0]["spectrogram"]
        evaluated = examples_of(task, {"name": "folder", "dir": tmp_path}, "test", train=False)[0]["spectrogram"]
        np.testing.assert_allclose(task.read(path)[0]["spectrogram"], expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(evaluated, expected, rtol=0, atol=1e-6)


def test_of_a_long_file_the_frames_that_are_needed_are_computed(tmp_path, monkeypatch):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="DOUBLE")
    task = make_task(seconds=0.0)
    expected = (task._bank(wave - wave.mean())[:16] - task.mean) / (2 * task.std)
    found, bank = [], FilterBank.__call__
    monkeypatch.setattr(FilterBank, "__call__", lambda self, x: found.append(bank(self, x)) or found[-1])
    (tmp_path / "test" / "x").mkdir(parents=True)
    (tmp_path / "a.wav").rename(tmp_path / "test" / "x" / "a.wav")
    example = examples_of(make_task(1), {"name": "folder", "dir": tmp_path}, "test", train=False)[0]
    np.testing.assert_allclose(example["spectrogram"], expected, rtol=0, atol=1e-6)
    sound = read_sound(tmp_path / "test" / "x" / "a.wav", 16_000)
    task.draw([{"sound": sound, "id": "a.wav"}], [{"predictions": []}])
    assert [len(features) for features in found] == [16, 8 * 16]


def test_a_broken_sound_ends_or_is_passed_over(tmp_path):
    rng = np.random.default_rng(0)
    for split, kind, name in itertools.product(("train", "val"), ("x", "y"), "abc"):
        path = tmp_path / split / kind / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, 4000), 16_000)
    for split in ("train", "val"):
        (tmp_path / split / "x" / "b.wav").write_bytes(b"no sound")
    data = {"name": "folder", "dir": tmp_path, "train_split": "train", "eval_split": "val", "seed": 0}
    task = make_task(2, mixup=0.9)
    refused = r"x/b\.wav cannot be read as sound, or is damaged"
    with pytest.raises(BrokenFileError, match=refused):
        list(examples_of(task, data, "val", train=False))
    stream = examples_of(task, data | {"broken": "skip"}, "train", train=True)
    assert {int(stream[i]["id"]) for i in range(24)} == {0, 2, 3, 4, 5}
    assert [e["id"] for e in examples_of(task, data | {"broken": "skip"}, "val", train=False)] == [0, 2, 3, 4, 5]
    stream = examples_of(task, data, "train", train=True)
    with pytest.raises(ValueError, match=r"x/b\.wav"):
        [stream[i] for i in range(24)]
    mixed = make_task(2, mixup=1.0).augmented_examples(task.open(data, "train", train=True))
    with pytest.raises(ValueError, match=r"x/b\.wav"):  # of a whole sound whose partner is broken
        [mixed(0, np.random.default_rng(seed)) for seed in range(24)]


def test_balance_draws_rare_classes():
    stream = examples_of(make_task(balance=True), TONES_DATA, "train", train=True)
    assert len({int(stream[i]["id"]) for i in range(400)}) < 300  # with replacement: 1 - 1/e of them


def test_balance_is_of_training_alone():
    balanced, plain = (examples_of(make_task(balance=on), TONES_DATA, "test") for on in (True, False))
    assert len(balanced) == len(plain)
    assert [balanced[i]["id"] for i in range(len(plain))] == [plain[i]["id"] for i in range(len(plain))]


# Losses and metrics.


def network(logits, seen=None):
    def apply(variables, images, train=False, rngs=None, mutable=None):
        if seen is not None:
            seen.append(images)
        return (jnp.asarray(logits), {"batch_stats": {"new": 1.0}}) if train else jnp.asarray(logits)

    return apply


LOGITS = np.array([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0]], np.float32)
SOFT = np.array([[0.7, 0.3, 0.0], [0.0, 1.0, 1.0]], np.float32)


@pytest.mark.parametrize("kind", ["bce", "ce"])
def test_the_loss_is_torchs_with_soft_labels(kind):
    torch = pytest.importorskip("torch")
    logits, soft = torch.tensor(LOGITS), torch.tensor(SOFT)
    if kind == "bce":
        expected = torch.nn.BCEWithLogitsLoss()(logits, soft)
    else:
        expected = torch.nn.CrossEntropyLoss()(logits, soft / soft.sum(1, keepdim=True))
    task, seen = make_task(3, loss_kind=kind), []
    spectrograms = np.random.default_rng(0).standard_normal((2, 16, 8)).astype(np.float32)
    value, out = task.loss(network(LOGITS, seen), {}, {"spectrogram": spectrograms, "target": SOFT}, None)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    total, count = out["scalars"]["loss"]
    assert (float(total / count), out["batch_stats"]) == (pytest.approx(float(expected), rel=1e-6), {"new": 1.0})
    np.testing.assert_array_equal(seen[0], spectrograms.transpose(0, 2, 1)[..., None])


def test_the_accuracy_of_a_training_batch_is_that_of_hard_labels():
    batch = {"spectrogram": np.zeros((4, 16, 8), np.float32), "target": np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]}
    logits = np.array([[3, 0, 0], [0, 3, 0], [0, 3, 0], [0, 0, 3]], np.float32)

    def scalars(**options):
        return make_task(3, **options).loss(network(logits), {}, batch, None)[1]["scalars"]

    total, count = scalars()["accuracy"]
    assert float(total / count) == 75.0
    assert {*scalars(mixup=0.5)} == {*scalars(multilabel=True)} == {"loss"}


def test_totals_are_masked_and_ties_count_against_us():
    task = make_task(3)
    logits = np.array([[1, 0, 0], [0, 0, -1], [0, 2, 0], [np.nan] * 3, [9, 0, 0]], np.float32)
    batch = {"target": np.eye(3, dtype=np.float32)[[0, 0, 1, 0, 0]], "mask": np.array([1, 1, 1, 1, 0], np.float32)}
    totals = jax.jit(task.totals)({"logits": logits}, batch)
    assert (float(totals["hits"]), float(totals["count"])) == (2, 4)
    alone = {"target": np.ones((2, 1), np.float32), "mask": np.ones(2, np.float32)}
    totals = jax.jit(make_task(1).totals)({"logits": np.array([[0.0], [np.nan]], np.float32)}, alone)
    assert float(totals["hits"]) == 1


def test_outcomes_are_of_sounds_with_one_class():
    task = make_task(3)
    batch = {"target": np.eye(3, dtype=np.float32)[[2, 0]]}
    true, said = task.outcomes({"logits": np.array([[0, 1, 2], [0, 1, 2]])}, batch)
    assert (true.tolist(), said.tolist()) == ([2, 0], [2, 2])
    assert task.has_outcomes
    assert not make_task(3, multilabel=True).has_outcomes


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_names_of_the_metrics_are_known_before(multilabel):
    task = make_task(2, multilabel=multilabel)
    records = [{"id": i, "logits": [0.0, i], "classes": [i % 2]} for i in range(4)]
    assert tuple(task.metrics({"hits": 1.0, "loss": 2.0, "count": 4.0}, records)) == task.metric_names()


def test_ranking_metrics_are_scikit_learns_and_leave_out_absent_classes():
    rng = np.random.default_rng(0)
    scores, truth = rng.standard_normal((40, 5)), rng.random((40, 5)) < 0.3
    truth[:, 1], truth[:, 3] = False, True
    found = ranking_metrics(scores, truth)
    precisions = [average_precision_score(truth[:, k], scores[:, k]) for k in (0, 2, 3, 4)]
    areas = [roc_auc_score(truth[:, k], scores[:, k]) for k in (0, 2, 4)]
    assert found["mAP"] == pytest.approx(100 * np.mean(precisions), rel=1e-12)
    assert found["mAUC"] == pytest.approx(np.mean(areas), rel=1e-12)
    scipy = pytest.importorskip("scipy.stats")
    assert found["d_prime"] == pytest.approx(np.sqrt(2) * scipy.norm.ppf(np.mean(areas)), rel=1e-9)
    assert ranking_metrics(scores, np.zeros((40, 5), bool)) == {}
    perfect = ranking_metrics(truth.astype(float), truth)
    assert (perfect["mAP"], perfect["mAUC"]) == (100, 1)
    assert 7 < perfect["d_prime"] < 8
    assert ranking_metrics(np.full((40, 5), np.nan), truth) == {}


@pytest.mark.parametrize("multilabel", [False, True])
def test_metrics_of_a_whole_set(multilabel):
    task = make_task(3, multilabel=multilabel)
    logits = np.array([[2, 0, 1], [0, 1, 2], [3, 1, 0]], np.float32)
    targets = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]], np.float32)
    batch = {"target": targets, "mask": np.ones(3, np.float32)}
    totals = jax.device_get(jax.jit(task.totals)({"logits": logits}, batch))
    records = [
        task.record({"logits": logits[i]}, {"id": np.int32(i), "target": targets[i], "mask": 1}) for i in range(3)
    ]
    json.dumps(records)
    metrics = task.metrics(totals, records)
    assert next(iter(metrics)) == ("mAP" if multilabel else "accuracy")
    if not multilabel:
        assert metrics["accuracy"] == pytest.approx(200 / 3)
    assert metrics["mAP"] == pytest.approx(100 * np.mean([0.5, 0.5, 1]))  # class 1: two ties, one right
    with pytest.raises(ValueError, match="there is nothing to evaluate"):
        task.metrics({"count": 0}, [])


# A user's file.


def test_a_long_file_is_the_mean_of_its_windows(checkpoint, tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 3000) * np.linspace(0.01, 1, 3000)
    soundfile.write(tmp_path / "long.wav", sound, 16_000, subtype="FLOAT")
    task = dataclasses.replace(checkpoint.task, frames=12, mels=32, seconds=0.1, labels=tuple("abcde"))
    other = dataclasses.replace(checkpoint, task=task)
    examples = task.read(str(tmp_path / "long.wav"))
    assert [e["id"] for e in examples] == [str(tmp_path / "long.wav")] * 3  # 0..1600, 800..2400, 1400..3000
    wave = read_sound(tmp_path / "long.wav", 16_000)
    last = task._normalized(task._features(wave[1400:])).astype(np.float32)
    np.testing.assert_array_equal(examples[2]["spectrogram"], last)
    scores = 1 / (1 + np.exp(-logits_of(other, np.stack([e["spectrogram"] for e in examples])).astype(np.float64)))
    assert np.ptp(scores, axis=0).max() > 1e-3
    (prediction,) = predict_files(other, [str(tmp_path / "long.wav")])
    (record,) = prediction.records
    order = np.argsort(-scores.mean(axis=0))
    assert [row["label"] for row in record["predictions"]] == ["abcde"[k] for k in order]
    np.testing.assert_allclose(
        [row["score"] for row in record["predictions"]], np.sort(scores.mean(axis=0))[::-1], rtol=1e-5
    )
    picture = task.draw(prediction.examples, prediction.records)
    assert picture.size == (388, 260 + 4 * 21 + 6)
    assert np.asarray(picture)[:260].std() > 10


def test_scores_of_a_softmax_add_up_to_one():
    task, silence = make_task(3, loss_kind="ce"), {"spectrogram": np.zeros((1, 16, 16), np.float32)}
    pred = task.predict(lambda variables, image: jnp.asarray(LOGITS[:1]), {}, silence)
    record = task.record({name: value[0] for name, value in pred.items()}, {"id": "x"})
    expected = np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum()
    assert [row["label"] for row in record["predictions"]] == ["class 0", "class 2", "class 1"]
    np.testing.assert_allclose([row["score"] for row in record["predictions"]], np.sort(expected)[::-1], rtol=1e-6)


def test_a_preview_is_a_picture_with_low_tones_below():
    spectrogram = np.zeros((1, 16, 8), np.float32)
    spectrogram[:, :, 0] = 1.5
    picture = np.asarray(jax.jit(make_task().preview)({"spectrogram": spectrogram}, None))
    assert picture.shape == (1, 8, 16, 1)
    np.testing.assert_allclose(picture[0, -1], 1)
    np.testing.assert_allclose(picture[0, :-1], 0.5)


def test_nothing_of_the_trunk_is_lost():
    task = make_task(4)
    variables = jax.eval_shape(task.module().init, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    names = set(flax.traverse_util.flatten_dict(variables, sep="/"))
    assert {"params/head_norm/scale", "params/head/kernel", "params/backbone/stages_3_0/gamma"} <= names
    assert {name.split("/")[1] for name in names} == {"backbone", "head_norm", "head"}
