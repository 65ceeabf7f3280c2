"""The arithmetic of a whole network: shapes and weights of every layer, before anything is built."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple, Optional

from keras_backdoor.gate.layers import Built, Shape, apply, product
from keras_backdoor.gate.report import Stop

MOST_PARAMETERS = 200_000_000
MOST_VALUES = 100_000_000
"""Of one layer's output, for one image: 400 MB."""
MOST_ORTHOGONAL = 4_000_000
"""Numbers of which an orthogonal matrix is made in a second or so."""
MOST_CALLS = 4_000
MOST_REFERENCES = 20_000
"""Of layers, and to their inputs, counted where they are called; ResNetRS420, the longest of keras.applications, has 2,257."""
DEEPEST = 8

NETWORKS = ("Functional", "Model", "Sequential")

CALL_ARGUMENTS = ("training", "mask", "name")

Call = tuple[str, int]
"""Name of a layer, and the number of one of its calls."""

Source = tuple[str, int, int]
"""A call, and the number of one of its outputs."""

Weights = dict[str, list[tuple[int, ...]]]


class Layer(NamedTuple):
    """One layer of a network: its name, its class as stored, what it has, and its own layers if it is a network."""

    name: str
    kind: str
    built: Built
    layers: Sequence[Layer] = ()


class Network:
    """The arithmetic of one stored network; counts what it has done, so that no file can make it endless.

    Raises `Stop` for a network that cannot be, or would be too large.
    """

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.calls = self.references = 0
        kind, settings = config.get("class_name"), config.get("config")
        if kind not in NETWORKS:
            raise Stop("malformed", where, f"describes a {kind!r}, not a network")
        self.layers = self._network(str(kind), settings, None, where)[1]
        self.parameters = sum(map(math.prod, (w for layer in self.layers for w in weights_of(layer))))
        if self.parameters > MOST_PARAMETERS:
            raise Stop("bomb", where, f"has {self.parameters:,} parameters, more than {MOST_PARAMETERS:,}")

    def _network(
        self, kind: str, settings: Any, inputs: Optional[Sequence[Shape]], where: str, depth: int = 0
    ) -> tuple[list[Shape], list[Layer]]:
        """Output shapes, and layers, of a network; with the inputs that it declares itself if `inputs` is None."""
        if depth > DEEPEST:
            raise Stop("bomb", where, f"networks nested deeper than {DEEPEST}")
        sequential = kind == "Sequential"
        settings = {"layers": settings} if sequential and isinstance(settings, list) else settings
        entries = settings.get("layers") if isinstance(settings, dict) else None
        if not isinstance(entries, list) or not entries:
            raise Stop("malformed", where, "has no list of layers")
        if len(entries) > MOST_CALLS:
            raise Stop("bomb", where, f"has {len(entries):,} layers")
        for entry in entries:
            if not isinstance(entry, dict) or not isinstance(entry.get("config"), (dict, list)):
                raise Stop("malformed", where, "has a layer without a configuration")
            own = entry["config"].get("name") if isinstance(entry["config"], dict) else entry.get("name")
            if "name" in entry and (not isinstance(own, str) or entry["name"] != own):
                raise Stop("malformed", where, f"has a layer with two names or none, {entry['name']!r}")
        return (self._sequential if sequential else self._graph)(settings, inputs, where, depth)

    def _call(
        self, entry: dict[str, Any], inputs: Sequence[Shape], where: str, depth: int
    ) -> tuple[list[Shape], Layer]:
        """One call of one layer."""
        self.calls += 1
        self.references += len(inputs)
        if self.calls > MOST_CALLS or self.references > MOST_REFERENCES:
            raise Stop(
                "bomb", where, f"more than {MOST_CALLS:,} calls of layers, or {MOST_REFERENCES:,} inputs of them"
            )
        kind, config, name = entry.get("class_name"), entry["config"], layer_name(entry)
        where = f"{where}/{name}"
        if kind in NETWORKS:
            outputs, layers = self._network(str(kind), config, inputs, where, depth + 1)
            trainable = [shape for layer in layers for shape in layer.built.trainable]
            fixed = [shape for layer in layers for shape in layer.built.fixed]
            return outputs, Layer(name, str(kind), Built((), trainable, fixed), layers)
        built = apply(str(kind), config, inputs, where)
        if "rthogonal" in repr(config) and any(math.prod(shape) > MOST_ORTHOGONAL for shape in built.trainable):
            raise Stop("bomb", where, f"asks for an orthogonal initial value of more than {MOST_ORTHOGONAL:,} numbers")
        self._check_size(built.output, where)
        return [built.output], Layer(name, str(kind), built)

    def _check_size(self, shape: Shape, where: str) -> None:
        size = product(shape)
        if size is not None and size > MOST_VALUES:
            raise Stop("bomb", where, f"gives {size:,} values for one image, more than {MOST_VALUES:,}")

    def _sequential(
        self, settings: dict[str, Any], inputs: Optional[Sequence[Shape]], where: str, depth: int
    ) -> tuple[list[Shape], list[Layer]]:
        entries = settings["layers"]
        declared = _declared(entries[0]) or settings.get("build_input_shape")
        if inputs is None:
            if declared is None:
                raise Stop("malformed", where, "does not say what inputs it takes")
            inputs = [_shape(declared, where)]
        elif declared is not None and len(inputs) == 1:
            inputs = [_agreed(_shape(declared, where), inputs[0], where)]
        layers = []
        for entry in entries:
            if entry.get("class_name") == "InputLayer":
                continue
            inputs, layer = self._call(entry, inputs, where, depth)
            layers.append(layer)
        return list(inputs), layers

    def _graph(
        self, settings: dict[str, Any], inputs: Optional[Sequence[Shape]], where: str, depth: int
    ) -> tuple[list[Shape], list[Layer]]:
        entries = {layer_name(entry): entry for entry in settings["layers"]}
        if len(entries) != len(settings["layers"]):
            raise Stop("malformed", where, "two layers have the same name")
        needs = _calls(entries, where)
        ends = [_listed(settings.get(key)) for key in ("input_layers", "output_layers")]
        starts, finals = ([_reference(item, where) for item in _pairs(end)] for end in ends)
        if inputs is not None and len(inputs) != len(starts):
            raise Stop("malformed", where, f"takes {len(starts)} inputs and is given {len(inputs)}")
        results: dict[Call, list[Shape]] = {}
        for place, (name, _, _) in enumerate(starts):
            if name not in entries or entries[name].get("class_name") != "InputLayer":
                raise Stop("malformed", f"{where}/{name}", "is named as an input and is none")
            declared = _shape(_declared(entries[name]), f"{where}/{name}")
            results[name, 0] = [declared if inputs is None else _agreed(declared, inputs[place], where)]
        built: dict[str, Layer] = {}
        for call in _in_order(needs, where):
            if call in needs and call not in results:
                shapes = [_output(results, source, where) for source in needs[call]]
                results[call], built[call[0]] = self._call(entries[call[0]], shapes, where, depth)
        for name in entries.keys() - {name for name, _ in results}:
            raise Stop("malformed", f"{where}/{name}", "is not connected to the inputs")
        outputs = [_output(results, source, where) for source in finals]
        return outputs, [built[name] for name in entries if name in built]


def weights_of(layer: Layer) -> list[tuple[int, ...]]:
    """Shapes of all weights of a layer, in Keras' order."""
    return [*layer.built.trainable, *layer.built.fixed]


def stored_paths(layers: Sequence[Layer], prefix: str = "layers") -> Weights:
    """Where the format of Keras 2.12 and later keeps the weights of each layer: group, and shapes of `0`, `1`, … in it."""
    paths: Weights = {}
    for layer, name in zip(layers, store_names([layer.kind for layer in layers])):
        if layer.layers:
            paths.update(stored_paths(layer.layers, f"{prefix}/{name}/layers"))
        elif weights_of(layer):
            inner = "/layer" if layer.kind == "TimeDistributed" else ""
            paths[f"{prefix}/{name}{inner}/vars"] = weights_of(layer)
    return paths


def store_names(kinds: Sequence[str]) -> list[str]:
    """Names under which that format keeps layers of these classes: in snake case, numbered from the second on."""
    used: Counter[str] = Counter()
    names = []
    for kind in kinds:
        name = re.sub(r"\W+", "", "Functional" if kind == "Model" else kind.split(">")[-1])
        name = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()
        names.append(f"{name}_{used[name]}" if used[name] else name)
        used[name] += 1
    return names


def layer_name(entry: dict[str, Any]) -> str:
    """The name of a stored layer."""
    config = entry.get("config")
    name = entry.get("name") or (config.get("name") if isinstance(config, dict) else None)
    return str(name or entry.get("class_name"))


def _calls(entries: dict[str, dict[str, Any]], where: str) -> dict[Call, list[Source]]:
    """What each call of each layer takes."""
    needs: dict[Call, list[Source]] = {}
    for name, entry in entries.items():
        nodes = entry.get("inbound_nodes", [])
        if not isinstance(nodes, list):
            raise Stop("malformed", f"{where}/{name}", "its inputs are not a list")
        for index, node in enumerate(nodes, _first_call(entry)):
            needs[name, index] = _sources(node, entry, f"{where}/{name}")
    return needs


def _in_order(needs: dict[Call, list[Source]], where: str) -> list[Call]:
    """All calls, each after those whose outputs it takes, and after the one of the same layer before it."""
    graph = {call: {source[:2] for source in sources} for call, sources in needs.items()}
    for name, index in needs:
        if (name, index - 1) in needs:
            graph[name, index].add((name, index - 1))
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise Stop("bomb", f"{where}/{error.args[1][0][0]}", "waits for itself, for ever") from None


def _declared(entry: dict[str, Any]) -> Any:
    """The input shape, batch included, that a stored layer declares, or None."""
    config = entry["config"]
    if not isinstance(config, dict):
        return None
    if entry.get("class_name") in NETWORKS:
        inner = config.get("layers")
        first = inner[0] if isinstance(inner, list) and inner else None
        return _declared(first) if isinstance(first, dict) and "config" in first else None
    return config.get("batch_input_shape", config.get("batch_shape"))


def _first_call(entry: dict[str, Any]) -> int:
    """Networks that know their inputs count the call by which they were defined, others do not."""
    kind = entry.get("class_name")
    return int(kind in NETWORKS and (kind != "Sequential" or _declared(entry) is not None))


def _shape(value: Any, where: str) -> Shape:
    ok = isinstance(value, list) and 2 <= len(value) <= 6
    if not ok or not all(size is None or (type(size) is int and 0 < size < 1 << 20) for size in value[1:]):
        raise Stop("malformed", where, f"an input of shape {value!r}")
    return tuple(value[1:])


def _agreed(declared: Shape, given: Shape, where: str) -> Shape:
    """The shape of an inner network's input: as declared, and as given where the declaration leaves it open."""
    pairs = list(zip(declared, given))
    if len(declared) != len(given) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise Stop("malformed", where, f"takes inputs of shape {list(declared)} and is given {list(given)}")
    return tuple(given if own is None else own for own, given in pairs)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Stop("malformed", "", "inputs and outputs are not written as Keras 2 does (by name in lists)")
    return value


def _pairs(value: list[Any]) -> list[Any]:
    """One input alone is sometimes not put into a list of its own."""
    return [value] if value and isinstance(value[0], str) else value


def _sources(node: Any, entry: dict[str, Any], where: str) -> list[Source]:
    """What a layer is called on: `[[layer, call, output, arguments], …]`; the arguments change nothing, or are a number."""
    sources = []
    for item in _pairs(_listed(node)):
        sources.append(_reference(item, where))
        arguments = item[3] if len(item) == 4 else {}
        if not isinstance(arguments, dict):
            raise Stop("malformed", where, f"is called with {arguments!r}")
        for key, value in arguments.items():
            if entry.get("class_name") == "TFOpLambda" and key == "y":
                if isinstance(value, list):
                    sources.append(_reference(value, where))
                elif type(value) not in (int, float):
                    raise Stop("code", where, f"computes with {value!r} while the network is loaded")
            elif not (key in CALL_ARGUMENTS and (value is None or type(value) is bool)):
                raise Stop("code", where, f"is called with an argument of its own, {key}={value!r}")
    return sources


def _reference(item: Any, where: str) -> Source:
    """`[layer, call, output]`."""
    if isinstance(item, list) and len(item) in (3, 4) and isinstance(item[0], str):
        name, call, output = item[:3]
        if name == "_CONSTANT_VALUE":
            raise Stop("code", where, "computes with a constant while the network is loaded")
        if type(call) is int and type(output) is int and call >= 0 and output >= 0:
            return name, call, output
    raise Stop("malformed", where, f"refers to {item!r}, expected a layer's name and two numbers")


def _output(results: dict[Call, list[Shape]], source: Source, where: str) -> Shape:
    name, call, output = source
    shapes = results.get((name, call))
    if shapes is None or output >= len(shapes):
        raise Stop("malformed", where, f"refers to output {output} of call {call} of {name!r}, which does not exist")
    return shapes[output]
