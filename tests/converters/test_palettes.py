"""Classes: published colours, files, and made-up ones."""

import os
from pathlib import Path

import pytest

from converters.palettes import VOC, classes_from_file, classes_from_names, default_classes
from engines.errors import InputError


def test_the_usual_datasets() -> None:
    (cityscapes, whose), (camvid, _) = default_classes(19, usual=True), default_classes(11, usual=True)
    assert whose == "the 19 channels are taken for those of Cityscapes"
    assert [record.name for record in cityscapes[:3]] == ["road", "sidewalk", "building"]
    assert cityscapes[6] == type(cityscapes[6])(name="traffic light", color=(250, 170, 30))
    assert (camvid[2].name, camvid[10].name) == ("pole", "bicyclist")


@pytest.mark.parametrize(("count", "usual"), [(11, False), (19, False), (2, True)])
def test_else_classes_are_numbered(count: int, usual: bool) -> None:
    classes, whose = default_classes(count, usual=usual)
    assert [record.name for record in classes] == [f"class {index}" for index in range(count)]
    assert whose == "they are numbered"


def test_made_up_colours_differ() -> None:
    colors = [record.color for record in default_classes(40, usual=True)[0]]
    assert len(set(colors)) == 40


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("# my classes\nroad 1 2 3\n\ntraffic light 250,170, 30\nclass of 1999\n")
    records = classes_from_file(path)
    assert [(record.name, record.color) for record in records[:2]] == [
        ("road", (1, 2, 3)),
        ("traffic light", (250, 170, 30)),
    ]
    assert records[2].name == "class of 1999"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"road 1 2 300", "line 1: a colour"),
        (b"\n", "names no class"),
        (b"\xff", "cannot"),
        (b"\xff\xfea", "cannot"),
        (
            b"road\n\x1b]0;x\x07pole 1 2 3",
            r"classes\.txt, line 2: a name has no control .*; received \\x1b\]0;x\\x07pole$",
        ),
        ("road\n\nsky\u202e".encode(), r"classes\.txt, line 3: a name has no .*; received sky\\u202e$"),
        (b"traffic\tlight 1 2 3", r"line 1: a name has no .*; received traffic\\tlight$"),
    ],
)
def test_bad_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        classes_from_file(path)
    with pytest.raises(InputError, match="cannot read"):
        classes_from_file(tmp_path / "absent.txt")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_of_byte_order_is_no_part_of_a_name(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("road 1 2 3\r\npôle 4 5 6\r\n".encode(encoding))
    assert [record.name for record in classes_from_file(path)] == ["road", "pôle"]


def test_the_palette_of_voc() -> None:
    """Against the colours that its development kit lists."""
    published = {"aeroplane": (128, 0, 0), "boat": (0, 0, 128), "cow": (64, 128, 0), "person": (192, 128, 128)}
    shown = dict(zip(VOC.names, VOC.colours, strict=True))
    assert {name: shown[name] for name in published} == published
    assert (shown["background"], shown["tv/monitor"], VOC.void) == ((0, 0, 0), (0, 64, 128), ((224, 224, 192),))


def test_a_class_file_is_a_small_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b"a\n" * (1 << 20))
    for name, said in {"pipe": "is a pipe", "zero": "is a device", "large": "is larger than 1 MiB"}.items():
        with pytest.raises(InputError, match=f"cannot read the class file .*{name} {said}"):
            classes_from_file(tmp_path / name)


def test_names_from_python_have_nothing_hidden_either() -> None:
    with pytest.raises(InputError, match=r"^class 1: a name has no .*; received po\\x9ble$"):
        classes_from_names(["road", "po\x9ble"])
