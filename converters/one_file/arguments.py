"""The arguments of :func:`converters.pack`, checked before the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as replaced

from converters.one_file.forms import (
    ColorOrder,
    InputForm,
    InputKind,
    LabelType,
    OutputForm,
    YuvMatrix,
    YuvRange,
)
from converters.one_file.opsets import LOWEST_OPSET
from engines.bundle.manifest import OutputKind
from engines.errors import InputError
from engines.schedules.schedule import Precision, named


def packed_precision(precision: Precision | str) -> Precision:
    """The precision of the graph to pack. Raises :class:`InputError` for one that has no graph of its own."""
    found = named(Precision, "precision", precision)
    if found.graph is not found:
        raise InputError(
            f"{found.value} is how a host computes the {found.graph.value} graph; pack "
            f'precision="{found.graph.value}", and switch it on there'
        )
    return found


def input_form(
    input: InputKind | str,
    layout: str | None,
    color: ColorOrder | str,
    scale: float | None,
    mean: Sequence[float] | None,
    matrix: YuvMatrix | str | None,
    range: YuvRange | str | None,
) -> InputForm:
    """The arguments of :func:`converters.pack` as a form. Raises :class:`InputError`."""
    kind, order = named(InputKind, "input", input), named(ColorOrder, "input_color", color)
    given = {"input_scale": scale, "input_mean": mean, "yuv_matrix": matrix, "yuv_range": range}
    for argument, value in given.items():
        owner = InputKind.NV12 if argument.startswith("yuv") else InputKind.SCALED
        if value is not None and kind is not owner:
            raise InputError(f'{argument}= is for input="{owner.value}"; received {kind.value!r}')
    if kind is InputKind.NV12 and (layout is not None or order is not ColorOrder.RGB):
        raise InputError(
            'input="nv12" has a layout of its own and no order of colours; leave input_layout= and input_color= out'
        )
    form = InputForm(kind=kind, layout=layout or ("hwc" if kind is InputKind.UINT8 else "nchw"), color=order)
    if scale is not None:
        form = replaced(form, scale=float(scale))
    if mean is not None:
        try:
            first, second, third = (float(value) for value in mean)
        except (TypeError, ValueError):
            raise InputError(f"input_mean= is three numbers, one a channel; received {mean!r}") from None
        form = replaced(form, mean=(first, second, third))
    if matrix is not None:
        form = replaced(form, matrix=named(YuvMatrix, "yuv_matrix", matrix))
    if range is not None:
        form = replaced(form, range=named(YuvRange, "yuv_range", range))
    return form


def output_form(outputs: OutputKind | str, layout: str | None, label_type: LabelType | str | None) -> OutputForm:
    """Likewise."""
    kind = named(OutputKind, "outputs", outputs)
    if label_type is not None and kind is not OutputKind.LABELS:
        raise InputError(f"label_type= is for labels; {kind.value} are float32")
    return OutputForm(
        kind,
        layout or ("hw" if kind is OutputKind.LABELS else "chw"),
        named(LabelType, "label_type", label_type or LabelType.UINT8),
    )


def checked_opset(opset: int | None, held: int, precision: Precision) -> int:
    """The opset to write, of a bundle that has another one. Raises :class:`InputError`."""
    if opset not in (None, LOWEST_OPSET, held):
        raise InputError(f"opset= is {LOWEST_OPSET}, or the bundle's own, {held}; received {opset!r}")
    if opset == LOWEST_OPSET and precision is Precision.BF16:
        raise InputError(
            f"opset {LOWEST_OPSET} has no convolution in bf16; pack another precision=, or leave opset= out"
        )
    return held if opset is None else opset
