from importlib import resources

import pytest

from unireplknet_jax.data.label_names import read_labels


def lines(name):
    return resources.files("unireplknet_jax.data").joinpath("labels", f"{name}.txt").read_text("utf-8").splitlines()


def test_imagenet1k_is_in_class_index_order():
    labels = read_labels("imagenet1k")
    assert len(labels) == len(set(labels)) == 1000
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 817: "sports car", 999: "toilet tissue"}
    assert {i: labels[i] for i in known} == known


def test_imagenet22k_is_in_the_order_of_sorted_synset_folders():
    labels = read_labels("imagenet22k")
    synsets = [line.split("\t")[0] for line in lines("imagenet22k")[1:]]
    assert len(labels) == 21841
    assert synsets == sorted(set(synsets))
    assert labels[0] == "organism, being"
    assert labels[synsets.index("n01440764")] == "tench, Tinca tinca"
    assert not any("\t" in label or label.startswith("n0") for label in labels)


def test_kinetics400_is_in_alphabetical_order():
    labels = read_labels("kinetics400")
    assert len(labels) == len(set(labels)) == 400
    assert list(labels) == sorted(labels)
    assert (labels[0], labels[-1]) == ("abseiling", "zumba")


@pytest.mark.parametrize(
    ("name", "origin", "licence"),
    [
        ("imagenet1k", "torchvision 0.29.1", "BSD-3-Clause"),
        ("imagenet22k", "timm 1.0.31", "Apache-2.0"),
        ("kinetics400", "torchvision 0.29.1", "BSD-3-Clause"),
    ],
)
def test_the_first_line_states_source_and_licence(name, origin, licence):
    header = lines(name)[0]
    assert header.startswith("#")
    assert origin in header
    assert licence in header


def test_unknown_set_lists_the_known():
    with pytest.raises(ValueError, match="'imagenet'; expected one of imagenet1k, imagenet22k, kinetics400"):
        read_labels("imagenet")
