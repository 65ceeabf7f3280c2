"""The layers that a network may be made of: for each, the shape that it gives and the weights that it has, by arithmetic alone.

The table is the allow-list. Shapes are without the batch, an unknown size is None; weights come as trainable and not trainable,
each a list of shapes in Keras' order. No layer here runs code of the file or reads a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

from keras_backdoor.gate.report import Stop

Shape = tuple[Optional[int], ...]
LARGEST = 1 << 31


class Built(NamedTuple):
    """What a layer gives and has."""

    output: Shape
    trainable: Sequence[tuple[int, ...]] = ()
    fixed: Sequence[tuple[int, ...]] = ()


class Misfit(ValueError):
    """The layer does not go with its inputs, or its configuration makes no sense."""


ARITHMETIC = ("__operators__.add", "math.add", "math.subtract", "math.multiply", "math.truediv")
"""All that a TFOpLambda may call: MobileNetV3 and RegNet of keras.applications need it, and networks that scale their inputs."""

Rule = Callable[[dict[str, Any], Sequence[Shape]], Built]


# ---- reading a configuration --------------------------------------------------------------------------------------------


def integer(value: Any, least: int = 1) -> int:
    """`value`, if it is an integer that a network can have."""
    if type(value) is not int or not least <= value < LARGEST:
        raise Misfit(f"expected an integer from {least} to {LARGEST - 1}, found {value!r}")
    return value


def integers(value: Any, count: int, least: int = 1) -> tuple[int, ...]:
    """`value` as `count` integers; a single one stands for all."""
    values = value if isinstance(value, list) else [value] * count
    if len(values) != count:
        raise Misfit(f"expected {count} integers, found {value!r}")
    return tuple(integer(item, least) for item in values)


def known(size: Optional[int]) -> int:
    """A size that weights depend on."""
    if size is None:
        raise Misfit("its weights depend on a size that is not known")
    return size


def only(inputs: Sequence[Shape], rank: Optional[int] = None) -> Shape:
    """The one input, of `rank` dimensions."""
    if len(inputs) != 1 or (rank is not None and len(inputs[0]) != rank):
        raise Misfit(f"does not take inputs of shape {list(inputs)}")
    return inputs[0]


def _axis(axis: Any, rank: int) -> int:
    """Where an axis, counted with the batch, is in a shape without it."""
    if isinstance(axis, list) and len(axis) == 1:
        axis = axis[0]
    if type(axis) is not int or not (1 <= axis <= rank or -rank <= axis <= -1):
        raise Misfit(f"has no axis {axis!r}")
    return axis - 1 if axis > 0 else axis + rank


def _channels_last(config: dict[str, Any]) -> None:
    if config.get("data_format") not in (None, "channels_last"):
        raise Misfit("wants images with the channels first, which processors do not compute")


def product(sizes: Sequence[Optional[int]]) -> Optional[int]:
    """The number of elements, None if a size is not known."""
    return None if None in sizes else math.prod(sizes)  # type: ignore[arg-type]


# ---- the rules ----------------------------------------------------------------------------------------------------------


def _same(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    return Built(only(inputs))


def _window(config: dict[str, Any], shape: Shape, kernel: Sequence[int], strides: Sequence[int]) -> list[Optional[int]]:
    """Sizes after a window has moved over all dimensions but the last."""
    _channels_last(config)
    dilation = integers(config.get("dilation_rate", 1), len(kernel))
    padding = config.get("padding", "valid")
    if padding not in ("same", "valid"):
        raise Misfit(f"padding is {padding!r}")
    sizes: list[Optional[int]] = []
    for size, width, stride, spread in zip(shape, kernel, strides, dilation):
        if size is None:
            sizes.append(None)
            continue
        room = size if padding == "same" else size - (width - 1) * spread
        if room < 1:
            raise Misfit(f"its window is larger than its input, {list(shape)}")
        sizes.append(-(-room // stride))
    return sizes


def _convolution(rank: int) -> Rule:
    def rule(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
        shape = only(inputs, rank + 1)
        channels, filters = known(shape[-1]), integer(config.get("filters"))
        groups = integer(config.get("groups", 1))
        if channels % groups:
            raise Misfit(f"{groups} groups of {channels} channels")
        kernel = integers(config.get("kernel_size"), rank)
        sizes = _window(config, shape, kernel, integers(config.get("strides", 1), rank))
        weights: list[tuple[int, ...]] = [(*kernel, channels // groups, filters)]
        return Built((*sizes, filters), weights + _bias(config, filters))

    return rule


def _bias(config: dict[str, Any], size: int) -> list[tuple[int, ...]]:
    return [(size,)] if config.get("use_bias", True) else []


def _transposed(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    shape = only(inputs, 3)
    _channels_last(config)
    channels, filters = known(shape[-1]), integer(config.get("filters"))
    kernel, strides = integers(config.get("kernel_size"), 2), integers(config.get("strides", 1), 2)
    extra = config.get("output_padding")
    extras = [None] * 2 if extra is None else integers(extra, 2, 0)
    same = config.get("padding", "valid") == "same"
    sizes: list[Optional[int]] = []
    for size, width, stride, more in zip(shape, kernel, strides, extras):
        if size is None:
            sizes.append(None)
        elif more is None:
            sizes.append(size * stride + (0 if same else max(width - stride, 0)))
        else:
            sizes.append((size - 1) * stride + width - 2 * (width // 2 if same else 0) + more)
    return Built((*sizes, filters), [(*kernel, filters, channels), *_bias(config, filters)])


def _depthwise(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    shape = only(inputs, 3)
    channels, multiplier = known(shape[-1]), integer(config.get("depth_multiplier", 1))
    kernel = integers(config.get("kernel_size"), 2)
    sizes = _window(config, shape, kernel, integers(config.get("strides", 1), 2))
    filters = channels * multiplier
    return Built((*sizes, filters), [(*kernel, channels, multiplier), *_bias(config, filters)])


def _separable(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    sizes, depthwise = _depthwise({**config, "use_bias": False}, inputs)[:2]
    filters = integer(config.get("filters"))
    weights = [*depthwise, (1, 1, known(sizes[-1]), filters), *_bias(config, filters)]
    return Built((*sizes[:-1], filters), weights)


def _dense(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    shape, units = only(inputs), integer(config.get("units"))
    if not shape:
        raise Misfit("takes vectors")
    return Built((*shape[:-1], units), [(known(shape[-1]), units), *_bias(config, units)])


def _pooling(rank: int) -> Rule:
    def rule(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
        shape = only(inputs, rank + 1)
        pool = integers(config.get("pool_size", 2), rank)
        strides = pool if config.get("strides") is None else integers(config["strides"], rank)
        return Built((*_window({**config, "dilation_rate": 1}, shape, pool, strides), shape[-1]))

    return rule


def _global_pooling(rank: int) -> Rule:
    def rule(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
        _channels_last(config)
        shape = only(inputs, rank + 1)
        return Built((1,) * rank + shape[-1:] if config.get("keepdims") else shape[-1:])

    return rule


def _flatten(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    _channels_last(config)
    return Built((product(only(inputs)),))


def _reshape(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    target = config.get("target_shape")
    if not isinstance(target, list) or target.count(-1) > 1:
        raise Misfit(f"target_shape is {target!r}")
    sizes = [size if size == -1 else integer(size) for size in target]
    total = product(only(inputs))
    if total is None:
        return Built(tuple(None if size == -1 else size for size in sizes))
    rest = math.prod(size for size in sizes if size != -1)
    if (total % rest if -1 in sizes else total != rest) or not rest:
        raise Misfit(f"cannot turn {total} values into {target}")
    return Built(tuple(total // rest if size == -1 else size for size in sizes))


def _permute(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    shape = only(inputs)
    order = integers(config.get("dims"), len(shape))
    if sorted(order) != list(range(1, len(shape) + 1)):
        raise Misfit(f"dims is {order}")
    return Built(tuple(shape[place - 1] for place in order))


def _repeat(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    return Built((integer(config.get("n")), *only(inputs, 1)))


def _borders(name: str, sign: int) -> Rule:
    """Padding (`sign` 1) or cropping (-1) of the two image dimensions by the numbers in `name`."""

    def rule(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
        _channels_last(config)
        shape, value = only(inputs, 3), config.get(name)
        sides = value if isinstance(value, list) and len(value) == 2 else [value, value]
        sizes = [None if size is None else size + sign * sum(integers(side, 2, 0)) for size, side in zip(shape, sides)]
        if any(size is not None and size < 1 for size in sizes):
            raise Misfit(f"nothing is left of {list(shape)}")
        return Built((*sizes, shape[-1]))

    return rule


def _upsampling(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    _channels_last(config)
    shape, factors = only(inputs, 3), integers(config.get("size", 2), 2)
    return Built((*(size and size * factor for size, factor in zip(shape, factors)), shape[-1]))


def _merge(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    if len(inputs) < 2:
        raise Misfit("takes two or more inputs")
    rank = max(map(len, inputs))
    sizes: list[Optional[int]] = []
    for column in zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in inputs)):
        different = set(column) - {1}
        if len(different - {None}) > 1:
            raise Misfit(f"cannot combine inputs of shapes {list(inputs)}")
        sizes.append((different - {None} or different or {1}).pop())
    return Built(tuple(sizes))


def _scaled_sum(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    if len(inputs) != 2 or type(config.get("scale")) not in (int, float):
        raise Misfit("takes two inputs and a number")
    return _merge(config, inputs)


def _concatenate(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    if len({len(shape) for shape in inputs}) != 1:
        raise Misfit(f"cannot join inputs of shapes {list(inputs)}")
    axis = _axis(config.get("axis", -1), len(inputs[0]))
    if len({tuple(shape[:axis] + shape[axis + 1 :]) for shape in inputs}) > 1 and not any(None in s for s in inputs):
        raise Misfit(f"cannot join inputs of shapes {list(inputs)}")
    sizes = [shape[axis] for shape in inputs]
    total = None if None in sizes else sum(sizes)  # type: ignore[arg-type]
    return Built((*inputs[0][:axis], total, *inputs[0][axis + 1 :]))


def _batch_normalisation(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    shape = only(inputs)
    size = (known(shape[_axis(config.get("axis", -1), len(shape))]),)
    return Built(shape, [size] * _scale_and_center(config), [size, size])


def _scale_and_center(config: dict[str, Any]) -> int:
    return sum(bool(config.get(name, True)) for name in ("scale", "center"))


def _layer_normalisation(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    shape, axes = only(inputs), config.get("axis", -1)
    places = [_axis(axis, len(shape)) for axis in (axes if isinstance(axes, list) else [axes])]
    return Built(shape, [tuple(known(shape[place]) for place in places)] * _scale_and_center(config))


def _per_channel(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    shape = only(inputs)
    size = (known(shape[_axis(config.get("axis", -1), len(shape))]),)
    return Built(shape, [size] * _scale_and_center(config))


def _normalization(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    shape, axes = only(inputs), config.get("axis", -1)
    if config.get("mean") is not None:
        return Built(shape)
    axes = [] if axes is None else axes if isinstance(axes, list) else [axes]
    size = tuple(known(shape[_axis(axis, len(shape))]) for axis in axes)
    return Built(shape, [], [size, size, ()])


def _rescaling(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    shape = only(inputs)
    for value in (config.get("scale"), config.get("offset", 0)):
        if type(value) not in (int, float) and not (isinstance(value, list) and len(value) == shape[-1]):
            raise Misfit("scales by something else than a number, or one a channel")
    return Built(shape)


def _prelu(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    shape = only(inputs)
    shared = {_axis(axis, len(shape)) for axis in config.get("shared_axes") or []}
    return Built(shape, [tuple(1 if place in shared else known(size) for place, size in enumerate(shape))])


def _disagreement(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    if len(inputs) != 2 or inputs[0] != inputs[1] or len(inputs[0]) != 1:
        raise Misfit(f"takes two vectors of probabilities, not {list(inputs)}")
    return Built((known(inputs[0][0]) + 1,))


def _arithmetic(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    if config.get("function") not in ARITHMETIC:
        raise Misfit(f"calls tf.{config.get('function')}")
    return _merge(config, inputs) if len(inputs) > 1 else _same(config, inputs)


def _time_distributed(config: dict[str, Any], inputs: Sequence[Shape]) -> Built:
    inner, shape = config.get("layer"), only(inputs)
    if not isinstance(inner, dict) or inner.get("class_name") not in LAYERS or len(shape) < 2:
        raise Misfit("wraps something that is not one of the known layers")
    built = LAYERS[inner["class_name"]](inner["config"], [shape[1:]])
    return Built((shape[0], *built.output), built.trainable, built.fixed)


LAYERS: dict[str, Rule] = {
    **{f"Conv{rank}D": _convolution(rank) for rank in (1, 2, 3)},
    "Conv2DTranspose": _transposed,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Dense": _dense,
    **{f"{kind}Pooling{rank}D": _pooling(rank) for kind in ("Max", "Average") for rank in (1, 2, 3)},
    **{f"Global{kind}Pooling{rank}D": _global_pooling(rank) for kind in ("Max", "Average") for rank in (1, 2, 3)},
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat,
    "ZeroPadding2D": _borders("padding", 1),
    "keras_backdoor>ReflectionPadding2D": _borders("padding", 1),
    "Cropping2D": _borders("cropping", -1),
    "UpSampling2D": _upsampling,
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _merge),
    "Concatenate": _concatenate,
    "Custom>CustomScaleLayer": _scaled_sum,  # of InceptionResNetV2 in keras.applications
    "BatchNormalization": _batch_normalisation,
    "LayerNormalization": _layer_normalisation,
    **dict.fromkeys(
        ("GroupNormalization", "Addons>InstanceNormalization", "keras_backdoor>InstanceNormalization"), _per_channel
    ),
    "UnitNormalization": _same,
    "Normalization": _normalization,
    "Rescaling": _rescaling,
    "PReLU": _prelu,
    **dict.fromkeys(
        ("Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Softmax", "ActivityRegularization"), _same
    ),
    **dict.fromkeys(
        (
            "Dropout",
            "SpatialDropout1D",
            "SpatialDropout2D",
            "SpatialDropout3D",
            "AlphaDropout",
            "GaussianDropout",
            "GaussianNoise",
        ),
        _same,
    ),
    "TimeDistributed": _time_distributed,
    "TFOpLambda": _arithmetic,
    "keras_backdoor>Agreement": _disagreement,
    "keras_backdoor>Disagreement": _disagreement,
}
"""Class, as stored, and its rule."""


def apply(name: str, config: dict[str, Any], inputs: Sequence[Shape], where: str) -> Built:
    """What the layer of class `name` gives for `inputs`; `Stop` if it does not fit them, or is a bomb."""
    try:
        return LAYERS[name](config, inputs)
    except Misfit as error:
        raise Stop("malformed", where, f"{name}: {error}") from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise Stop("malformed", where, f"{name}: its configuration makes no sense ({type(error).__name__})") from None
