from importlib import resources

import pytest

from unireplknet_jax.data.label_names import COLOUR_SETS, read_colours, read_labels


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


def test_coco_is_in_the_order_of_its_category_ids():
    labels = read_labels("coco")
    assert len(labels) == len(set(labels)) == 80
    known = {0: "person", 9: "traffic light", 11: "stop sign", 25: "umbrella", 62: "tv", 79: "toothbrush"}
    assert {i: labels[i] for i in known} == known


def test_ade20k_is_in_class_index_order_with_its_palette():
    labels, colours = read_labels("ade20k"), read_colours("ade20k")
    assert len(labels) == len(set(labels)) == len(colours) == 150
    known = {
        **{0: ("wall", (120, 120, 120)), 2: ("sky", (6, 230, 230)), 7: ("bed", (204, 5, 255))},
        **{12: ("person", (150, 5, 61)), 44: ("chest of drawers", (6, 51, 255)), 149: ("flag", (92, 0, 255))},
    }
    assert {i: (labels[i], colours[i]) for i in known} == known
    twice = {labels[i] for i in range(150) if colours.count(colours[i]) > 1}
    assert twice == {"road", "skyscraper"}
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_colours_are_told_apart_from_other_first_columns():
    assert COLOUR_SETS == ("ade20k",)
    with pytest.raises(ValueError, match="there are no colours for 'imagenet22k'; expected one of ade20k"):
        read_colours("imagenet22k")


@pytest.mark.parametrize(
    ("name", "origin", "licence"),
    [
        ("ade20k", "mmsegmentation", "Apache-2.0"),
        ("coco", "mmdetection", "Apache-2.0"),
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
    with pytest.raises(
        ValueError, match="'imagenet'; expected one of ade20k, coco, imagenet1k, imagenet22k, kinetics400"
    ):
        read_labels("imagenet")
